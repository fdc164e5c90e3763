"""Apache TVM: the portable backend, for CPUs and for every NVIDIA GPU from Volta on."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec
import onnx_ir as ir

from superlower.backends import limits, sdk, tables
from superlower.backends.base import Artifact, BuildOptions, NodeSupport, Session
from superlower.backends.process import LOG, build_in_subprocess
from superlower.backends.tvm import build, cuda, engine
from superlower.backends.tvm.tuning.store import default_folder, digest
from superlower.errors import BadInputError, MissingSdkError, unknown_name
from superlower.ir import infer_shapes, io_shapes, save
from superlower.passes.base import Pass
from superlower.targets.base import Precision, Target

INSTALL = "superlower[tvm]"
SETTINGS = ("archs", "opt-level", "tensor-cores", "tuning")

_KINDS = {"cpu": "", "nvidia-gpu": "", "intel-gpu": "the apache-tvm wheel has no OpenCL runtime"}
_PRECISIONS = {
    Precision.FP32: "",
    Precision.FP16: "",
    Precision.BF16: "superlower hasn't verified TVM's bf16 kernels",
    Precision.INT8: "",
    Precision.FP8: "",
    Precision.MIXED: "its kernels are fp32, or fp16 on GPUs: quantized convolutions run in float",
}


class Tvm:
    """Builds a shared library that TVM's runtime alone can run; weights are inside.

    Settings: `opt-level` (0 to 3, default 3), TVM's pass level; `archs` (sm_70,sm_86,...), CUDA architectures
    to put device code for into the engine, besides the target's own; `tensor-cores` (on, off; default on),
    whether default schedules of half-precision convolutions use them; `tuning`, folder of the tuning database
    instead of the user's own, "off" for the default schedules.
    """

    name: ClassVar[str] = "tvm"
    title: ClassVar[str] = "Apache TVM"
    keeps_states: ClassVar[bool] = True

    def missing(self) -> str | None:
        """Why it can't build here, with the install command; None if it can."""
        if (reason := sdk.absent("tvm", INSTALL)) is not None:
            return reason
        if not any(map(shutil.which, ("g++", "gcc", "clang++", "clang", "c++", "cc"))):
            return "TVM links its engines with a C++ compiler, and none is here: install g++"
        return None

    def versions(self) -> dict[str, str]:
        """Package -> version of the SDK found here; empty if missing."""
        if sdk.absent("tvm", INSTALL) is not None:
            return {}
        return {name: sdk.version(name) for name in ("apache-tvm", "apache-tvm-ffi")}

    def build_inputs(self, target: Target, options: BuildOptions) -> dict[str, str]:
        """The tuning database's measurements for the target; for a GPU, the CUDA compilers that are found."""
        folder = _tuning(options)
        found = {"tuning": digest(Path(folder) if folder else None, tvm_target(target, options))}
        return found if target.kind != "nvidia-gpu" else {**found, "CUDA compilers": cuda.compilers()}

    def serves(self, target: Target, precision: Precision) -> str | None:
        """Why it can't build for the target at that precision; None if it can."""
        return sdk.unserved("tvm", target, precision, kinds=_KINDS, precisions=_PRECISIONS)

    def emulated(self, target: Target) -> dict[Precision, str]:
        """Quantized convolutions are float ones between conversions, on any target."""
        return {Precision.INT8: "TVM computes quantized convolutions in float"}

    def coverage(self, model: ir.Model, target: Target, precision: Precision) -> Sequence[NodeSupport]:
        """How each node is served, in graph order, as TVM's importer says (and the cases it gets wrong)."""
        known = limits.asked(limits.context(self, target, precision))
        told = tables.instead(self, model, target, precision, known)
        if told is not None:
            return told
        with tempfile.TemporaryDirectory(prefix="superlower-tvm-") as folder:
            graph = Path(folder) / "model.onnx"
            save(model, graph)
            request = {
                "model": str(graph),
                "target": msgspec.to_builtins(target),
                "precision": str(precision),
            }
            result = build_in_subprocess(
                f"{build.__name__}:coverage", request, Path(folder), backend=self.name, timeout_s=600
            )
        return build.covered(result)

    def legalize(self, target: Target, precision: Precision) -> Sequence[Pass]:
        """Warps as the importer reads them and in their fastest form; for fp16 types, but warps in fp32."""
        from superlower.backends.select_lowering import legal_passes
        from superlower.passes.convert_precision import ConvertPrecision

        typing = (ConvertPrecision(),) if precision is Precision.FP16 else ()
        return legal_passes(self.name, target, precision, typing)

    def compile(self, model: ir.Model, target: Target, options: BuildOptions, workdir: Path) -> Artifact:
        """Build `workdir`/engine.so from a legalized graph of fixed sizes.

        Raises:
            MissingSdkError: TVM isn't here, or no CUDA compiler for the target's architecture.
            UnsupportedOperatorError: an operator isn't covered, or TVM would compute it wrongly.
            BadInputError: a setting is unknown, or the target isn't served at that precision.
            BuildFailedError: TVM failed, crashed or ran past `options.timeout_s`; the log is named.
        """
        sdk.require(self)
        sdk.require_served(self, target, options.precision)
        level, archs = _opt_level(options), _archs(target, options)
        sdk.require_states(model, options.stateful)
        io = io_of(model)
        if not options.raw:
            limits.require(limits.context(self, target, options.precision), infer_shapes(model))
        workdir.mkdir(parents=True, exist_ok=True)
        graph = workdir / "model.onnx"
        save(model, graph)
        request = build.Request(
            model=str(graph),
            target=tvm_target(target, options),
            archs=archs,
            opt_level=level,
            tensor_cores=_tensor_cores(options),
            tuning=_tuning(options),
        )
        started = time.monotonic()
        try:
            facts = build_in_subprocess(
                f"{build.__name__}:build",
                msgspec.to_builtins(request),
                workdir,
                backend=self.name,
                timeout_s=options.timeout_s,
                env={"TVM_USE_RUNTIME_LIB": "0"},
            )
        finally:
            graph.unlink(missing_ok=True)
        (workdir / engine.IO).write_bytes(msgspec.json.encode(io))
        return Artifact(
            backend=self.name,
            target=target.name,
            precision=options.precision,
            files={"engine": engine.LIBRARY, "io": engine.IO, "log": LOG},
            sdk=self.versions(),
            threads=options.threads,
            mode=options.mode,
            stateful=options.stateful,
            build_s=round(time.monotonic() - started, 3),
            facts={**msgspec.convert(facts, dict[str, str | int | float]), "calls": options.calls},
        )

    def runnable(self, target: Target) -> str | None:
        """Why engines for the target can't be run on this machine; None if they can."""
        if (reason := sdk.absent("tvm", INSTALL)) is not None:
            return reason
        if target.kind == "nvidia-gpu":
            found = engine.nvidia_gpus()
            if isinstance(found, str):
                return found
            if target.compute_capability not in found:
                have = ", ".join(f"sm_{capability}" for capability in found)
                return f"{target.title} is sm_{target.compute_capability}; this machine has {have}"
            return None
        if target.kind == "cpu":
            if target.architecture.replace("-", "_") == platform.machine():
                return None
            return f"{target.title} is {target.architecture}; this machine is {platform.machine()}"
        return self.serves(target, Precision.FP32)

    def load(self, artifact: Artifact, folder: Path) -> Session:
        """Load an engine that `compile` left in `folder`.

        In throughput mode it takes as many calls at a time as it has threads, each on one thread.

        Raises:
            MissingSdkError: TVM's runtime or the GPU isn't here.
            BadInputError: built by another TVM, or for a processor with instructions this one lacks.
        """
        sdk.require_own(self, artifact)
        if (reason := sdk.absent("tvm", INSTALL)) is not None:
            raise MissingSdkError(reason)
        built, here = artifact.sdk.get("apache-tvm", ""), sdk.version("apache-tvm")
        if built != here:
            raise BadInputError(
                f"the engine was built by apache-tvm {built}, here is {here}: compile it again"
            )
        if lacking := _lacking(artifact):
            mcpu = artifact.facts.get("mcpu")
            raise BadInputError(
                f"the engine was built for {mcpu}, and this processor has no {', '.join(lacking)}: "
                f"compile it here"
            )
        cuda = "arch" in artifact.facts
        threads = artifact.threads or cores()
        many = artifact.mode == "throughput" and not cuda
        return engine.open_session(
            folder,
            artifact.files["engine"],
            artifact.files["io"],
            cuda=cuda,
            threads=1 if many else threads,
            runners=threads if many else int(artifact.facts.get("calls", 1)),
            stateful=artifact.stateful,
        )


