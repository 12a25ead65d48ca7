"""Latency, loop, swap, soak, faults, deployment: what is measured, and what it is compared with."""
