"""The lab: real machines in small, each with its own systemd, sshd, address and disk, all on this one."""
