"""Bundles and inference engines: run-time half (no torch) and export (torch)."""
