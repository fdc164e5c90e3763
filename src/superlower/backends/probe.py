"""Coverage by asking of each node alone, with its real types, shapes and constants: one hides no other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from superlower.backends.base import NodeSupport, Support
from superlower.ir import clone, constant_value, digest, infer_shapes, node_name, node_op
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


def remembered(ask: Ask, scope: str) -> Ask:
    """The same answers, each asked for once in this process.

    Args:
        scope: what besides the model decides: SDK, device, architecture.
    """

    def answered(model: ir.Model) -> str | None:
        key = scope, digest(model)
        if key not in _memory:
            _memory[key] = ask(model)
        return _memory[key]

    return answered


_memory: dict[tuple[str, str], str | None] = {}


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
    """How an SDK that answers `ask` serves each node of a graph that `passes` legalize, in graph order.

    NATIVE: taken as it stands and, still there, as the passes leave it. REWRITTEN: by the pass that is named,
    into what is taken. UNSUPPORTED: refused and left alone, or refused as what the passes made of it.

    Each graph is asked about as a whole first, and node by node if that fails.
    """
    typed = infer_shapes(model)
    for node in typed.graph:
        node.name = node_name(node)  # Passes tell their sites by name.
    found = _asked(typed, ask)
    legal = _legalized(typed, passes)
    if not legal.changed:
        return found
    after = _asked(legal.model, ask)
    return [_after(node, legal, after) for node in found]


def _asked(model: ir.Model, ask: Ask) -> list[NodeSupport]:
    return native(model) if ask(model) is None else probe_nodes(model, ask)


@dataclass(frozen=True)
class _Legal:
    """A graph after its passes, with what became of nodes by their names.

    Attributes:
        sites: node -> the first pass that rewrote it.
        gone: node -> the pass that left it out.
        made: node -> those it was made of.
        changed: passes that rewrote anything.
    """

    model: ir.Model
    sites: Mapping[str, str]
    gone: Mapping[str, str]
    made: Mapping[str, frozenset[str]]
    changed: tuple[str, ...]


def _legalized(typed: ir.Model, passes: Sequence[Pass]) -> _Legal:
    legal = clone(typed)
    sites: dict[str, str] = {}
    gone: dict[str, str] = {}
    made: dict[str, frozenset[str]] = {}
    changed = []
    for each in passes:
        before = {node.name or "": node for node in legal.graph}
        ops = {name: node_op(node) for name, node in before.items()}
        outputs = {value.name: name for name, node in before.items() for value in node.outputs}
        rewritten = {site.node for site in each.run(legal).rewritten}
        if not rewritten:
            continue
        changed.append(each.name)
        legal = infer_shapes(legal)
        for node in legal.graph:
            node.name = node_name(node)
        now = {node.name or "": node for node in legal.graph}
        gone |= dict.fromkeys(before.keys() - now.keys(), each.name)
        sites = {**dict.fromkeys(rewritten, each.name), **sites}
        new = [name for name, node in now.items() if name not in before or ops[name] != node_op(node)]
        made |= _origins(legal.graph, new, outputs, rewritten)
    return _Legal(legal, sites, gone, made, tuple(changed))


def _origins(
    graph: ir.Graph, new: Collection[str], outputs: Mapping[str | None, str], rewritten: Collection[str]
) -> dict[str, frozenset[str]]:
    """For each new node the rewritten ones it stands for: a rewrite keeps the names of what it computes."""
    found: dict[str, frozenset[str]] = {}
    for node in reversed(graph):
        if node.name in new:
            computed = {outputs[value.name] for value in node.outputs if value.name in outputs}
            read_by = (user.name or "" for value in node.outputs for user, _ in value.uses())
            parts = [found[name] for name in read_by if name in found] if not computed else []
            origins = frozenset(computed).union(*parts) & frozenset(rewritten)
            found[node.name or ""] = origins or frozenset(rewritten)
    return found


def _after(node: NodeSupport, legal: _Legal, after: Sequence[NodeSupport]) -> NodeSupport:
    """A node's coverage as it stood, brought up to what the passes made of it."""
    same = next((other for other in after if (other.node, other.op) == (node.node, node.op)), None)
    by = legal.sites.get(node.node) or legal.gone.get(node.node) or " and ".join(legal.changed)
    if same is None:
        made = (other for other in after if node.node in legal.made.get(other.node, ()))
        bad = next((other for other in made if other.support is Support.UNSUPPORTED), None)
        if bad is not None:
            return replace(node, support=Support.UNSUPPORTED, detail=f"after {by}, {bad.op}: {bad.detail}")
        # Nothing that matters is left of a node which other nodes' rewrites made needless.
        needless = node.support is Support.NATIVE and node.node not in legal.sites
        return node if needless else replace(node, support=Support.REWRITTEN, detail=by)
    if same.support is Support.UNSUPPORTED:
        untouched = node.support is Support.UNSUPPORTED and node.node not in legal.sites
        return node if untouched else replace(same, detail=f"after {by}: {same.detail}")
    return node if node.support is Support.NATIVE else replace(node, support=Support.REWRITTEN, detail=by)


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
