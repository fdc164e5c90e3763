"""Calls of one graph that don't wait for one another, brought together to run as one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from superlower.program.unroll import Call, Element, Unrolled


def gathered(
    unrolled: Unrolled,
    calls: Sequence[Call],
    held: Iterable[Element],
    sizes: Mapping[str, int],
) -> list[Call]:
    """The calls in an order that brings those of one graph together, as many as it takes at once.

    A call of a graph in `sizes` waits until so many of them are there, or until something reads what it
    makes; in the second case later calls that could run already join it. What nobody waits for (a picture) is
    thus computed later, and what others wait for (a flow) sooner: tensors live longer than in the old order.

    Args:
        unrolled: the program over a clip.
        calls: in a legal order.
        held: elements that are there.
        sizes: graph -> calls that it takes at once, 2 or more.
    """
    done = set(held)
    graphs = {call: _graph(unrolled, call) for call in calls}
    later: dict[str, deque[Call]] = {graph: deque() for graph in sizes}
    for call in calls:
        if graphs[call] in later:
            later[graphs[call]].append(call)
    waiting: dict[str, list[Call]] = {}
    order: list[Call] = []
    seen: set[Call] = set()

    def run(some: Sequence[Call]) -> None:
        order.extend(some)
        for call in some:
            done.update(unrolled.writes(call).values())

    def ready(call: Call) -> bool:
        return all(
            e is None or e in done or e.stream == unrolled.program.input
            for e in unrolled.reads(call).values()
        )

    def flush(graph: str) -> None:
        group = waiting.pop(graph)
        while len(group) < sizes[graph] and later[graph] and ready(later[graph][0]):
            group.append(later[graph].popleft())
            seen.add(group[-1])
        run(group)

    for call in calls:
        if call in seen:
            continue
        seen.add(call)
        graph = graphs[call]
        if graph in later:
            # Those before it in the queue have run or wait.
            later[graph].remove(call)
        needed = {
            unrolled.writer(e) for e in unrolled.reads(call).values() if e is not None and e not in done
        }
        for name in [g for g, some in waiting.items() if needed & set(some)]:
            flush(name)
        if graph not in sizes:
            run([call])
            continue
        waiting.setdefault(graph, []).append(call)
        if len(waiting[graph]) == sizes[graph]:
            flush(graph)
    for graph in list(waiting):
        flush(graph)
    return order


def _graph(unrolled: Unrolled, call: Call) -> str:
    equation = unrolled.equations[call.equation]
    return "" if equation.route is not None else equation.graph