def _opt_level(options: BuildOptions) -> int:
    for key in options.settings:
        if key not in SETTINGS:
            raise unknown_name("tvm setting", key, SETTINGS)
    text = options.settings.get("opt-level", "3")
    if text not in ("0", "1", "2", "3"):
        raise BadInputError(f"tvm setting opt-level takes 0, 1, 2 or 3, not '{text}'")
    return int(text)


def _tensor_cores(options: BuildOptions) -> bool:
    text = options.settings.get("tensor-cores", "on")
    if text not in ("on", "off"):
        raise BadInputError(f"tvm setting tensor-cores takes on or off, not '{text}'")
    return text == "on"


def _archs(target: Target, options: BuildOptions) -> tuple[str, ...]:
    """CUDA architectures of the engine, oldest first; none for a CPU."""
    text = options.settings.get("archs", "")
    if target.kind != "nvidia-gpu":
        if text:
            raise BadInputError(f"tvm setting archs is for NVIDIA GPUs, and {target.name} is none")
        return ()
    asked = [arch.strip() for arch in text.split(",") if arch.strip()]
    for arch in asked:
        if not re.fullmatch(r"sm_[1-9][0-9]+", arch):
            raise BadInputError(f"tvm setting archs takes sm_70,sm_86 and the like, not '{arch}'")
    every = {int(arch.removeprefix("sm_")) for arch in (str(target.tvm["arch"]), *asked)}
    return tuple(f"sm_{number}" for number in sorted(every))


