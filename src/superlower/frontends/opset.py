"""Foreign graphs at superlower's opset."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from superlower.errors import BadInputError
from superlower.frontends.quiet import quiet
from superlower.ir import OPSET

_HELD = "superlower.held"
_MODE_BEFORE_20 = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}


def convert_opset(model: ir.Model, where: str) -> ir.Model:
    """Convert the graph in place to `superlower.ir.OPSET`, the one that all passes and backends work in.

    onnx 1.23's converter has no way down for GridSample-20, which is what warps are made of; it differs from
    GridSample-16 only in the names of its modes and in taking five-dimensional inputs.

    Raises:
        BadInputError: an operator has no conversion; the message names `where`.
    """
    found = model.opset_imports.get("")
    if found is None or found == OPSET:
        return model

    from onnxscript import version_converter

    held = _hold_grid_samples(model, where, found) if found > OPSET else []
    try:
        with quiet():
            version_converter.convert_version(model, OPSET, fallback=True)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _refuse(where, found, lines[0]) from error
    if model.opset_imports.get("") != OPSET:
        raise _refuse(where, found, f"no conversion of {_newer(model, found)}")
    if held:
        _release(model)
    return model


def _refuse(where: str, found: int, reason: str) -> BadInputError:
    return BadInputError(
        f"{where} is of opset {found} and can't be converted to {OPSET}: {reason}; export it at opset {OPSET}"
    )


def _newer(model: ir.Model, found: int) -> str:
    """The operators to blame: those our opset lacks, or failing that those it has in another version."""
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    names = sorted({node.op_type for node in nodes if node.domain == ""})
    lacking = [name for name in names if _since(name, OPSET) is None]
    changed = [name for name in names if _since(name, OPSET) != _since(name, found)]
    return ", ".join(lacking or changed or names)


def _since(name: str, opset: int) -> int | None:
    """The opset in which the operator's form at `opset` came up; None where it doesn't exist."""
    try:
        return int(onnx.defs.get_schema(name, opset, "").since_version)
    except onnx.defs.SchemaError:
        return None


def _samples(node: ir.Node) -> bool:
    return node.op_type == "GridSample" and node.domain == ""


def _hold_grid_samples(model: ir.Model, where: str, found: int) -> list[ir.Node]:
    """Put every GridSample out of the converter's sight, with its mode as opset 16 to 19 call it."""
    held = [n for n in ir.traversal.RecursiveGraphIterator(model.graph) if _samples(n)]
    for node in held:
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        if shape is None or len(shape) != 4:
            raise _refuse(where, found, f"GridSample '{node.name}' isn't known to be of four dimensions")
        mode = node.attributes.get_string("mode", "linear")
        node.attributes["mode"] = ir.AttrString("mode", _MODE_BEFORE_20[mode])
        node.domain = _HELD
    if held:
        model.opset_imports[_HELD] = 1
    return held


def _release(model: ir.Model) -> None:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain == _HELD:
            node.domain = ""
    model.opset_imports.pop(_HELD, None)
