"""How much memory allocators hand out for a graph's run, told from when its tensors are alive."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Tensor:
    """Memory that a step of a run makes.

    Attributes:
        nbytes: its size.
        kind: shape and type: what a runtime that gives memory from tensor to tensor goes by.
        outside: the caller's: an input, or an output that is handed out.
    """

    nbytes: int
    kind: Hashable = None
    outside: bool = False


@dataclass(frozen=True)
class Step:
    """A kernel.

    Attributes:
        reads, makes: tensors.
        over: those of `reads` that it can write its first output over, the best first.
        scratch: bytes that it takes while it runs.
    """

    reads: tuple[Tensor, ...]
    makes: tuple[Tensor, ...]
    over: tuple[Tensor, ...] = ()
    scratch: int = 0


@dataclass
class Trace:
    """What a runtime does in a call of a graph, in order.

    Attributes:
        steps: the kernels.
        kept: bytes of what is taken when the graph is loaded, and never given back.
    """

    steps: list[Step] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    @property
    def handed_out(self) -> list[Tensor]:
        """Outputs."""
        return [made for step in self.steps for made in step.makes if made.outside]

    def settle(self, *, hand_down: bool = False) -> list[tuple[int, int, int]]:
        """Blocks of memory as (first step, last step, bytes), in the order in which they are taken.

        An operator writes over an input that nothing reads later, where it can.

        Args:
            hand_down: as ONNX Runtime's planner has it: memory of a tensor that died waits for the next of
                the same kind, and outputs are taken from the allocator too, until the call ends.
        """
        last: dict[Tensor, int] = {}
        for index, step in enumerate(self.steps):
            last |= dict.fromkeys((*step.reads, *step.makes), index)
        block: dict[Tensor, int] = {}
        blocks: list[list[int]] = []
        waiting: list[tuple[Hashable, int]] = []
        for index, step in enumerate(self.steps):
            for position, made in enumerate(step.makes):
                if made in block or (made.outside and not hand_down):
                    continue
                over = [
                    t
                    for t in step.over
                    if position == 0
                    and not made.outside
                    and last[t] == index
                    and t.nbytes >= made.nbytes
                    and t in block
                ]
                if over:
                    block[made] = block[over[0]]
                    continue
                at = next((i for i, (kind, _) in enumerate(waiting) if kind == made.kind), None)
                if hand_down and at is not None and not made.outside:
                    block[made] = waiting.pop(at)[1]
                else:
                    block[made] = len(blocks)
                    blocks.append([index, index, made.nbytes])
            if step.scratch:
                blocks.append([index, index, step.scratch])
            touched = {block[t] for t in (*step.reads, *step.makes) if t in block}
            for each in touched:
                blocks[each][1] = index
            if hand_down:
                kept = {block[t] for t, end in last.items() if end > index and t in block}
                gone = [
                    t for t in dict.fromkeys((*step.reads, *step.makes)) if last[t] == index and t in block
                ]
                for tensor in gone:
                    if block[tensor] not in kept:
                        kept.add(block[tensor])
                        waiting.insert(0, (tensor.kind, block[tensor]))
        for made in self.handed_out if hand_down else ():
            blocks[block[made]][1] = len(self.steps) - 1
        return [(first, end, size) for first, end, size in blocks]


def alive(trace: Trace) -> int:
    """Largest sum of tensors alive at once: what no allocator does better than."""
    change = [0] * (len(trace.steps) + 1)
    for first, end, size in trace.settle():
        change[first] += size
        change[end + 1] -= size
    now = most = 0
    for each in change:
        now += each
        most = max(most, now)
    return most


def packed(trace: Trace) -> int:
    """One piece of memory in which every tensor has its place, the largest first, as low as it goes."""
    placed: list[tuple[int, int, int, int]] = []
    most = 0
    for first, end, size in sorted(trace.settle(), key=lambda b: (-b[2], b[0])):
        beside = sorted((low, high) for f, e, low, high in placed if f <= end and first <= e)
        at = 0
        for low, high in beside:
            if at + size <= low:
                break
            at = max(at, high)
        placed.append((first, end, at, at + size))
        most = max(most, at + size)
    return most


_LEAST = 256
_REGION = 2**20
_WIDEST = 2**30
_DEAD = 2**27


class _Arena:
    """ONNX Runtime's best-fit arena with coalescing (core/framework/bfc_arena.cc, 1.32), default settings."""

    def __init__(self) -> None:
        self._next = _REGION
        self._regions: list[list[list[int]]] = []  # Chunks in order of place: [place, size, bytes in use].
        self._touched: list[int] = []
        self._most: dict[tuple[int, int], int] = {}

    def take(self, nbytes: int) -> tuple[int, list[int]]:
        size = -(-max(nbytes, 1) // _LEAST) * _LEAST
        found = self._find(size)
        if found is None:
            grown = False
            while size > self._next:
                self._next, grown = 2 * self._next, True
            self._regions.append([[0, self._next, 0]])
            self._touched.append(0)
            if not grown:
                self._next = min(2 * self._next, _WIDEST)
            found = self._find(size)
            assert found is not None
        region, chunk = found
        if chunk[1] >= 2 * size or chunk[1] - size >= _DEAD:
            chunks = self._regions[region]
            chunks.insert(chunks.index(chunk) + 1, [chunk[0] + size, chunk[1] - size, 0])
            chunk[1] = size
        chunk[2] = nbytes
        key = region, chunk[0]
        self._most[key] = max(self._most.get(key, 0), nbytes)
        return region, chunk

    def give(self, taken: tuple[int, list[int]]) -> None:
        region, chunk = taken
        chunks = self._regions[region]
        chunk[2] = 0
        at = chunks.index(chunk)
        if at + 1 < len(chunks) and not chunks[at + 1][2]:
            chunk[1] += chunks.pop(at + 1)[1]
        if at and not chunks[at - 1][2]:
            chunks[at - 1][1] += chunks.pop(at)[1]

    def touched(self) -> int:
        """Bytes of pages that were ever written to: only those are the process's."""
        whole = 0
        for region in range(len(self._regions)):
            end = 0
            for place, used in sorted((p, used) for (r, p), used in self._most.items() if r == region):
                whole += max(0, place + used - max(end, place))
                end = max(end, place + used)
        return whole

    def _find(self, size: int) -> tuple[int, list[int]] | None:
        free = (
            (chunk[1], region, chunk[0], chunk)
            for region, chunks in enumerate(self._regions)
            for chunk in chunks
            if not chunk[2] and chunk[1] >= size
        )
        best = min(free, key=lambda each: each[:3], default=None)
        return None if best is None else (best[1], best[3])


def arena(trace: Trace) -> int:
    """What ONNX Runtime's arena comes to in two calls: it grows by doubling, and gives nothing back.

    One call's outputs, which lie in it, aren't counted.
    """
    blocks = trace.settle(hand_down=True)
    taking: dict[int, list[int]] = {}
    giving: dict[int, list[int]] = {}
    for number, (first, end, _) in enumerate(blocks):
        taking.setdefault(first, []).append(number)
        giving.setdefault(end, []).append(number)
    memory = _Arena()
    for nbytes in trace.kept:
        memory.take(nbytes)
    for _ in range(2):
        held: dict[int, tuple[int, list[int]]] = {}
        for index in range(len(trace.steps)):
            for number in taking.get(index, ()):
                held[number] = memory.take(blocks[number][2])
            for number in giving.get(index, ()):
                memory.give(held.pop(number))
    return max(0, memory.touched() - sum(tensor.nbytes for tensor in trace.handed_out))
