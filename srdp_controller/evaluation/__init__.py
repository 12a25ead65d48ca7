"""Closed loop and fidelity of policies and of the baselines beside them."""
