"""What both sides of the made TensorRT share: loggers, memory, tensors and the GPU they are on."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import onnx
from surface import ENUMS, LISTED, SEVERITY, Gated, check

CUDA = ctypes.CDLL(os.environ["FAKE_CUDA"])
CUDA.fake_enqueue.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
_DTYPES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.BOOL: "BOOL",
}
PLUGINS: list[str] = []


def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
    check("init_libnvinfer_plugins", LISTED["functions"]["init_libnvinfer_plugins"], (logger, namespace), {})
    PLUGINS.append("ModulatedDeformConv2d")
    return True


class ILogger:
    Severity = SEVERITY

    def __init__(self) -> None:
        self._started = True


def log(logger: ILogger, severity: str, message: str) -> None:
    assert logger._started, "ILogger.__init__ was never called"
    logger.log(SEVERITY[severity], message)  # type: ignore[attr-defined]


def on_gpu(logger: ILogger) -> None:
    """As the libraries do when they start: nothing comes back where the thread has no device."""
    address = ctypes.c_uint64()
    if os.environ.get("FAKE_TENSORRT_FAILS") == "start" or CUDA.cuMemAlloc_v2(ctypes.byref(address), 8):
        log(logger, "ERROR", "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")
    CUDA.cuMemFree_v2(ctypes.c_uint64(address.value))


def sm() -> int:
    major, minor = ctypes.c_int(), ctypes.c_int()
    CUDA.cuDeviceGetAttribute(ctypes.byref(major), 75, 7)
    CUDA.cuDeviceGetAttribute(ctypes.byref(minor), 76, 7)
    return 10 * major.value + minor.value


class IHostMemory(bytearray):
    """Its memory is all there is to it, and how much that is."""

    def __getattribute__(self, name: str) -> Any:
        if name == "nbytes":
            return len(self)
        if not name.startswith("_"):
            raise AttributeError(name)
        return object.__getattribute__(self, name)


def _element_type(kind: int) -> str:
    """The parser casts down what the version has no type for."""
    name = _DTYPES[kind]
    return name if name in ENUMS["DataType"].__members__ else {"INT64": "INT32"}[name]


class ITensor(Gated):
    def _start(self, info: onnx.ValueInfoProto) -> None:
        kind = info.type.tensor_type
        self._shape = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
        self._values.update(name=info.name, dtype=ENUMS["DataType"][_element_type(kind.elem_type)])
