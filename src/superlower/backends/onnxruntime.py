"""ONNX Runtime on the CPU, the reference every other backend is compared with, and on NVIDIA GPUs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from superlower.backends import onnxruntime_cuda as cuda
from superlower.backends import probe, tables
from superlower.backends.base import Artifact, BuildOptions, Feeds, NodeSupport, Outputs, Support
from superlower.backends.process import build_in_subprocess
from superlower.backends.sdk import (
    absent,
    first_line,
    require,
    require_own,
    require_served,
    unserved,
    version,
    wrong_version,
)
from superlower.backends.session import PooledSession, Port
from superlower.errors import (
    BadInputError,
    BuildFailedError,
    MissingSdkError,
    UnsupportedOperatorError,
    unknown_name,
)
from superlower.ir import clone, infer_shapes, load, node_name, save, serialize
from superlower.passes.base import Pass
from superlower.targets.base import Precision, Target

ENGINE = "model.onnx"

_KINDS = {
    "cpu": "",
    "nvidia-gpu": "",
    "intel-gpu": "superlower runs ONNX Runtime on CPUs and NVIDIA GPUs only",
}
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}
_SWITCHES = ("enable_cpu_mem_arena", "enable_mem_pattern", "enable_mem_reuse", "use_deterministic_compute")


class OnnxRuntime:
    """The CPU and the CUDA execution provider with all graph optimisations.

    The engine is the legalized ONNX file itself: optimised models are tied to the machine that wrote them. So
    one for a GPU is built without a GPU, and without ONNX Runtime's CUDA package.
    `settings` takes ONNX Runtime's session keys ("session.set_denormal_as_zero"), its boolean options
    enable_cpu_mem_arena, enable_mem_pattern, enable_mem_reuse and use_deterministic_compute, and for GPUs the
    CUDA provider's options (see `superlower.backends.onnxruntime_cuda.OPTIONS`).
    """

    name: ClassVar[str] = "onnxruntime"
    title: ClassVar[str] = "ONNX Runtime"
    quantizes_results: ClassVar[bool] = True

    def missing(self) -> str | None:
        """Why it can't build here, with the install command; None if it can."""
        return absent("onnxruntime", "onnxruntime")

    def versions(self) -> dict[str, str]:
        """Version of ONNX Runtime, from whichever of its distributions is installed."""
        if self.missing() is not None:
            return {}
        return {"onnxruntime": version("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")}

    def serves(self, target: Target, precision: Precision) -> str | None:
        """CPUs in fp32, int8 (QDQ graphs) and fp16 (computed in fp32 between casts); GPUs in fp32, fp16."""
        precisions = cuda.PRECISIONS if cuda.on_cuda(target) else None
        return unserved(self.name, target, precision, kinds=_KINDS, precisions=precisions)

    def emulated(self, target: Target) -> dict[Precision, str]:
        """On CPUs fp16 is fp32 between casts."""
        if cuda.on_cuda(target):
            return {}
        return {Precision.FP16: "ONNX Runtime's CPU computes it in fp32 between casts"}

    def coverage(self, model: ir.Model, target: Target, precision: Precision) -> Sequence[NodeSupport]:
        """Asks session creation: of the whole graph, and of each node alone if that fails.

        A node for which ONNX Runtime has no fp16 kernel, and so inserts casts to fp32, is FALLBACK. On a GPU
        one without a CUDA kernel is, as the table of the CUDA provider's kernels has it.
        """
        passes = self.legalize(target, precision)
        if cuda.on_cuda(target) and tables.forced():
            return cuda.fall_back(cuda.on_paper(model, cuda.kernels(target)), _legal(model, passes), target)
        told = tables.instead(self, model, target, precision)
        if told is not None:
            return told
        ask = probe.remembered(_refusal, self.name)
        found = probe.coverage(model, tables.known_wrong(ask, self, target), passes)
        if any(node.support is Support.UNSUPPORTED for node in found):
            return found
        legal = _legal(model, passes)
        if cuda.on_cuda(target):
            return cuda.fall_back(found, legal, target)
        cast = _computed_in_fp32(legal)
        reason = "no fp16 kernel on the CPU: computed in fp32 between casts"
        return [
            replace(n, support=Support.FALLBACK, detail=reason)
            if n.node in cast and n.support is Support.NATIVE
            else n
            for n in found
        ]

    def legalize(self, target: Target, precision: Precision) -> Sequence[Pass]:
        """Warps as the opset spells them and in their fastest form; for fp16 the graph's types."""
        from superlower.backends.select_lowering import legal_passes
        from superlower.passes.convert_precision import ConvertPrecision

        typing = (ConvertPrecision(),) if precision is Precision.FP16 else ()
        return legal_passes(self.name, target, precision, typing)

    def compile(self, model: ir.Model, target: Target, options: BuildOptions, workdir: Path) -> Artifact:
        """Write the graph and create a session of it once, in a subprocess.

        Raises:
            MissingSdkError: ONNX Runtime isn't installed.
            BadInputError: a target, precision or setting it doesn't take.
            UnsupportedOperatorError: an operator isn't covered; the message names the node.
            BuildFailedError: session creation failed, crashed or ran past the time limit.
        """
        require(self)
        require_served(self, target, options.precision)
        if options.stateful:
            raise BadInputError(
                "onnxruntime keeps no hidden states inside its engines: leave them to the host"
            )
        known = (*_SWITCHES, *(cuda.OPTIONS if cuda.on_cuda(target) else ()))
        for key in options.settings:
            if "." not in key and key not in known:
                raise unknown_name("onnxruntime setting", key, known)
        workdir.mkdir(parents=True, exist_ok=True)
        save(model, workdir / ENGINE)
        began = time.monotonic()
        request = {"threads": options.threads, "settings": dict(options.settings)}
        build_in_subprocess(
            f"{__name__}:try_session", request, workdir, backend=self.name, timeout_s=options.timeout_s
        )
        return Artifact(
            backend=self.name,
            target=target.name,
            precision=options.precision,
            files={"engine": ENGINE},
            sdk=self.versions(),
            threads=options.threads,
            mode=options.mode,
            build_s=time.monotonic() - began,
            facts={"provider": cuda.PROVIDER, "sm": target.compute_capability or 0}
            if cuda.on_cuda(target)
            else {},
            settings=dict(options.settings),
        )

    def runnable(self, target: Target) -> str | None:
        """CPU engines run on any machine that has ONNX Runtime; others need its CUDA provider and the GPU."""
        reason = self.missing() or _KINDS.get(target.kind, f"{self.name} doesn't run on {target.kind}")
        if reason or not cuda.on_cuda(target):
            return reason or None
        if self.name in target.unserved:
            return target.unserved[self.name]
        return cuda.unrunnable(target, wrong_version(self, target, "onnxruntime", cuda.install(target)))

    def load(self, artifact: Artifact, folder: Path) -> PooledSession:
        """Create a session; in throughput mode as many calls may run at once as the engine has threads.

        Raises:
            MissingSdkError: for a GPU, no driver, no such GPU, or a CUDA provider that doesn't start.
            BadInputError: no engine there, or none this ONNX Runtime reads.
        """
        require(self)
        require_own(self, artifact)
        path = folder / artifact.files.get("engine", ENGINE)
        if not path.is_file():
            raise BadInputError(f"no such engine: {path}; compile it again")
        given = None
        if artifact.facts.get("provider") == cuda.PROVIDER:
            given = cuda.providers(artifact.settings, int(artifact.facts["sm"]))
            cuda.preload()
        try:
            session = _session(path, artifact.threads, artifact.settings, given)
            if given is not None:
                cuda.require_cuda(session)
        except MissingSdkError:
            raise
        except Exception as error:
            here = self.versions()["onnxruntime"]
            raise BadInputError(
                f"{path} is no engine that ONNX Runtime {here} can read: {_reason(error)}; compile it again"
            ) from error
        inputs = {
            port.name: Port(
                np.dtype(_DTYPES[port.type]),
                tuple(size if isinstance(size, int) else -1 for size in port.shape),
            )
            for port in session.get_inputs()
        }
        outputs = [port.name for port in session.get_outputs()]

        def run(feeds: Feeds) -> Outputs:
            # ONNX Runtime allocates the outputs of every run anew, and the arrays hold that memory.
            return dict(zip(outputs, session.run(outputs, dict(feeds)), strict=True))

        calls = max(2, artifact.threads) if artifact.mode == "throughput" else 2
        # One session takes calls from many threads at a time.
        return PooledSession(inputs, [run] * calls)


