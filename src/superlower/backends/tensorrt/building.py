"""From a graph to a plan on disk: what TensorRT's products share on the parent's side of a build."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec
import onnx_ir as ir

from superlower.backends.base import Artifact, Backend, BuildOptions
from superlower.backends.process import LOG, build_in_subprocess
from superlower.backends.tensorrt import builder, probes
from superlower.ir import save
from superlower.passes.base import Pass
from superlower.targets.base import Precision, Target

_BF16_CONVOLUTIONS = 22
"""First opset whose Conv takes BF16."""


def legal_passes(name: str, target: Target, precision: Precision) -> tuple[Pass, ...]:
    """Passes before a build: warps as the parser reads them; for FP16 and BF16 the graph's types."""
    from superlower.backends import select_lowering
    from superlower.passes.convert_opset import ConvertOpset
    from superlower.passes.convert_precision import ConvertPrecision

    typing = (ConvertPrecision(precision),) if precision in (Precision.FP16, Precision.BF16) else ()
    passes = select_lowering.legal_passes(name, target, precision, typing)
    return (ConvertOpset(_BF16_CONVOLUTIONS), *passes) if precision is Precision.BF16 else passes


def build_plan(
    backend: Backend,
    named: ir.Model,
    target: Target,
    options: BuildOptions,
    request: builder.Request,
    workdir: Path,
    *,
    facts: Mapping[str, str | int],
    settings: Mapping[str, str],
) -> Artifact:
    """Build in a process of its own; leaves engine.plan, layers.json and build.log in `workdir`.

    Args:
        named: checked and legalized, with every node named.
        facts: known of the engine beforehand; those that the build finds are added.
        settings: that `load` must repeat.

    Raises:
        UnsupportedOperatorError: nodes the parser refuses or misreads; they are named.
        BuildFailedError: the SDK built nothing, crashed or ran past the time limit.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    save(named, workdir / builder.MODEL)
    began = time.monotonic()
    try:
        found = build_in_subprocess(
            f"{builder.__name__}:build",
            cast(dict[str, object], msgspec.to_builtins(request)),
            workdir,
            backend=backend.name,
            timeout_s=options.timeout_s,
        )
    finally:
        for left in (builder.MODEL, probes.JOURNAL):
            (workdir / left).unlink(missing_ok=True)
    return Artifact(
        backend=backend.name,
        target=target.name,
        precision=options.precision,
        files={"engine": builder.PLAN, "layers": builder.LAYERS, "log": LOG},
        sdk=backend.versions(),
        threads=options.threads,
        mode=options.mode,
        stateful=options.stateful,
        build_s=time.monotonic() - began,
        facts={**facts, **msgspec.convert(found, dict[str, str | int])},
        settings=dict(settings),
    )
