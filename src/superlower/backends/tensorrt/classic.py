"""TensorRT itself: engines for NVIDIA GPUs from Volta on, built on the GPU they are for.

Tested against modules made from what the bindings of 8.6, 10 and 11 export, over a CUDA driver in host
memory. Neither TensorRT's libraries nor a GPU have been at hand: no engine was built or run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
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
    wrong_version,
)
from superlower.backends.tensorrt import builder, probes
from superlower.backends.tensorrt.building import build_plan, legal_passes
from superlower.backends.tensorrt.classic_rules import LEVELS
from superlower.backends.tensorrt.classic_runtime import ClassicContexts
from superlower.backends.tensorrt.cuda import Context, Device, Driver
from superlower.backends.tensorrt.loading import open_session, plan_file, runtime_sdk
from superlower.backends.tensorrt.network import name_nodes
from superlower.backends.tensorrt.session import EngineSession
from superlower.backends.tensorrt.settings import Settings, check_profile
from superlower.errors import BadInputError, MissingSdkError
from superlower.ir import clone, io_shapes
from superlower.passes.base import Pass
from superlower.probes.tables import Table, stored
from superlower.targets.base import Precision, Target

SDK = "tensorrt"
INDEX = "https://pypi.nvidia.com"
INSTALL = f"pip install 'tensorrt-cu12{{range}}' --extra-index-url {INDEX}"

_DISTRIBUTIONS = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-cu11")


class TensorRt:
    """NVIDIA's compiler for its GPUs, versions 8.6 to 11. Kernels are timed on the GPU, so it builds on one.

    From 9 on networks are strongly typed: the graph's own types are the engine's, and one graph serves all
    versions. For 8.6 they are not: flags allow FP16 and INT8, and each layer is held to the graph's type.

    `settings`:
        tf32: "on" lets float32 convolutions round their operands to TF32 (10 bits); default "off".
        hardware_compatibility: "ampere_plus" for every GPU from SM80 on, "same_compute_capability" for other
            products of the architecture; default "none".
        version_compatible: "on" for later versions of TensorRT within the major one; default "off".
        optimization_level: 0 (fastest build) to 5; TensorRT's default is 3.
        profile: sizes of inputs that have symbolic ones, INPUT:MIN:OPT:MAX, a comma between inputs.
        lanes: calls in flight; default 2 in throughput mode, else 1.
    """

    name: ClassVar[str] = "tensorrt"
    title: ClassVar[str] = "TensorRT"
    keeps_states: ClassVar[bool] = True

    def missing(self) -> str | None:
        """Why it can't build here, with the install command; None if it can."""
        return absent(SDK, "superlower[tensorrt]", INDEX)

    def versions(self) -> dict[str, str]:
        """Version of TensorRT, from whichever of its distributions is installed."""
        if self.missing() is not None:
            return {}
        return {"tensorrt": version(*_DISTRIBUTIONS)}

    def serves(self, target: Target, precision: Precision) -> str | None:
        """What the target's table says, held to the version that is here if one is."""
        kinds = {"nvidia-gpu": "", **dict.fromkeys(("cpu", "intel-gpu"), "it compiles for NVIDIA GPUs only")}
        wrong = wrong_version(self, target, "tensorrt", INSTALL)
        return wrong or unserved(self.name, target, precision, kinds=kinds, versions=self.versions())

    def coverage(self, model: ir.Model, target: Target, precision: Precision) -> Sequence[NodeSupport]:
        """Asks the parser, of the whole graph, and of each node alone if that fails.

        The parser starts on a GPU only: without one, as without the SDK, a table read from the parser's own
        documentation answers, and says so. A target that isn't served leaves every node unsupported.
        """
        reason = self.serves(target, precision)
        if reason is not None:
            return [NodeSupport(n.node, n.op, Support.UNSUPPORTED, reason) for n in probe.native(model)]
        known = limits.asked(limits.context(self, target, precision))
        told = tables.instead(self, model, target, precision, known)
        device = _any_device() if told is None else None
        if device is None:
            return told or tables.from_table(self, documented(self), model, target, precision, known)
        question = probes.Question(
            backend=f"{__name__}:{type(self).__name__}",
            sdk=SDK,
            target=target,
            precision=precision,
            device=device.index,
        )
        with tempfile.TemporaryDirectory(prefix="superlower-") as folder:
            return probes.ask_coverage(model, question, Path(folder), title=self.name, timeout_s=600)

    def legalize(self, target: Target, precision: Precision) -> Sequence[Pass]:
        """Warps as every parser reads them; for FP16 and BF16 the graph's types, with sampling in fp32."""
        return legal_passes(self.name, target, precision)

    def compile(self, model: ir.Model, target: Target, options: BuildOptions, workdir: Path) -> Artifact:
        """Build an engine on a GPU of the target's architecture, in a process of its own.

        Leaves engine.plan, layers.json (the fused layers) and build.log in `workdir`. Kernels' times are kept
        for later builds (see `superlower.backends.tensorrt.timing`).

        Raises:
            MissingSdkError: no SDK, no driver, or no such GPU.
            BadInputError: a target, precision, setting or symbolic size it doesn't take.
            UnsupportedOperatorError: nodes the parser refuses or misreads; they are named.
            BuildFailedError: the SDK built nothing, crashed or ran past the time limit.
        """
        require(self)
        require_served(self, target, options.precision)
        settings = Settings.read(options.settings)
        require_states(model, options.stateful)
        named = clone(model)
        name_nodes(named)
        check_profile(settings.profile, io_shapes(named)[0])
        driver, device = self._build_device(target, settings.hardware_compatibility)
        level = settings.hardware_compatibility
        request = builder.Request(
            sdk=SDK,
            title=self.title,
            device=device.index,
            precision=options.precision,
            tf32=settings.tf32,
            memory_bytes=options.memory_bytes,
            hardware="" if level == "none" else level.upper(),
            version_compatible=settings.version_compatible,
            optimization_level=settings.optimization_level,
            profile=dict(settings.profile),
        )
        return build_plan(
            self,
            named,
            target,
            options,
            request,
            workdir,
            facts={
                "tf32": "on" if settings.tf32 else "off",
                "hardware_compatibility": level,
                "version_compatible": "on" if settings.version_compatible else "off",
                "driver": driver.version,
            },
            settings={key: value for key, value in options.settings.items() if key == "lanes"},
        )

    def _build_device(self, target: Target, level: str) -> tuple[Driver, Device]:
        """The GPU to build on: of the target's architecture, or for `ampere_plus` any that has the level."""
        sm, since = target.compute_capability or 0, LEVELS.get(level, 0)
        if sm < since:
            raise BadInputError(
                f"hardware_compatibility={level} starts with SM{since}; {target.name} is SM{sm}"
            )
        try:
            driver = Driver()
            if level == "ampere_plus":
                found = sorted((d for d in driver.devices() if d.sm >= since), key=lambda d: d.sm != sm)
                if found:
                    return driver, found[0]
            return driver, driver.device_of(sm)
        except MissingSdkError as error:
            raise MissingSdkError(
                f"{self.title} times kernels on the GPU itself, so engines for {target.name} are built where "
                f"one is: {error}"
            ) from error

    def runnable(self, target: Target) -> str | None:
        """Needs the SDK, an NVIDIA driver and a GPU of the target's architecture."""
        if (reason := self.missing() or self.serves(target, Precision.FP32)) is not None:
            return reason
        try:
            Driver().device_of(target.compute_capability or 0)
        except MissingSdkError as error:
            return str(error)
        return None

    def load(self, artifact: Artifact, folder: Path) -> EngineSession:
        """Deserialize an engine on a GPU that it was built for and make its execution contexts.

        Raises:
            MissingSdkError: no SDK, no driver, no such GPU, or not enough memory on it.
            BadInputError: no engine there, or one of another version of TensorRT.
        """
        require(self)
        require_own(self, artifact)
        path = plan_file(artifact, folder)
        here, built = self.versions()["tensorrt"], artifact.sdk.get("tensorrt", "")
        portable = artifact.facts.get("version_compatible") == "on"
        if here != built and not (portable and here.partition(".")[0] == built.partition(".")[0]):
            raise BadInputError(
                f"{path} was built by {self.title} {built}, and {here} is here: compile it again, or build "
                "it with --set tensorrt.version_compatible=on for later versions of the same major one"
            )
        driver = Driver()
        found, sdk = _run_device(driver, artifact), runtime_sdk(SDK)
        device = Context(driver, found)
        try:
            device.enter()
            sdk.register_plugins()
            # An engine for other versions holds code to run them with: it is run only where it was asked for.
            sdk.runtime.engine_host_code_allowed = portable
        except BaseException:
            device.close()
            raise
        return open_session(
            path, device, sdk, f"{self.title} {here}", lambda _: ClassicContexts(sdk), artifact
        )


