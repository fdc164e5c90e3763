"""Coverage by asking of each node alone, with its real types, shapes and constants: one hides no other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from superlower.backends.base import NodeSupport, Support
from superlower.ir import clone, constant_value, infer_shapes, node_name, node_op
from superlower.passes.base import Pass

Ask = Callable[[ir.Model], str | None]
"""Why an SDK refuses a model; None if it takes it."""

# Values of constants up to these sizes may decide whether a node is taken: axes, pads, and Resize's scales,
# of which there is one an axis. Those of weights and biases don't.
_TELLING_INTEGERS = 64
_TELLING_FLOATS = 4


def native(model: ir.Model) -> list[NodeSupport]:
    """Every node of the graph as native, in graph order."""
    return [NodeSupport(node_name(node), node_op(node), Support.NATIVE) for node in model.graph]


def probe_nodes(model: ir.Model, ask: Ask) -> list[NodeSupport]:
    """Ask about each node alone, in graph order. Nodes of one operator, signature and options are asked once.

    Args:
        model: all values typed and shaped (see `superlower.ir.infer_shapes`).
        ask: called with models of one node each.
    """
    answers: dict[str, str | None] = {}
    found = []
    for node in model.graph:
        refusal = _untyped(node)
        if refusal is None:
            key = _signature(node)
            if key not in answers:
                answers[key] = ask(single_node_model(model, node))
            refusal = answers[key]
        support = Support.NATIVE if refusal is None else Support.UNSUPPORTED
        found.append(NodeSupport(node_name(node), node_op(node), support, refusal or ""))
    return found


def _untyped(node: ir.Node) -> str | None:
    for value in _read(node):
        if value.dtype is None and not _is_constant(value):
            return (
                f"can't be asked: its input '{value.name}' has no type, for an unknown operator is before it"
            )
    return None


def coverage(model: ir.Model, ask: Ask, passes: Sequence[Pass] = ()) -> list[NodeSupport]:
    """How an SDK that answers `ask` serves each node, in graph order.

    The whole graph is asked about first. A node refused alone, but rewritten by one of `passes` into nodes
    that are taken, is REWRITTEN.
    """
    typed = infer_shapes(model)
    for node in typed.graph:
        node.name = node_name(node)  # Passes tell their sites by name.
    if ask(typed) is None:
        return native(typed)
    found = probe_nodes(typed, ask)
    if not passes or all(node.support is Support.NATIVE for node in found):
        return found
    legal, rewritten = clone(typed), dict[str, str]()
    for each in passes:
        for site in each.run(legal).rewritten:
            rewritten.setdefault(site.node, each.name)
        legal = infer_shapes(legal)
    before = {node.node for node in found if node.support is Support.NATIVE}
    refused = {n.node: n for n in probe_nodes(legal, ask) if n.support is Support.UNSUPPORTED}
    left = [node for name, node in refused.items() if name not in before]
    return [_rewritten(node, rewritten.get(node.node), left) for node in found]


def _rewritten(node: NodeSupport, by: str | None, left: Iterable[NodeSupport]) -> NodeSupport:
    if node.support is not Support.UNSUPPORTED or by is None:
        return node
    bad = next((other for other in left if other.node == node.node or other.op != node.op), None)
    if bad is None:
        return NodeSupport(node.node, node.op, Support.REWRITTEN, by)
    return NodeSupport(node.node, node.op, node.support, f"after {by}, {bad.op}: {bad.detail}")


def refusal(found: Iterable[NodeSupport]) -> str | None:
    """One line about the nodes that aren't supported; None if all are."""
    refused = [node for node in found if node.support is Support.UNSUPPORTED]
    if not refused:
        return None
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    return f"{refused[0].op} at node '{refused[0].node}'{more}: {refused[0].detail}"


def single_node_model(model: ir.Model, node: ir.Node) -> ir.Model:
    """The node as a model: constants stay constants, through DequantizeLinear too; all else is an input."""
    inputs: dict[int, ir.Value] = {}
    for value in _read(node):
        if not _is_constant(value):
            inputs.setdefault(id(value), value)
    outputs = [value for value in node.outputs if value.name]
    graph = ir.convenience.extract(model.graph, list(inputs.values()), outputs)
    return ir.Model(graph, ir_version=model.ir_version, functions=tuple(model.functions.values()))


def _read(node: ir.Node) -> list[ir.Value]:
    """Values of the node's own graph that it reads, in its subgraphs too."""
    read = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            bodies = [attribute.value] if attribute.type is ir.AttributeType.GRAPH else attribute.value
            for body in bodies:
                for inner in ir.traversal.RecursiveGraphIterator(body):
                    read += [v for v in inner.inputs if v is not None and v.graph is node.graph]
    return read


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        return all(constant_value(v) is not None for v in producer.inputs if v is not None)
    return constant_value(value) is not None


def _signature(node: ir.Node) -> str:
    digest = hashlib.sha256(repr((node_op(node), node.overload, len(node.outputs))).encode())
    for name in sorted(node.attributes):
        attribute = node.attributes[name]
        value = attribute.value
        if attribute.type is ir.AttributeType.TENSOR:
            value = attribute.value.tobytes()
        elif attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            value = node_name(node)
        digest.update(repr((name, value)).encode())
    for given in node.inputs:
        if given is None:
            digest.update(b"absent")
            continue
        digest.update(repr((given.dtype, str(given.shape))).encode())
        constant = constant_value(given)
        if constant is not None:
            floats = np.issubdtype(constant.dtype, np.floating)
            small = constant.size <= (_TELLING_FLOATS if floats else _TELLING_INTEGERS)
            digest.update(np.ascontiguousarray(constant).tobytes() if small else b"constant")
    return digest.hexdigest()
