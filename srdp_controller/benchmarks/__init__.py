"""Latency, loop, swap, soak, faults, deployment: what is measured, and the loops and engines that it is compared with."""
