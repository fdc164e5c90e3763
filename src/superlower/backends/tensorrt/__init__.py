"""TensorRT and TensorRT-RTX, which share a parser, a builder and a log."""
