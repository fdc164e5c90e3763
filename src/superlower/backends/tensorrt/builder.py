"""The child side of a build: one ONNX graph in, a plan and its fused layers out.

One build is one process: plans built later in a process differ from those of a fresh one (TensorRT-RTX
1.7.1.116), and builders abort. Knows no product: the request names the SDK module.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from superlower import ir
from superlower.backends.tensorrt.layers import read_layers
from superlower.backends.tensorrt.network import Refusal, Sdk, misread, process_sdk, samplers
from superlower.backends.tensorrt.probes import JOURNAL, refused_nodes
from superlower.errors import BuildFailedError, UnsupportedOperatorError

MODEL = "model.onnx"
PLAN = "engine.plan"
LAYERS = "layers.json"

_SHOWN = 8


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to build.

    Attributes:
        sdk: module to import.
        title: the SDK's name in messages.
        capability: member of the SDK's ComputeCapability; "" where the SDK builds for the GPU it finds.
        tf32: let float32 convolutions and products round their operands to TF32's 10 bits.
        memory_bytes: workspace limit; 0 for the SDK's default.
    """

    sdk: str
    title: str
    capability: str = ""
    tf32: bool = False
    memory_bytes: int = 0


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
    return config


def _write(path: Path, content: bytes | memoryview) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def build(fields: dict[str, object], workdir: Path) -> dict[str, object]:
    """Build `workdir/model.onnx` into `workdir/engine.plan` and `layers.json`; returns facts on them.

    Raises:
        BadInputError: the file is no valid ONNX model.
        UnsupportedOperatorError: the parser refuses nodes, or reads one as something else; all are named.
        BuildFailedError: the SDK gave no plan.
    """
    request = msgspec.convert(fields, Request)
    model = ir.load(workdir / MODEL)
    sdk = process_sdk(request.sdk)
    sdk.clear()
    network, refusals = sdk.parse((workdir / MODEL).read_bytes())
    if refusals:
        raise refusal_error(request.title, refused_nodes(sdk, model, workdir / JOURNAL) or refusals)
    read = samplers(sdk, network)
    if wrong := misread(list(model.graph), read):
        raise refusal_error(request.title, wrong)
    config = configure(sdk, request)
    sdk.clear()
    plan = sdk.builder.build_serialized_network(network, config)
    if plan is None:
        hint = ""
        if request.memory_bytes and "workspace" in sdk.first_error():
            hint = f" (the workspace was limited to {request.memory_bytes} bytes: raise it)"
        raise BuildFailedError(f"{request.title} built no engine: {sdk.first_error()[:400]}{hint}")
    layers = read_layers("\n".join(sdk.messages), read)
    _write(workdir / PLAN, memoryview(plan))
    _write(workdir / LAYERS, msgspec.json.format(msgspec.json.encode(layers), indent=1))
    return {**layers.facts(), "plan_bytes": plan.nbytes, "sdk_version": str(sdk.module.__version__)}
