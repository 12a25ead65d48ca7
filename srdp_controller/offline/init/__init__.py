"""``srdp init``: a first spec and recipe out of what somebody has."""
