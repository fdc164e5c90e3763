"""Running probes for the tests: one model, one set of inputs, ONNX Runtime's CPU kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from superlower.ir import serialize
from superlower.probes.case import Array, Case

SEED = 20


def feeds_of(case: Case) -> dict[str, Array]:
    """A case's inputs, the same in every test."""
    return case.feeds(np.random.default_rng(SEED))


@dataclass(frozen=True)
class Ran:
    """What came of a run: outputs, or why there are none."""

    outputs: dict[str, Array]
    refusal: str = ""


def run(model: ir.Model, feeds: Mapping[str, Array]) -> Ran:
    """The model in ONNX Runtime on one thread, without graph optimisations: the operator's own kernel."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(serialize(model), options, ["CPUExecutionProvider"])
        names = [port.name for port in session.get_outputs()]
        values = session.run_with_ort_values(names, {name: _given(array) for name, array in feeds.items()})
    except Exception as error:
        return Ran({}, str(error).splitlines()[0])
    return Ran({name: _taken(value) for name, value in zip(names, values, strict=True)})


def _given(array: Array):  # type: ignore[no-untyped-def]
    import onnxruntime

    if array.dtype != ml_dtypes.bfloat16:
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
    bits = np.ascontiguousarray(array).view(np.uint16)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, onnx.TensorProto.BFLOAT16)


def _taken(value) -> Array:  # type: ignore[no-untyped-def]
    # `numpy()` knows no bfloat16: read the bits where they lie.
    if value.data_type() != "tensor(bfloat16)":
        return np.asarray(value.numpy())
    shape = tuple(value.shape())
    bits = (ctypes.c_uint16 * int(np.prod(shape))).from_address(value.data_ptr())
    return np.frombuffer(bits, np.uint16).copy().view(ml_dtypes.bfloat16).reshape(shape)
