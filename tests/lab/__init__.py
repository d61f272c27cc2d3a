"""Tests on the lab's VMs: root, systemd-nspawn and some minutes; run by `make test-lab` only."""
