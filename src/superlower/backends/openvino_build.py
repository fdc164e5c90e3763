"""OpenVINO's build, as it runs in the subprocess: ONNX to IR, states, types, and a compiled blob."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import onnx_ir as ir

from superlower.backends import probe
from superlower.backends.base import BuildOptions
from superlower.backends.openvino_deform import is_plugged, shared_core
from superlower.backends.sdk import first_line
from superlower.errors import BadInputError, BuildFailedError, UnsupportedOperatorError
from superlower.ir import infer_shapes, io_shapes, load, serialize
from superlower.targets.base import Precision

SOURCE = "source.onnx"
ENGINE = "model.xml"
WEIGHTS = "model.bin"
BLOB = "model.blob"

_WHOLE = re.compile(r"-?[0-9]+")
_SAMPLERS = ("GridSample", "DeformableConvolution")
_COMPUTE = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")


def properties(
    device: str, options: BuildOptions, prescribed: Mapping[str, str], cores: int
) -> dict[str, str]:
    """OpenVINO properties of a build, which `load` repeats, the user's own over ours.

    Engines of fewer threads than there are cores aren't pinned: OpenVINO pins each one to the first cores, so
    that two of one thread each take turns on one core (2026.4: 2.2 times as long as on two). Of one engine's
    calls as many run at a time as it has streams, one by default.

    Args:
        prescribed: by the known-bugs rules. Nodes typed bf16 stay bf16 under their f32 hint (2026.4).
        cores: of a CPU; 0 if unknown.
    """
    chosen = {"PERFORMANCE_HINT": "THROUGHPUT" if options.mode == "throughput" else "LATENCY"}
    if device != "CPU":
        chosen["EXECUTION_MODE_HINT"] = "ACCURACY"  # The graph's own types.
    elif options.threads:
        chosen["INFERENCE_NUM_THREADS"] = str(options.threads)
        if options.threads < cores:
            chosen["ENABLE_CPU_PINNING"] = "NO"
        if options.calls > 1:
            chosen["INFERENCE_NUM_THREADS"] = str(options.threads * options.calls)
            chosen["NUM_STREAMS"] = str(options.calls)
    return {**chosen, **prescribed, **options.settings}


def parsed(settings: Mapping[str, str]) -> dict[str, Any]:
    """Properties as OpenVINO's Python API takes them: numbers and booleans as such."""
    words = {"TRUE": True, "YES": True, "FALSE": False, "NO": False}
    return {
        key: int(value) if _WHOLE.fullmatch(value) else words.get(value.upper(), value)
        for key, value in settings.items()
    }


def processor(core: Any, device: str) -> str:
    """The processor a blob is compiled for, with what it can do: virtual machines hide the exact model."""
    able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    return f"{str(core.get_property(device, 'FULL_DEVICE_NAME')).strip()} ({', '.join(sorted(able))})"


class PortNames(NamedTuple):
    """Names of an engine's inputs and outputs in OpenVINO's order; states kept inside are not among them."""

    inputs: list[str]
    outputs: list[str]


def port_names(facts: Mapping[str, object]) -> PortNames:
    """Read the names that `build` left in an artifact's facts.

    Raises:
        BadInputError: they aren't there.
    """
    try:
        return PortNames(
            *(msgspec.json.decode(str(facts[key]), type=list[str]) for key in ("inputs", "outputs"))
        )
    except (KeyError, msgspec.DecodeError) as error:
        raise BadInputError(f"the engine's ports aren't recorded ({error}); compile it again") from error


