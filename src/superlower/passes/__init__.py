"""Rewrites of ONNX graphs, one named rewrite a file."""
