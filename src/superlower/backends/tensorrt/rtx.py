"""TensorRT for RTX: engines for GeForce RTX 20 to 50, built without a GPU.

Plans are built for every architecture, and their layers read from the log. Loading is exercised up to the
driver: deserializing a plan, its execution contexts and what they compute were never run, for want of a GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from superlower.backends import limits, probe, tables
from superlower.backends.base import Artifact, BuildOptions, NodeSupport, Support
from superlower.backends.sdk import (
    absent,
    require,
    require_own,
    require_served,
    require_states,
    unserved,
    version,
)
from superlower.backends.tensorrt import builder, probes
from superlower.backends.tensorrt.building import build_plan, legal_passes
from superlower.backends.tensorrt.cuda import Context, Driver
from superlower.backends.tensorrt.loading import open_session, plan_file, runtime_sdk
from superlower.backends.tensorrt.network import name_nodes
from superlower.backends.tensorrt.rtx_rules import ARCHITECTURES, BUILD_ONLY
from superlower.backends.tensorrt.rtx_runtime import RtxContexts, kernel_cache
from superlower.backends.tensorrt.session import EngineSession
from superlower.errors import BadInputError, MissingSdkError, unknown_name
from superlower.ir import clone, infer_shapes, io_shapes
from superlower.passes.base import Pass
from superlower.targets.base import Precision, Target

SDK = "tensorrt_rtx"

_SETTINGS: Mapping[str, frozenset[str]] = {
    "tf32": frozenset({"on", "off"}),
    "int8_as_float": frozenset({"allow", "refuse"}),
    "cuda_graph": frozenset({"on", "off"}),
    "lanes": frozenset("12345678"),
}
_AT_LOAD = ("cuda_graph", "lanes")


class TensorRtRtx:
    """NVIDIA's compiler for RTX cards: plans for SM75 to SM121, kernels compiled on the card at load.

    `settings`:
        tf32: "on" lets float32 convolutions round their operands to TF32 (10 bits); default "off".
        int8_as_float: "allow" builds quantized graphs for Turing, where they run as FP32; default "refuse".
        cuda_graph: "on" captures the engine as one CUDA graph at load; default "off".
        lanes: calls in flight; default 2 in throughput mode, else 1.
    """

    name: ClassVar[str] = "tensorrt-rtx"
    title: ClassVar[str] = "TensorRT for RTX"
    keeps_states: ClassVar[bool] = True

    def missing(self) -> str | None:
        """Why it can't build here, with the install command; None if it can."""
        return absent(SDK, "superlower[tensorrt-rtx]")

    def versions(self) -> dict[str, str]:
        """Version of TensorRT-RTX, from whichever of its distributions is installed."""
        if self.missing() is not None:
            return {}
        return {"tensorrt-rtx": version("tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "tensorrt-rtx")}

    def serves(self, target: Target, precision: Precision) -> str | None:
        """RTX cards from Turing on, and builds for A100; BF16 and INT8 from SM80, FP8 from SM89."""
        sm = target.compute_capability or 0
        known = ", ".join(str(number) for number in ARCHITECTURES)
        reason = "" if sm in ARCHITECTURES else f"it builds for SM {known}, and {target.name} is SM{sm}"
        kinds = {"nvidia-gpu": reason, "cpu": "it compiles for NVIDIA GPUs only"}
        kinds["intel-gpu"] = kinds["cpu"]
        return unserved(self.name, target, precision, kinds=kinds)

    def coverage(self, model: ir.Model, target: Target, precision: Precision) -> Sequence[NodeSupport]:
        """Asks parser and compiler: of the whole graph, and of each node alone if that fails.

        Where the SDK isn't installed, the table of its probes and the hardware rules answer, and say so.
        A target or precision that isn't served leaves every node unsupported.
        """
        reason = self.serves(target, precision)
        if reason is not None:
            return [NodeSupport(n.node, n.op, Support.UNSUPPORTED, reason) for n in probe.native(model)]
        told = tables.instead(
            self, model, target, precision, limits.asked(limits.context(self, target, precision))
        )
        if told is not None:
            return told
        question = probes.Question(
            backend=f"{__name__}:{type(self).__name__}",
            sdk=SDK,
            target=target,
            precision=precision,
            capability=_capability(target),
        )
        with tempfile.TemporaryDirectory(prefix="superlower-") as folder:
            return probes.ask_coverage(model, question, Path(folder), title=self.name, timeout_s=600)

    def legalize(self, target: Target, precision: Precision) -> Sequence[Pass]:
        """Warps as every parser reads them, DeformConv as samplers; for FP16 and BF16 the graph's types.

        A sampling grid has the type of what it samples, so warps become fp32 islands, whose casts the
        compiler fuses into the sampling kernel.
        """
        return legal_passes(self.name, target, precision)

    def compile(self, model: ir.Model, target: Target, options: BuildOptions, workdir: Path) -> Artifact:
        """Build a plan for the target's architecture, in a process of its own.

        Leaves engine.plan, layers.json (the fused layers) and build.log in `workdir`.

        Raises:
            MissingSdkError: the SDK isn't installed.
            BadInputError: a target, precision, setting or symbolic size it doesn't take.
            UnsupportedOperatorError: nodes the parser or the architecture refuses; they are named.
            BuildFailedError: the SDK built nothing, crashed or ran past the time limit.
        """
        require(self)
        settings = _checked(options.settings)
        as_float = settings.get("int8_as_float") == "allow"
        forced = as_float and options.precision is Precision.INT8
        require_served(self, target, Precision.FP32 if forced else options.precision)
        require_states(model, options.stateful)
        named = clone(model)
        name_nodes(named)
        _check_sizes(named)
        if not options.raw:
            limits.require(limits.context(self, target, options.precision, settings), infer_shapes(named))
        request = builder.Request(
            sdk=SDK,
            title=self.title,
            capability=_capability(target),
            tf32=settings.get("tf32") == "on",
            memory_bytes=options.memory_bytes,
        )
        return build_plan(
            self,
            named,
            target,
            options,
            request,
            workdir,
            facts={"sm": target.compute_capability or 0, "tf32": settings.get("tf32", "off")},
            settings={key: settings[key] for key in _AT_LOAD if key in settings},
        )

    def runnable(self, target: Target) -> str | None:
        """Needs the SDK, an NVIDIA driver and a GPU of the target's architecture."""
        if (reason := self.missing() or self.serves(target, Precision.FP32)) is not None:
            return reason
        sm = target.compute_capability or 0
        if sm in BUILD_ONLY:
            return f"{self.title} builds for SM{sm}, but NVIDIA doesn't support running it there"
        try:
            Driver().device_of(sm)
        except MissingSdkError as error:
            return str(error)
        return None

    def load(self, artifact: Artifact, folder: Path) -> EngineSession:
        """Deserialize a plan on the first GPU of its architecture and make its execution contexts.

        Raises:
            MissingSdkError: no SDK, no driver, no such GPU, or not enough memory on it.
            BadInputError: no plan there, or none this SDK version reads.
        """
        require(self)
        require_own(self, artifact)
        path = plan_file(artifact, folder)
        sm = int(artifact.facts["sm"])
        driver = Driver()
        found = driver.device_of(sm)
        sdk = runtime_sdk(SDK)
        cuda_graph = artifact.settings.get("cuda_graph") == "on"

        def contexts(plan: bytes) -> RtxContexts:
            return RtxContexts(sdk, kernel_cache(plan, sm), cuda_graph=cuda_graph)

        reader = f"{self.title} {self.versions()['tensorrt-rtx']}"
        return open_session(path, Context(driver, found), sdk, reader, contexts, artifact)


def _capability(target: Target) -> str:
    return f"SM{target.compute_capability}"


def _checked(settings: Mapping[str, str]) -> dict[str, str]:
    for key, value in settings.items():
        if key not in _SETTINGS:
            raise unknown_name("tensorrt-rtx setting", key, _SETTINGS)
        if value not in _SETTINGS[key]:
            choices = ", ".join(sorted(_SETTINGS[key]))
            raise BadInputError(f"tensorrt-rtx setting {key}={value}: write one of {choices}")
    return dict(settings)


def _check_sizes(model: ir.Model) -> None:
    for name, shape in io_shapes(model)[0].items():
        if -1 in shape:
            raise BadInputError(
                f"input '{name}' has a symbolic size: an engine is built for one size, so export at that size"
            )