def build(request: dict[str, Any], workdir: Path) -> dict[str, object]:
    """Read `source.onnx`, write the IR and, where the device is here, the blob compiled from it."""
    import openvino
    from openvino._offline_transformations import apply_make_stateful_transformation

    core = shared_core()
    device = str(request["device"])
    source = workdir / SOURCE
    try:
        model = core.read_model(source)
    except RuntimeError as error:
        raise _refused(core, source, error) from error
    names = _port_names(model, load(source))
    if request["stateful"]:
        pairs = {given: output for output, given in request["stateful"]}
        apply_make_stateful_transformation(model, pairs)
        names = PortNames(
            [name for name in names.inputs if name not in pairs],
            [name for name in names.outputs if name not in pairs.values()],
        )
    facts: dict[str, str | int] = {
        "device": device,
        "operations": len(model.get_ops()),
        "inputs": msgspec.json.encode(names.inputs).decode(),
        "outputs": msgspec.json.encode(names.outputs).decode(),
    }
    if request["precision"] == Precision.BF16:
        facts["bf16_operations"] = compute_in(model, "bf16")
    openvino.save_model(model, workdir / ENGINE, compress_to_fp16=False)
    files = {"engine": ENGINE, "weights": WEIGHTS}
    if is_plugged(device):
        try:
            compiled = core.compile_model(
                core.read_model(workdir / ENGINE), device, parsed(request["settings"])
            )
        except (RuntimeError, ValueError) as error:
            raise _refused_settings(core, device, request["settings"], error) from error
        (workdir / BLOB).write_bytes(compiled.export_model().getvalue())
        files["blob"] = BLOB
        facts["processor"] = processor(core, device)
    return {"files": files, "facts": facts}


def _port_names(model: Any, source: ir.Model) -> PortNames:
    inputs, outputs = io_shapes(source)
    names = PortNames(list(inputs), list(outputs))
    for wanted, ports in ((names.inputs, model.inputs), (names.outputs, model.outputs)):
        if len(wanted) != len(ports) or any(
            name not in port.names for name, port in zip(wanted, ports, strict=True)
        ):
            raise BuildFailedError(
                f"openvino changed the graph's inputs or outputs: {', '.join(wanted)} became "
                f"{', '.join(port.any_name for port in ports)}"
            )
    return names


def compute_in(model: Any, element_type: str) -> int:
    """Type convolutions and matrix products as `element_type`, fp32 outside them; returns how many.

    What a sampling grid depends on stays fp32, as do the values between: a bf16 grid would be off by pixels.
    """
    from openvino import opset13

    kept = _grid_ancestors(model)
    typed = [
        op
        for op in model.get_ordered_ops()
        if op.get_type_name() in _COMPUTE
        and op.get_friendly_name() not in kept
        and op.get_output_element_type(0).get_type_name() == "f32"
    ]
    for op in typed:
        for index in (0, 1):
            given = opset13.convert(op.input_value(index), element_type)
            op.input(index).replace_source_output(given.output(0))
        readers = list(op.output(0).get_target_inputs())
        op.validate_and_infer_types()
        back = opset13.convert(op.output(0), "f32")
        for reader in readers:
            reader.replace_source_output(back.output(0))
    model.validate_nodes_and_infer_types()
    return len(typed)


def _grid_ancestors(model: Any) -> set[str]:
    """Friendly names of the operations that some sampler's grid or offsets are computed from."""
    pending = [
        op.input_value(1).get_node() for op in model.get_ordered_ops() if op.get_type_name() in _SAMPLERS
    ]
    found: set[str] = set()
    while pending:
        op = pending.pop()
        if op.get_friendly_name() not in found:
            found.add(op.get_friendly_name())
            pending += [given.get_node() for given in op.input_values()]
    return found


def _refused(core: Any, source: Path, error: Exception) -> UnsupportedOperatorError | BuildFailedError:
    """The error for a graph the ONNX frontend refuses: which node, if one alone is refused too."""

    def ask(model: Any) -> str | None:
        try:
            core.read_model(serialize(model))
        except RuntimeError as refusal:
            return first_line(refusal)
        return None

    found = probe.refusal(probe.probe_nodes(infer_shapes(load(source)), ask))
    if found is not None:
        return UnsupportedOperatorError(f"openvino doesn't cover {found}")
    return BuildFailedError(f"openvino can't read the graph: {first_line(error)}")


def _refused_settings(
    core: Any, device: str, settings: Mapping[str, str], error: Exception
) -> BadInputError | BuildFailedError:
    known = set(core.get_property(device, "SUPPORTED_PROPERTIES"))
    if unknown := sorted(settings.keys() - known):
        return BadInputError(
            f"unknown openvino setting '{unknown[0]}' for {device}: (known: {', '.join(sorted(known))})"
        )
    return BuildFailedError(f"openvino can't compile for {device}: {first_line(error)}")
