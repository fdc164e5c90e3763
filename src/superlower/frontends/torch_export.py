"""torch.onnx's exporter as superlower wants it: static shapes, quiet, pinned versions, paths stripped."""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from superlower.errors import BadInputError, UnsupportedOperatorError
from superlower.frontends.quiet import quiet
from superlower.ir import IR_VERSION, OPSET

if TYPE_CHECKING:
    from torch import Tensor, nn


def export_module(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    name: str,
    scope: str = "",
) -> ir.Model:
    """One ONNX graph of `module`, with every shape static.

    Args:
        module: called with the tensors of `inputs` by position; returns a tensor or a tuple of tensors.
        inputs: graph input name -> example of the exact shape, in the order of the module's arguments.
        outputs: graph output names, in the order the module returns them.
        name: the graph's name.
        scope: attribute path of a submodule whose name is left out of node and weight names.

    Nodes are called by module and operator ("forward_trunk.main.0/Conv"), weights by parameter name.

    Raises:
        UnsupportedOperatorError: the exporter knows no ONNX for an operator of the module.
        BadInputError: the module can't be traced (data-dependent control flow, for one), or returns another
            number of tensors than `outputs` names.
    """
    import torch

    from superlower.frontends.torch_deform import translations

    # Clones, since torch.export makes one graph input of a tensor that is passed twice.
    examples = tuple(tensor.clone() for tensor in inputs.values())
    _remember_signatures()
    with quiet(), torch.no_grad(), _evaluating(module), _without_collection():
        try:
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                opset_version=OPSET,
                optimize=True,
                verbose=False,
                custom_translation_table=dict(translations()),
            )
        except torch.onnx.OnnxExporterError as error:
            raise _failure(name, error) from error
    if program is None:
        raise BadInputError(f"torch.onnx made no graph of {name}")
    model = program.model
    _name_values(model.graph, list(inputs), list(outputs), name)
    return _clean(model, name, scope)


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, and each of its parts as it was afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _remember_signatures() -> None:
    """Have onnxscript parse each function of its library once rather than for every graph.

    torch.onnx asks all of its five hundred functions for their domain at each export, and `function_ir` is a
    property that reads and parses their source anew: a fourth of an export's time.
    """
    try:
        from onnxscript._internal.values import TracedOnnxFunction
    except ImportError:  # Another release keeps it elsewhere: exports are slower, and the same.
        return
    name = "function_ir"
    asked = getattr(TracedOnnxFunction, name, None)
    if isinstance(asked, property) and asked.fget is not None and not hasattr(asked.fget, "cache_info"):
        setattr(TracedOnnxFunction, name, property(functools.cache(asked.fget)))


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Collect no garbage: tracing makes millions of objects, and to walk them takes a fifth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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


def _clean(model: ir.Model, name: str, scope: str) -> ir.Model:
    """Name nodes and weights by module, and strip what depends on this machine (stack traces, file paths)."""
    model.ir_version = IR_VERSION
    model.doc_string = None
    model.metadata_props.clear()
    graph = model.graph
    graph.name = name
    graph.doc_string = None
    graph.metadata_props.clear()
    taken: dict[str, int] = {}
    for node in graph:
        stem = _stem(node, scope)
        count = taken.setdefault(stem, 0)
        taken[stem] += 1
        node.name = f"{stem}_{count}" if count else stem
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    for initializer in list(graph.initializers.values()):
        _rename(initializer, (initializer.name or "").removeprefix(f"{scope}."))
        values.append(initializer)
    for item in (*graph, *values):
        item.metadata_props.clear()
        item.doc_string = None
    return model


def _stem(node: ir.Node, scope: str) -> str:
    """ "module.path/Operator", from the exporter's own record of the module a node came from."""
    path: list[str] = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['']"))
    modules = [part for part in path[:-1] if part]
    module = modules[-1] if modules else ""
    module = "" if module == scope else module.removeprefix(f"{scope}.")
    return f"{module}/{node.op_type}" if module else node.op_type


def _rename(initializer: ir.Value, name: str) -> None:
    graph = initializer.graph
    if graph is None or not name or name == initializer.name or name in graph.initializers:
        return
    initializer.name = name
