"""The controller's preparations for a deployment: certificates and the archive of wheels."""
