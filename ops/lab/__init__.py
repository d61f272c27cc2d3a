"""The lab: VMs on this machine, each with its own systemd, sshd, address and disk."""
