"""From what the user has to a temporal model: a named architecture, a torch module, ONNX files."""
