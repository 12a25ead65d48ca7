"""Readers of demonstrations that were recorded elsewhere: one file a format."""
