"""The child side of a build: one ONNX graph in, a plan and its fused layers out.

One build is one process: plans built later in a process differ from those of a fresh one (TensorRT-RTX
1.7.1.116), and builders abort. Knows no product: the request names the SDK module.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir

from superlower import ir
from superlower.backends.tensorrt.cuda import Device, on_device
from superlower.backends.tensorrt.inspector import read_inspector
from superlower.backends.tensorrt.layers import EngineLayers, read_layers
from superlower.backends.tensorrt.network import Refusal, Sdk, misread, pin_types, process_sdk, samplers
from superlower.backends.tensorrt.probes import JOURNAL, refused_nodes
from superlower.backends.tensorrt.timing import TimingCache, timing_file
from superlower.errors import BuildFailedError, UnsupportedOperatorError
from superlower.folders import replacing_file
from superlower.targets.base import Precision

MODEL = "model.onnx"
PLAN = "engine.plan"
LAYERS = "layers.json"

_SHOWN = 8
_ALLOWING = {Precision.FP16: ("FP16",), Precision.INT8: ("INT8",)}
"""Flags that let a network that isn't strongly typed compute in a precision."""

Shape = tuple[int, ...]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to build.

    Attributes:
        sdk: module to import.
        title: the SDK's name in messages.
        capability: member of the SDK's ComputeCapability; "" where the SDK builds for the GPU it finds.
        device: number of the GPU to build on; None for an SDK that needs none.
        precision: of the graph, for SDKs whose networks aren't strongly typed.
        tf32: let float32 convolutions and products round their operands to TF32's 10 bits.
        memory_bytes: workspace limit; 0 for the SDK's default.
        hardware: member of the SDK's HardwareCompatibilityLevel; "" for none.
        version_compatible: build for later versions of the SDK too.
        optimization_level: 0 to 5; None for the SDK's default.
        profile: input -> least, usual and largest shape, for inputs of symbolic size.
    """

    sdk: str
    title: str
    capability: str = ""
    device: int | None = None
    precision: Precision = Precision.FP32
    tf32: bool = False
    memory_bytes: int = 0
    hardware: str = ""
    version_compatible: bool = False
    optimization_level: int | None = None
    profile: dict[str, tuple[Shape, Shape, Shape]] = {}


def refusal_error(title: str, refusals: Sequence[Refusal]) -> UnsupportedOperatorError:
    """One line naming every refused node, up to a few."""
    told = [
        f"{r.op or 'the model'}{f' at node {r.node}' if r.node else ''} ({r.reason})"
        for r in refusals[:_SHOWN]
    ]
    rest = f" and {len(refusals) - _SHOWN} more" if len(refusals) > _SHOWN else ""
    return UnsupportedOperatorError(
        f"{title} refuses {len(refusals)} node(s): {'; '.join(told)}{rest}; "
        "rewrite them, or see `superlower coverage` for backends that take them"
    )


def configure(sdk: Sdk, request: Request) -> Any:
    """A builder configuration for one architecture, with everything told about the layers.

    Raises:
        BuildFailedError: the SDK does not build for the architecture.
    """
    module, config = sdk.module, sdk.builder.create_builder_config()
    if request.capability:
        capability = getattr(module.ComputeCapability, request.capability, None)
        config.num_compute_capabilities = 1
        if capability is None or not config.set_compute_capability(capability, 0):
            raise BuildFailedError(
                f"{request.title} {module.__version__} does not build for {request.capability}: "
                "choose another target"
            )
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if not request.tf32:
        config.clear_flag(module.BuilderFlag.TF32)
    if request.memory_bytes:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, request.memory_bytes)
    if request.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if request.optimization_level is not None:
        config.builder_optimization_level = request.optimization_level
    if request.hardware:
        level = getattr(module.HardwareCompatibilityLevel, request.hardware, None)
        if level is None:
            raise BuildFailedError(
                f"{request.title} {module.__version__} has no hardware compatibility level "
                f"{request.hardware.lower()}: update it or leave the setting out"
            )
        config.hardware_compatibility_level = level
    if not sdk.strongly_typed:
        for flag in (*_ALLOWING.get(request.precision, ()), "OBEY_PRECISION_CONSTRAINTS"):
            config.set_flag(getattr(module.BuilderFlag, flag))
    if request.profile:
        profile = sdk.builder.create_optimization_profile()
        for name, (least, usual, most) in request.profile.items():
            profile.set_shape(name, least, usual, most)
        if config.add_optimization_profile(profile) < 0:
            raise BuildFailedError(f"{request.title} takes no such profile: {sdk.first_error()[:300]}")
    return config


def _write(path: Path, content: bytes | memoryview) -> None:
    with replacing_file(path) as aside:
        aside.write_bytes(content)


def build(fields: dict[str, object], workdir: Path) -> dict[str, object]:
    """Build `workdir/model.onnx` into `workdir/engine.plan` and `layers.json`; returns facts on them.

    Raises:
        BadInputError: the file is no valid ONNX model.
        UnsupportedOperatorError: the parser refuses nodes, or reads one as something else; all are named.
        BuildFailedError: the SDK gave no plan.
    """
    request = msgspec.convert(fields, Request)
    with on_device(request.device) as device:
        return _build(request, workdir, device)


def _build(request: Request, workdir: Path, device: Device | None) -> dict[str, object]:
    model = ir.load(workdir / MODEL)
    sdk = process_sdk(request.sdk)
    if not sdk.strongly_typed and request.precision is Precision.MIXED:
        raise BuildFailedError(
            f"{request.title} {sdk.module.__version__} takes no types from the graph: install 10 or later"
        )
    sdk.clear()
    if device is not None:
        sdk.register_plugins()
    native_norms = request.version_compatible and not sdk.strongly_typed
    content = (workdir / MODEL).read_bytes()
    network, refusals = sdk.parse(content, list(model.graph), native_norms=native_norms)
    if refusals:
        raise refusal_error(request.title, refused_nodes(sdk, model, workdir / JOURNAL) or refusals)
    read = samplers(sdk, network)
    if wrong := misread(list(model.graph), read):
        raise refusal_error(request.title, wrong)
    if not sdk.strongly_typed and request.precision is Precision.FP16:
        pin_types(sdk, network, _types(model))
    config = configure(sdk, request)
    timing = TimingCache(config, timing_file(device, sdk.module.__version__)) if device else None
    sdk.clear()
    plan = sdk.builder.build_serialized_network(network, config)
    if plan is None:
        hint = ""
        if request.memory_bytes and "workspace" in sdk.first_error():
            hint = f" (the workspace was limited to {request.memory_bytes} bytes: raise it)"
        raise BuildFailedError(f"{request.title} built no engine: {sdk.first_error()[:400]}{hint}")
    if timing is not None:
        timing.keep()
    layers = read_layers("\n".join(sdk.messages), read)
    if device is not None:
        layers = _inspected(sdk, request, plan, layers)
    _write(workdir / PLAN, memoryview(plan))
    _write(workdir / LAYERS, msgspec.json.format(msgspec.json.encode(layers), indent=1))
    facts = {**layers.facts(), "plan_bytes": plan.nbytes, "sdk_version": str(sdk.module.__version__)}
    return facts if device is None else {**facts, "gpu": device.name, "sm": device.sm}


def _types(model: onnx_ir.Model) -> dict[str, onnx_ir.DataType]:
    outputs = (value for node in ir.infer_shapes(model).graph for value in node.outputs)
    return {value.name: value.dtype for value in outputs if value.name and value.dtype is not None}


def _inspected(sdk: Sdk, request: Request, plan: Any, logged: EngineLayers) -> EngineLayers:
    """The engine's layers as its inspector has them, with the log's memory totals where it had any."""
    # An engine for other versions holds code to run them with, which is run only on demand.
    sdk.runtime.engine_host_code_allowed = request.version_compatible
    engine = sdk.runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildFailedError(f"{request.title} can't read its own engine: {sdk.first_error()[:400]}")
    inspector = engine.create_engine_inspector()
    information = inspector.get_engine_information(sdk.module.LayerInformationFormat.JSON)
    # The shorter name's size is of 32 bits, and is gone in TensorRT 11.
    long = hasattr(engine, "device_memory_size_v2")
    memory = engine.device_memory_size_v2 if long else engine.device_memory_size
    return read_inspector(
        information,
        logged.samplers,
        activation_bytes=logged.activation_bytes or int(memory),
        weights_bytes=logged.weights_bytes,
    )
