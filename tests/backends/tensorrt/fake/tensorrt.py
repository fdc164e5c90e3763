"""TensorRT's bindings as one version has them, over ONNX Runtime and a CUDA driver in host memory.

Environment: FAKE_TENSORRT, a file of `bindings`; FAKE_CUDA, the driver; FAKE_TENSORRT_FAILS, "start" or
"build". Plans are JSON that holds the ONNX model and what the builder was told, so that tests can read both.
"""

from __future__ import annotations

from builder_side import Builder, IGridSampleLayer, OnnxParser
from common import ILogger, init_libnvinfer_plugins
from runtime_side import Runtime
from surface import ENUMS, VERSION

__version__ = VERSION
__all__ = ["Builder", "IGridSampleLayer", "ILogger", "OnnxParser", "Runtime", "init_libnvinfer_plugins"]
globals().update(ENUMS)