def tvm_target(target: Target, options: BuildOptions) -> dict[str, str | int]:
    """TVM's target dictionary, with the threads the user asked for as its cores."""
    threads = {"num-cores": options.threads} if options.threads and target.kind == "cpu" else {}
    return {**target.tvm, **threads}


def _tuning(options: BuildOptions) -> str:
    """Folder of the tuning database; "" for none. What is probed is the compiler alone."""
    asked = options.settings.get("tuning")
    if asked == "off" or options.raw:
        return ""
    folder = Path(asked) if asked else default_folder()
    return "" if folder is None else str(folder.resolve())


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lacking(artifact: Artifact) -> list[str]:
    """Instruction sets the engine uses and this processor hasn't; none where the processor can't be asked."""
    needs = set(str(artifact.facts.get("cpu_features", "")).split())
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return sorted(needs - set(flags.split())) if flags else []


def io_of(model: ir.Model) -> engine.Io:
    """A graph's inputs and outputs, in the order its engine takes and returns them.

    Raises:
        BadInputError: an input's size isn't fixed.
    """
    inputs, outputs = io_shapes(model)
    for name, shape in inputs.items():
        if min(shape, default=1) < 1:
            raise BadInputError(f"tvm builds for fixed sizes: input '{name}' has shape {list(shape)}")
    types = {value.name: str(value.dtype.numpy()) for value in model.graph.inputs if value.dtype is not None}
    return engine.Io(
        inputs=tuple(engine.Tensor(name=n, dtype=types[n], shape=s) for n, s in inputs.items()),
        outputs=tuple(outputs),
    )
