"""What a window of frames computes of each frame alone, computed once a frame: temporal CSE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec
import onnx_ir as ir

from superlower.ir import infer_shapes
from superlower.passes.base import Applied, Budget, Site
from superlower.passes.fold_constants import FoldConstants
from superlower.program import legality
from superlower.program.model import Edge, Equation, Program, Read, Stream, TemporalModel
from superlower.rewrites._expressions import At, Expression, Table, UnreadableError
from superlower.rewrites._graphs import read_graph, write_graph
from superlower.rewrites._names import relative_shape, unused
from superlower.rewrites._plan import Plan, Span, frontier, plan
from superlower.rewrites._sums import Sums
from superlower.rewrites.base import ProgramPass, Rewritten


@dataclass(frozen=True)
class HoistFrames(ProgramPass):
    """Compute once what a program's equations compute again of the same frames at other t.

    ::

        output[t] = window(frame[t-1], frame[t], frame[t+1])
            with window = fuse(net(a), net(b), net(c))
        ->  of_frame[t] = net(frame[t])
            output[t]   = fuse(of_frame[t-1], of_frame[t], of_frame[t+1])

        window = fuse(flow(a, b), flow(b, c))
        ->  of_frame_0_1[t] = flow(frame[t], frame[t+1])                      when: t < T - 1
            output[t]       = fuse(of_frame_0_1[t-1], of_frame_0_1[t])        when: t >= 1 and t < T - 1
            output[t]       = window(frame[t-1], frame[t], frame[t+1])        when: t < 1 or t >= T - 1

    A value is hoisted if graphs compute it, from elements of streams and constants, 1.25 times an element or
    more, at whatever shifts in t and over a long clip; constants are compared by content. What depends on the
    same frames shares an equation, with one stream for each value that is read outside it. Hoisted values may
    use one another. Equations are looked at together: what two of them have in common is computed once.

    Computation over a stack of frames (Concat along the batch or a new axis, reshapes, convolutions, slices
    that take the frames out) is taken apart as far as parts repeat; what isn't taken apart gets the Concat.

    Hoisting pays where a convolution, a product of matrices or a sampler is saved: all else is left where it
    is. Views (reshapes, slices, casts) are made anew from the stream by whoever reads them.

    What a function of one frame is beyond the clip's ends is the stream's own edge, replicate or reflect.
    Functions of several frames, and of streams that are zeros there (f(0) isn't 0), are read inside the clip
    only: near its ends the equation stays as it is, in a second graph.

    Refused: graphs with functions, with bodies of If or Loop, with sizes that aren't static, of several
    opsets; with `ends` off, whatever takes a second graph.

    Attributes:
        ends: hoist also what takes a second graph for the frames near the clip's ends.
        sums: take convolutions over joined channels apart, Conv(Concat(a, b)) as Conv(a) + Conv(b), where a
            term is computed again: at another t, or in the same graph. EDVR's alignment joins each frame's
            features to the middle one's. Sums are then rounded in another order, and streams are more.
    """

    name: ClassVar[str] = "hoist-frames"
    budget: ClassVar[Budget] = Budget(
        1e-4,
        "the same operators on the same values, bit for bit, unless a stack is taken apart: then a kernel "
        "may sum a convolution's products in another order for another batch, which moves each of some 70 "
        "layers by up to 10 roundings of 2^-24: 4.2e-5",
    )
    ends: bool = True
    sums: bool = False

    def run(self, model: TemporalModel) -> Rewritten:
        """See the class."""
        program = model.program
        refused: list[Site] = []
        equations = _read(model, refused, self.sums)
        if equations is None:
            return Rewritten(model, Applied(refused=tuple(refused)))
        chosen = plan(program, equations, self.ends)
        if not self.ends:
            refused += _lost(program, equations, chosen)
        if not chosen.whole and not chosen.inside:
            return Rewritten(model, Applied(refused=tuple(refused)))
        hoisted = _Hoisting(model, equations, chosen).done()
        legality.verify(hoisted.program)
        legality.verify_graphs(hoisted)
        return Rewritten(hoisted, Applied(_sites(hoisted.program, program), tuple(refused)))


def _read(model: TemporalModel, refused: list[Site], sums: bool) -> dict[str, dict[str, At]] | None:
    """Equation -> graph output -> value, for those that can be read; None if graphs are of several opsets."""
    imports = {tuple(sorted(graph.opset_imports.items())) for graph in model.graphs.values()}
    if len(imports) > 1:
        refused.append(Site(model.program.name, "graphs are of several opsets: run convert-opset first"))
        return None
    clean: dict[str, ir.Model] = {}
    for name, graph in model.graphs.items():
        folded = graph.clone()
        FoldConstants().run(folded)
        clean[name] = infer_shapes(folded)
    table, found = Table(), {}
    for equation in model.program.equations:
        if equation.route is not None:
            refused.append(Site(equation.name, "routed: its graphs see windows of their inputs"))
            continue
        try:
            found[equation.name] = read_graph(table, clean[equation.graph], equation.reads)
        except UnreadableError as error:
            refused.append(Site(equation.name, str(error)))
    if sums:
        terms = Sums(model.program)
        readable = [e for e in model.program.equations if e.name in found]
        for equation in readable:
            read_graph(table, clean[equation.graph], equation.reads, terms.count(equation.name))
        for equation in readable:
            split = terms.split(equation.name)
            found[equation.name] = read_graph(table, clean[equation.graph], equation.reads, split)
    return found


def _lost(program: Program, equations: Mapping[str, Mapping[str, At]], chosen: Plan) -> list[Site]:
    """What `ends` would have hoisted besides."""
    more = plan(program, equations, True)
    return [
        Site(name, f"{e.hint} is computed again of {_of(e)}: it takes a second graph for the clip's ends")
        for name, outputs in equations.items()
        for e in dict.fromkeys(at.expression for at in frontier(outputs.values(), more.hoisted(name)))
        if e in more.inside and e not in chosen.inside
    ]


def _sites(after: Program, before: Program) -> tuple[Site, ...]:
    known = {e.name for e in before.equations}
    sites = []
    for equation in after.equations:
        made = set(equation.outputs.values())
        readers = []
        for reader in after.equations:
            reads = sorted((r for r in reader.reads.values() if r.stream in made), key=_place)
            readers += [f"{reader.name} ({', '.join(map(str, reads))})"] if reads else []
        if equation.name not in known and not made & before.streams.keys():
            given = ", ".join(map(str, sorted(equation.reads.values(), key=_place)))
            sites.append(Site(equation.name, f"once a frame from {given}; read by {'; '.join(readers)}"))
    return tuple(sites)


@dataclass
class _Hoisting:
    """The rewritten model under construction."""

    model: TemporalModel
    equations: Mapping[str, Mapping[str, At]]
    plan: Plan
    streams: dict[str, Stream] = field(default_factory=dict)
    graphs: dict[str, ir.Model] = field(default_factory=dict)
    made: list[Equation] = field(default_factory=list)
    of: dict[Expression, str] = field(default_factory=dict)
    """Hoisted expression -> its stream."""

    def done(self) -> TemporalModel:
        program = self.model.program
        self.streams |= program.streams
        taken = {e.name for e in program.equations} | {*self.model.graphs, *program.streams}
        everywhere = frozenset(self.plan.whole | self.plan.inside.keys())
        groups = sorted({e.reads for e in everywhere}, key=lambda reads: (len(reads), _of_reads(reads)))
        members = {
            reads: sorted((e for e in everywhere if e.reads == reads), key=lambda e: (e.hint, e.output))
            for reads in groups
        }
        names = {}
        for reads, group in members.items():
            names[reads] = name = unused(f"of_{_of_reads(reads)}", taken)
            for i, expression in enumerate(group):
                stream = name if len(group) == 1 else unused(f"{name}_{i}", taken)
                self.of[expression] = stream
                self.streams[stream] = _stream(program, expression)
        for reads, group in members.items():
            own = everywhere - frozenset(group)
            span = self.plan.inside.get(group[0], Span())
            outputs = {f"{self.of[e]}_next": At(e, 0) for e in group}
            written = {f"{self.of[e]}_next": self.of[e] for e in group}
            self._add(names[reads], names[reads], outputs, written, own, span.text())
        for equation in program.equations:
            self._rewrite(equation, taken)
        fields = {"streams": self.streams, "equations": tuple(self.made)}
        return TemporalModel(msgspec.structs.replace(program, **fields), self.graphs)

    def _rewrite(self, equation: Equation, taken: set[str]) -> None:
        """The equation over hoisted streams: as it was if it reads none, in two forms if it can't always."""
        name = equation.name
        span = self.plan.spans.get(name)
        outputs = self.equations.get(name, {})
        if not frontier(outputs.values(), self.plan.hoisted(name)):
            self.graphs |= {graph: self.model.graphs[graph] for graph in equation.graphs}
            self.made.append(equation)
            return
        self._form(equation, self.plan.hoisted(name), name, _both(equation.when, span))
        if span is not None:
            ends = unused(f"{name}_ends", taken)
            outside = span.outside()
            when = outside if equation.when == "true" else f"({equation.when}) and ({outside})"
            self._form(equation, self.plan.whole, ends, when)

    def _form(self, equation: Equation, hoisted: frozenset[Expression], name: str, when: str) -> None:
        outputs = self.equations[equation.name]
        if not frontier(outputs.values(), hoisted):
            original = self.model.graphs[equation.graph]
            kept = self.graphs.get(equation.graph, original) is original
            graph = equation.graph if kept else unused(name, {*self.model.graphs, *self.graphs})
            self.graphs[graph] = original
            self.made.append(msgspec.structs.replace(equation, name=name, graph=graph, when=when))
            return
        others = {g for e in self.model.program.equations if e.name != equation.name for g in e.graphs}
        free = equation.graph not in others | self.graphs.keys()
        graph = equation.graph if free else unused(name, {*self.model.graphs, *self.graphs})
        wanted = {output: outputs[output] for output in equation.outputs}
        self._add(name, graph, wanted, equation.outputs, hoisted, when, equation.reads)

    def _add(
        self,
        name: str,
        graph: str,
        outputs: Mapping[str, At],
        written: Mapping[str, str],
        hoisted: frozenset[Expression],
        when: str,
        known: Mapping[str, Read] | None = None,
    ) -> None:
        """An equation with a graph of its own.

        Args:
            known: graph inputs that had a name before.
        """
        named = {read: given for given, read in (known or {}).items()}
        inputs: dict[str, str] = {}

        def leaf(at: At) -> str | None:
            if at.expression in hoisted:
                read = Read(self.of[at.expression], at.shift)
            elif at.expression.stream:
                read = Read(at.expression.stream, at.shift)
            else:
                return None
            given = named.get(read) or _input_name(read)
            inputs[given] = str(read)
            return given

        (imports,) = {tuple(m.opset_imports.items()) for m in list(self.model.graphs.values())[:1]}
        self.graphs[graph] = write_graph(graph, outputs, leaf, dict(imports))
        self.made.append(Equation(name=name, graph=graph, inputs=inputs, outputs=dict(written), when=when))


def _both(when: str, span: Span | None) -> str:
    if span is None:
        return when
    return span.text() if when == "true" else f"({when}) and ({span.text()})"


def _stream(program: Program, expression: Expression) -> Stream:
    """The stream of an expression."""
    edges = {program.streams[read.stream].edge for read in expression.reads}
    edge = edges.pop() if len(expression.reads) == 1 else Edge.ZEROS
    shape = relative_shape(program, expression.shape)
    return Stream(shape=shape, dtype=expression.dtype.numpy().name, edge=edge)


def _place(read: Read) -> tuple[str, int]:
    return read.stream, read.offset


def _of(expression: Expression) -> str:
    return ", ".join(str(r) for r in sorted(expression.reads, key=_place))


def _of_reads(reads: Iterable[Read]) -> str:
    """A name for what depends on these: frame, frame_0_1, frame_0_flow_1."""
    ordered: Sequence[Read] = sorted(reads, key=_place)
    if len(ordered) == 1:
        return ordered[0].stream
    parts: list[str] = []
    for i, read in enumerate(ordered):
        parts += (
            [str(read.offset)]
            if i and ordered[i - 1].stream == read.stream
            else [read.stream, str(read.offset)]
        )
    return "_".join(parts)


def _input_name(read: Read) -> str:
    if not read.offset:
        return read.stream
    return f"{read.stream}_{'after' if read.offset > 0 else 'before'}_{abs(read.offset)}"
