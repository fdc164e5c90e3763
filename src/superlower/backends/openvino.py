"""OpenVINO on Intel CPUs and GPUs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from superlower.backends import limits, openvino_build, probe, tables
from superlower.backends.base import Artifact, BuildOptions, Feeds, NodeSupport, Outputs
from superlower.backends.openvino_deform import is_plugged, shared_core
from superlower.backends.process import build_in_subprocess
from superlower.backends.sdk import (
    absent,
    first_line,
    require,
    require_own,
    require_served,
    require_states,
    unserved,
    version,
)
from superlower.backends.session import PooledSession, Port, Recycled, Runner
from superlower.doctor import examine
from superlower.errors import BadInputError, MissingSdkError
from superlower.ir import infer_shapes, save, serialize
from superlower.passes.base import Pass
from superlower.targets.base import Precision, Target

DEVICES = {"cpu": "CPU", "intel-gpu": "GPU"}
"""Kind of target -> OpenVINO device."""

_KINDS = {
    "cpu": "",
    "intel-gpu": "",
    "nvidia-gpu": "OpenVINO compiles for Intel CPUs and GPUs, and for other x86 and ARM CPUs",
}


class OpenVino:
    """The engine is OpenVINO IR, beside a blob compiled for the machine and version it was built with.

    Precision is in the graph's types, never in a hint: by a hint (bf16 is the default where the CPU has it)
    OpenVINO computes sampling grids, too, in that type, which moves them by whole pixels. `settings` takes
    OpenVINO's own properties by name ("NUM_STREAMS", "ENABLE_CPU_PINNING").
    """

    name: ClassVar[str] = "openvino"
    title: ClassVar[str] = "OpenVINO (Intel CPU and GPU)"
    keeps_states: ClassVar[bool] = True

    def missing(self) -> str | None:
        """Why it can't build here, with the install command; None if it can."""
        return absent("openvino", "superlower[openvino]")

    def versions(self) -> dict[str, str]:
        """Version of OpenVINO found here."""
        return {} if self.missing() is not None else {"openvino": version("openvino")}

    def serves(self, target: Target, precision: Precision) -> str | None:
        """CPUs in fp32, bf16 and int8; Intel GPUs in fp32, fp16 and int8."""
        return unserved(self.name, target, precision, kinds=_KINDS)

    def coverage(self, model: ir.Model, target: Target, precision: Precision) -> Sequence[NodeSupport]:
        """Asks the ONNX frontend and, where the device is here, its plug-in; node by node if they refuse."""
        known = limits.asked(limits.context(self, target, precision))
        told = tables.instead(self, model, target, precision, known)
        if told is not None:
            return told
        core = shared_core()
        device = DEVICES.get(target.kind, "")
        plugged = is_plugged(device)

        def ask(asked: ir.Model) -> str | None:
            try:
                read = core.read_model(serialize(asked))
                taken = set(core.query_model(read, device)) if plugged else None
            except RuntimeError as error:
                return first_line(error)
            if taken is None:
                return None
            refused = [op.get_type_name() for op in read.get_ops() if op.get_friendly_name() not in taken]
            return f"the {device} plug-in doesn't run {refused[0]}" if refused else None

        remembered = probe.remembered(ask, f"{self.name} {device}")
        answers = tables.known_wrong(lambda asked: known(asked) or remembered(asked), self, target, known)
        return probe.coverage(model, answers, self.legalize(target, precision))

    def legalize(self, target: Target, precision: Precision) -> Sequence[Pass]:
        """Warps as the opset spells them and in their fastest form; for fp16 the graph's types. In fp32 on a
        CPU, deformable convolutions without copies of their offsets and columns, and biases to be fused.

        The build types bf16: ONNX 19 has none.
        """
        from superlower.backends.select_lowering import legal_passes
        from superlower.passes.convert_precision import ConvertPrecision
        from superlower.passes.own_biases import OwnBiases
        from superlower.passes.pointwise_conv_to_mat_mul import PointwiseConvToMatMul
        from superlower.passes.split_convolution import SplitConvolution

        typing = (ConvertPrecision(),) if precision is Precision.FP16 else ()
        passes = legal_passes(self.name, target, precision, typing)
        if target.kind != "cpu" or precision is not Precision.FP32:
            return passes
        return (*passes, SplitConvolution(), PointwiseConvToMatMul(), OwnBiases())

    def compile(self, model: ir.Model, target: Target, options: BuildOptions, workdir: Path) -> Artifact:
        """Convert to OpenVINO IR and compile it, in a subprocess; states of `options.stateful` go inside.

        Raises:
            MissingSdkError: OpenVINO isn't installed.
            BadInputError: a target, precision, state pair or setting it doesn't take.
            UnsupportedOperatorError: an operator isn't covered; the message names the node.
            BuildFailedError: the build failed, crashed or ran past its time limit.
        """
        require(self)
        require_served(self, target, options.precision)
        if not options.raw:
            limits.require(limits.context(self, target, options.precision), infer_shapes(model))
        require_states(model, options.stateful)
        device = DEVICES[target.kind]
        prescribed = examine.settings(self.name, self.versions(), target, options.precision)
        cores = int(target.tvm.get("num-cores", 0))
        settings = openvino_build.properties(device, options, prescribed, cores)
        workdir.mkdir(parents=True, exist_ok=True)
        save(model, workdir / openvino_build.SOURCE)
        request = {
            "device": device,
            "precision": options.precision.value,
            "stateful": options.stateful,
            "settings": settings,
        }
        began = time.monotonic()
        function = f"{openvino_build.__name__}:build"
        try:
            result = build_in_subprocess(
                function, request, workdir, backend=self.name, timeout_s=options.timeout_s
            )
        finally:
            (workdir / openvino_build.SOURCE).unlink(missing_ok=True)
        files, facts = result["files"], result["facts"]
        assert isinstance(files, dict)
        assert isinstance(facts, dict)
        return Artifact(
            backend=self.name,
            target=target.name,
            precision=options.precision,
            files=files,
            sdk=self.versions(),
            threads=options.threads,
            mode=options.mode,
            stateful=options.stateful,
            build_s=time.monotonic() - began,
            facts=facts,
            settings=settings,
        )

    def runnable(self, target: Target) -> str | None:
        """Why engines for the target can't be run here: no OpenVINO, or no such device for it."""
        if (reason := self.missing()) is not None:
            return reason
        if target.kind not in DEVICES:
            return f"OpenVINO doesn't run on targets of kind {target.kind}"
        return _no_device(DEVICES[target.kind])

    def load(self, artifact: Artifact, folder: Path) -> PooledSession:
        """Take up the compiled blob if it was made by this version on this processor, else compile the IR.

        An engine with inner states runs one call at a time, in the order of submission.
        """
        require(self)
        require_own(self, artifact)
        device = str(artifact.facts.get("device", "CPU"))
        if (reason := _no_device(device)) is not None:
            raise MissingSdkError(reason)
        return _session(_compiled(artifact, folder, device, self.versions()), artifact)


