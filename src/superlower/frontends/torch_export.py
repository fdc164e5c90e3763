"""torch.onnx's exporter as superlower wants it: static shapes, quiet, pinned versions, paths stripped."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from superlower.errors import BadInputError, UnsupportedOperatorError
from superlower.ir import IR_VERSION, OPSET

if TYPE_CHECKING:
    from torch import Tensor, nn


def export_module(
    module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], *, name: str
) -> ir.Model:
    """One ONNX graph of `module`, with every shape static.

    Args:
        module: called with the tensors of `inputs` by position; returns a tensor or a tuple of tensors.
        inputs: graph input name -> example of the exact shape, in the order of the module's arguments.
        outputs: graph output names, in the order the module returns them.
        name: the graph's name.

    Raises:
        UnsupportedOperatorError: the exporter knows no ONNX for an operator of the module.
        BadInputError: the module can't be traced (data-dependent control flow, for one), or returns another
            number of tensors than `outputs` names.
    """
    import torch

    module = module.eval()
    # Clones, since torch.export makes one graph input of a tensor that is passed twice.
    examples = tuple(tensor.clone() for tensor in inputs.values())
    with _silence(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                opset_version=OPSET,
                optimize=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise _failure(name, error) from error
    if program is None:
        raise BadInputError(f"torch.onnx made no graph of {name}")
    model = program.model
    _name_values(model.graph, list(inputs), list(outputs), name)
    return _clean(model, name)


def _failure(name: str, error: Exception) -> BadInputError | UnsupportedOperatorError:
    causes = [error]
    while causes[-1].__cause__ is not None and isinstance(causes[-1].__cause__, Exception):
        causes.append(causes[-1].__cause__)
    lines = str(causes[-1]).strip().splitlines() or [type(causes[-1]).__name__]
    if any("DispatchError" in type(cause).__name__ for cause in causes):
        return UnsupportedOperatorError(f"{name} holds an operator without an ONNX form: {lines[0]}")
    return BadInputError(f"{name} can't be exported by torch.onnx: {lines[0]}")


def _name_values(graph: ir.Graph, inputs: list[str], outputs: list[str], name: str) -> None:
    for values, names, kind in ((graph.inputs, inputs, "inputs"), (graph.outputs, outputs, "outputs")):
        if len(values) != len(names):
            raise BadInputError(
                f"{name} has {len(values)} {kind} but {len(names)} names were given ({', '.join(names)})"
            )
    wanted = {*inputs, *outputs}
    for node in graph:
        for value in node.outputs:
            if value.name in wanted:
                value.name = f"{value.name}_inner"
    for value, new in [*zip(graph.inputs, inputs, strict=True), *zip(graph.outputs, outputs, strict=True)]:
        value.name = new


def _clean(model: ir.Model, name: str) -> ir.Model:
    """Strip what depends on this machine (stack traces, file paths), keep names and types."""
    model.ir_version = IR_VERSION
    model.metadata_props.clear()
    model.doc_string = None
    graph = model.graph
    graph.name = name
    graph.doc_string = None
    graph.metadata_props.clear()
    for value in [*graph.inputs, *graph.initializers.values()]:
        _strip(value)
    for node in graph:
        _strip(node)
        for value in node.outputs:
            _strip(value)
    return model


def _strip(item: ir.Value | ir.Node) -> None:
    item.metadata_props.clear()
    item.doc_string = None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The exporter's progress lines, warnings and log records are for its own developers."""
    loggers: list[Any] = [
        logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
