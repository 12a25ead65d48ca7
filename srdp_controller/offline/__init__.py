"""Strictly offline learning: collection, training, distillation, calibration, pipeline (torch)."""