def documented(backend: TensorRt) -> Table:
    """What the parser's documentation says, of the major version that is here, else of 10."""
    major = backend.versions().get("tensorrt", "10").partition(".")[0]
    table = stored(backend.name, "8" if major == "8" else "cuda")
    if table is None:
        raise MissingSdkError(
            "superlower's tables of TensorRT's operators are gone: install superlower again"
        )
    return table


def _any_device() -> Device | None:
    try:
        return next(iter(Driver().devices()), None)
    except MissingSdkError:
        return None


def _run_device(driver: Driver, artifact: Artifact) -> Device:
    """A GPU that the engine was built for."""
    sm, found = int(artifact.facts["sm"]), driver.devices()
    portable = artifact.facts.get("hardware_compatibility") == "ampere_plus"
    for device in sorted(found, key=lambda d: d.sm != sm):
        if device.sm == sm or (portable and device.sm >= LEVELS["ampere_plus"]):
            return device
    here = ", ".join(f"{d.name} (SM{d.sm})" for d in found) or "no GPU"
    built = f"{artifact.facts.get('gpu', 'a GPU')} for SM{sm}{' and later' if portable else ''}"
    wide = ", or build with --set tensorrt.hardware_compatibility=ampere_plus"
    raise MissingSdkError(
        f"the engine was built on {built}, and here is {here}: compile it for the GPU that is here"
        f"{wide if sm >= LEVELS['ampere_plus'] and not portable else ''}"
    )