def _legal(model: ir.Model, passes: Sequence[Pass]) -> ir.Model:
    legal = clone(model)
    for each in passes:
        each.run(legal)
    return infer_shapes(legal)


def try_session(request: dict[str, Any], workdir: Path) -> dict[str, object]:
    """The subprocess's part of `compile`: can this ONNX Runtime run the graph?"""
    path = workdir / ENGINE
    try:
        _session(path, int(request["threads"]), request["settings"])
    except Exception as error:
        model = infer_shapes(load(path))
        refused = probe.refusal(probe.probe_nodes(model, _refusal))
        if refused is not None:
            raise UnsupportedOperatorError(f"onnxruntime doesn't cover {refused}") from error
        raise BuildFailedError(f"onnxruntime can't create a session: {_reason(error)}") from error
    return {}


def _session(
    source: Path | bytes, threads: int, settings: Mapping[str, str], providers: Sequence[Any] | None = None
) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # Errors come as exceptions.
    if providers is None:
        # 1.31's CPU arena keeps the first call's blocks beside the pattern's: up to 1.7 times the memory.
        options.enable_mem_pattern = False
    for key, value in settings.items():
        if "." in key:
            options.add_session_config_entry(key, value)
        elif key in _SWITCHES:
            setattr(options, key, value.lower() in ("1", "true", "yes", "on"))
    given = str(source) if isinstance(source, Path) else source
    chosen = ["CPUExecutionProvider"] if providers is None else list(providers)
    return onnxruntime.InferenceSession(given, options, providers=chosen)


def _refusal(model: ir.Model) -> str | None:
    try:
        _session(serialize(model), 1, {})
    except Exception as error:
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    # "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for ..."
    return first_line(error).rpartition(" : ")[2]


def _computed_in_fp32(model: ir.Model) -> set[str]:
    """Names of the nodes whose types ONNX Runtime changes to fp32, read from the graph it really runs."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "run.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(written)
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        onnxruntime.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])
        run = onnx.load(written)
    # The casts that ONNX Runtime puts in are named so, and the values between them too.
    prefix = "InsertedPrecisionFreeCast_"
    cast = {
        name.removeprefix(prefix)
        for node in run.graph.node
        if not node.name.startswith(prefix)
        for name in node.output
        if name.startswith(prefix)
    }
    return {node_name(node) for node in model.graph if any(value.name in cast for value in node.outputs)}
