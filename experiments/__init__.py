"""Experiments that measure the cluster: each module is a program (``python experiments/NAME.py --help``)."""
