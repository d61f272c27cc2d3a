"""What the controller makes before a deployment: certificates and the archive of wheels."""
