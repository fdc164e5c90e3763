"""The SDKs as they are, without superlower's care: what they refuse, and what they compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from superlower.backends.openvino_deform import shared_core
from superlower.backends.tensorrt.layers import EngineLayers, read_layers
from superlower.backends.tensorrt.network import Sdk
from superlower.ir import serialize
from support.scenarios.base import feeds

Array = np.ndarray[Any, Any]


def ort(model: ir.Model) -> Any:
    """A session, or ONNX Runtime's own exception."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])


def ort_outputs(model: ir.Model, given: dict[str, Array] | None = None) -> list[Array]:
    """What ONNX Runtime computes."""
    outputs: list[Array] = ort(model).run(None, feeds(model) if given is None else given)
    return outputs


def exact_outputs(model: ir.Model, given: dict[str, Array]) -> list[Array]:
    """What the graph says, rounded where it says so: ONNX Runtime computes fp16 in fp32 on a CPU."""
    from onnx.reference import ReferenceEvaluator

    outputs: list[Array] = ReferenceEvaluator(onnx.load_from_string(serialize(model))).run(None, given)
    return outputs


def refused_by_ort(model: ir.Model) -> None:
    """Fails unless ONNX Runtime makes no session of the model."""
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        ort(model)


def openvino_compiled(model: ir.Model, **config: str) -> Any:
    """The model compiled for the CPU with a thread."""
    core = shared_core()
    return core.compile_model(
        core.read_model(serialize(model)), "CPU", {"INFERENCE_NUM_THREADS": 1, **config}
    )


def openvino_outputs(model: ir.Model, given: dict[str, Array]) -> list[Array]:
    """What OpenVINO computes in fp32."""
    results = openvino_compiled(model, INFERENCE_PRECISION_HINT="f32")(given)
    return [np.array(results[i]) for i in range(len(results))]


def openvino_types(model: ir.Model, **config: str) -> set[str]:
    """Element types in which the plug-in runs the model's convolutions."""
    runs = openvino_compiled(model, **config).get_runtime_model()
    return {
        op.get_rt_info()["runtimePrecision"].value
        for op in runs.get_ops()
        if op.get_rt_info()["layerType"].value == "Convolution"
    }


def wrong_in_openvino(model: ir.Model) -> None:
    """Fails unless OpenVINO computes something else than ONNX Runtime, by far."""
    given = feeds(model)
    ours, theirs = ort_outputs(model, given)[0], openvino_outputs(model, given)[0]
    assert ours.shape != theirs.shape or np.abs(ours - theirs).max() > 0.01


def refused_by_openvino(model: ir.Model) -> None:
    """Fails unless OpenVINO can't read the model."""
    import openvino

    with pytest.raises(RuntimeError, match="No conversion rule"):
        openvino.Core().read_model(serialize(model))


@cache
def rtx() -> Sdk:
    """TensorRT-RTX, one a process."""
    return Sdk("tensorrt_rtx", echo=False)


def rtx_parses(content: bytes) -> bool:
    """Whether the parser takes the bytes."""
    rtx().clear()
    return not rtx().parse(content)[1]


def rtx_built(model: ir.Model, *architectures: int) -> EngineLayers | None:
    """The fused layers of a plan for all the architectures; None if none is built."""
    sdk = rtx()
    sdk.clear()
    network, refusals = sdk.parse(serialize(model))
    assert not refusals
    config = sdk.builder.create_builder_config()
    config.num_compute_capabilities = len(architectures)
    for index, sm in enumerate(architectures):
        assert config.set_compute_capability(getattr(sdk.module.ComputeCapability, f"SM{sm}"), index)
    config.profiling_verbosity = sdk.module.ProfilingVerbosity.DETAILED
    if sdk.builder.build_serialized_network(network, config) is None:
        return None
    return read_layers("\n".join(sdk.messages))


def refused_by_rtx(model: ir.Model) -> None:
    """Fails unless TensorRT-RTX's parser refuses the model."""
    assert not rtx_parses(serialize(model))


def not_built_for(sm: int) -> Callable[[ir.Model], None]:
    """Fails unless the model is parsed, and not built for the architecture."""

    def check(model: ir.Model) -> None:
        assert rtx_built(model, sm) is None

    return check


def tvm_imported(model: ir.Model) -> Any:
    """TVM's module of the model."""
    from tvm.relax.frontend.onnx import from_onnx

    return from_onnx(onnx.load_from_string(serialize(model)), sanitize_input_names=False)


def tvm_outputs(model: ir.Model, given: dict[str, Array] | None = None) -> list[Array]:
    """What TVM computes on one thread, unscheduled."""
    import tvm
    from tvm import relax

    module = relax.transform.DecomposeOpsForInference()(tvm_imported(model))
    machine = relax.VirtualMachine(tvm.compile(module, tvm.target.Target({"kind": "llvm"})), tvm.cpu())
    arrays = [tvm.runtime.tensor(a) for a in (feeds(model) if given is None else given).values()]
    result = machine["main"](*arrays)
    return [
        r.numpy()
        for r in (result if hasattr(result, "__len__") and not hasattr(result, "numpy") else [result])
    ]


def wrong_in_tvm(model: ir.Model) -> None:
    """Fails unless TVM builds the model and computes something else than ONNX Runtime, by far."""
    ours, theirs = ort_outputs(model)[0], tvm_outputs(model)[0]
    # Right results differ by roundings, 2^-24 of values of about 1; these differ by a sizeable part of them.
    assert ours.shape != theirs.shape or np.abs(ours - theirs).max() > 0.01


def refused_by_tvm(model: ir.Model) -> None:
    """Fails unless TVM's importer refuses the model."""
    with pytest.raises(Exception):  # noqa: B017, PT011 - every operator fails in its own way
        tvm_outputs(model)
