"""Divergences, bounds and conformal calibration (numpy, scipy)."""
