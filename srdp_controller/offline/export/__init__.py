"""Teacher, students and calibration to a bundle of ONNX graphs (torch, onnx)."""