def _no_device(device: str) -> str | None:
    if is_plugged(device):
        return None
    seen = shared_core().available_devices
    driver = "; install the driver (intel-opencl-icd)" if device == "GPU" else ""
    return f"OpenVINO finds no {device} here, only {', '.join(seen) or 'no device'}{driver}"


def _compiled(artifact: Artifact, folder: Path, device: str, here: Mapping[str, str]) -> Any:
    """The engine as an openvino.CompiledModel."""
    core = shared_core()
    settings = openvino_build.parsed(artifact.settings)
    blob = folder / artifact.files.get("blob", "")
    built_for = artifact.facts.get("processor")
    if blob.is_file() and artifact.sdk == here and built_for == openvino_build.processor(core, device):
        try:
            return core.import_model(blob.read_bytes(), device, settings)
        except RuntimeError:
            pass  # The blob only saves time: the IR says the same.
    path = folder / artifact.files.get("engine", openvino_build.ENGINE)
    if not path.is_file():
        raise BadInputError(f"no such engine: {path}; compile it again")
    try:
        return core.compile_model(core.read_model(path), device, settings)
    except RuntimeError as error:
        raise BadInputError(
            f"{path} is no engine that OpenVINO {here['openvino']} can read: {first_line(error)}; "
            f"compile it again"
        ) from error


def _session(compiled: Any, artifact: Artifact) -> PooledSession:
    # By position: one tensor may serve several inputs and outputs, and then has the names of all.
    names = openvino_build.port_names(artifact.facts)
    inputs = {name: _port(port) for name, port in zip(names.inputs, compiled.inputs, strict=True)}
    stateful = bool(artifact.stateful)
    wanted = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    # Two calls at least: independent equations of a frame may then overlap.
    requests = [compiled.create_infer_request() for _ in range(1 if stateful else max(2, wanted))]

    kinds = [_port(port) for port in compiled.outputs]
    static = all(size >= 0 for kind in kinds for size in kind.shape)

    def runner(request: Any) -> Runner:
        import openvino

        memory = [Recycled(kind.shape, kind.dtype) for kind in kinds] if static else []

        def run(feeds: Feeds) -> Outputs:
            by_index = {index: feeds[name] for index, name in enumerate(names.inputs)}
            made = [one.take() for one in memory]
            for index, array in enumerate(made):
                request.set_output_tensor(index, openvino.Tensor(array, shared_memory=True))
            # Unshared outputs are copies, so that the next call on this request can't write over them.
            results = request.infer(by_index, share_inputs=True, share_outputs=static)
            return dict(zip(names.outputs, made or [results[i] for i in range(len(kinds))], strict=True))

        return run

    def reset() -> None:
        for request in requests:
            request.reset_state()

    return PooledSession(inputs, [runner(request) for request in requests], reset=reset if stateful else None)


def _port(port: Any) -> Port:
    shape = tuple(size.get_length() if size.is_static else -1 for size in port.partial_shape)
    return Port(np.dtype(port.element_type.to_dtype()), shape)
