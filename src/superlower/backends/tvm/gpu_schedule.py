"""Default schedules for NVIDIA GPUs: convolutions in tiles through shared memory, the rest by TVM's rules.

TVM's rules (dlight) know matrix products, but run a convolution as one thread per output that loads both
operands of each product from global memory. Here a block of threads shares a tile: each channel's weights and
its window of the input are loaded once a block, and each thread keeps a tile of the output in registers
(Volkov and Demmel, "Benchmarking GPUs to Tune Dense Linear Algebra", 2008, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, Protocol

from superlower.backends.tvm import blocks
from superlower.backends.tvm.convolutions import Parts, Roles, roles_of, shared_out, taken_apart
from superlower.backends.tvm.schedule import is_scheduled

WARP = 32
CHANNELS_A_THREAD = 8
ROWS_A_THREAD = 4
"""8 x 4 outputs in registers: 12 elements from shared memory serve 32 products, in under 96 registers."""
GROUPS = 8
"""Warps a block, each of other channels, or where these are few of other rows: 256 threads."""
SHARED_BYTES = 16 * 1024
"""Of a block's tiles: three blocks fit into the 48 KB every architecture has for them at once."""
ENOUGH_BLOCKS = 160
"""Two for each of a V100's 80 multiprocessors; smaller tiles are better than idle multiprocessors."""
UNROLLED_TAPS = 9
VECTOR_BYTES = 16


@dataclass(frozen=True)
class Tile:
    """How a convolution's outputs and sums are divided.

    Attributes:
        channels: output channels a thread holds.
        groups: threads along the channels.
        rows: neighbouring rows a thread holds.
        lanes: threads along the rows and the columns.
    """

    channels: int
    groups: int
    rows: int
    lanes: tuple[int, int]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Channels, rows and columns of a block's tile of the output."""
        return self.channels * self.groups, self.rows * self.lanes[0], self.lanes[1]


def tile(channels: int, rows: int, columns: int, batch: int = 1) -> Tile:
    """The tile for an output of these sizes: a warp along a row, as large as leaves enough blocks.

    Sizes that divide the output are preferred: their blocks need no guards.
    """
    across = _fit(columns, WARP)
    held = _fit(channels, CHANNELS_A_THREAD)
    groups = _fit(ceil(channels / held), GROUPS)
    down = _fit(rows, max(1, GROUPS * WARP // (across * groups)))
    tall = _fit(ceil(rows / down), ROWS_A_THREAD)

    def few() -> bool:
        made = Tile(held, groups, tall, (down, across)).sizes
        count = batch * prod(ceil(a / b) for a, b in zip((channels, rows, columns), made, strict=True))
        return count < ENOUGH_BLOCKS

    # Rows first: fewer of them cost the least sharing.
    while tall > 1 and few():
        tall = _fit(ceil(rows / down), tall // 2)
    while down * across * groups > WARP and down > 1 and few():
        down = _fit(rows, down // 2)
    while groups > 2 and few():
        groups = _fit(ceil(channels / held), groups // 2)
    return Tile(held, groups, tall, (down, across))


def _fit(extent: int, most: int) -> int:
    """The largest divisor of an extent up to `most`; where that wastes half of them, `most` itself."""
    if extent <= most:
        return extent
    divisor = next(d for d in range(most, 0, -1) if extent % d == 0)
    return divisor if 2 * divisor > most else most


def schedule_module(mod: Any, target: Any) -> tuple[Any, list[str]]:
    """Schedule every primitive function of an IRModule that isn't scheduled yet, for a CUDA target.

    Returns:
        The module, and the names of the convolutions tiled here.
    """
    from tvm import tirx
    from tvm.s_tir import dlight
    from tvm.s_tir.schedule import ScheduleError

    tiled = []
    for name, function in list(mod.functions_items()):
        if not isinstance(function, tirx.PrimFunc) or is_scheduled(function):
            continue
        try:
            mod[name] = schedule_convolution(function)
        except ScheduleError:
            continue
        tiled.append(str(name.name_hint))
    rules = dlight.gpu
    with target:
        mod = dlight.ApplyDefaultSchedule(
            rules.Matmul(),
            rules.GEMV(),
            _OrNext(rules.Reduction()),
            _OrNext(rules.GeneralReduction()),
            rules.Fallback(),
        )(mod)
    return mod, tiled


@dataclass(frozen=True)
class _OrNext:
    """A rule of TVM's for reductions that leaves to the next what it fails at.

    Reduction of TVM 0.27 factors a mean to a scalar by a primitive that throws an InternalError. At grouped
    convolutions either rule gives the few products of a window to many threads, and the build fails on them.
    """

    rule: Any

    def apply(self, function: Any, target: Any, tunable: bool) -> Any:
        """The schedule, or None, as TVM's rules return them."""
        if _windowed(function):
            return None
        try:
            return self.rule.apply(function, target, tunable)
        except RuntimeError:
            return None


def _windowed(function: Any) -> bool:
    """Whether a function sums over windows: an operand is indexed by a sum of axes."""
    from tvm import s_tir, sym
    from tvm.s_tir.schedule import ScheduleError

    schedule = s_tir.Schedule(function)
    try:
        found = schedule.get_child_blocks(schedule.get_sblock("root"))
    except ScheduleError:
        return False
    for body in (schedule.get(block) for block in found if blocks.is_reduction(schedule, block)):
        axes = [axis.var for axis in body.iter_vars]
        for dim in (dim for region in body.reads for dim in region.region):
            factors = sym.detect_linear_equation(dim.min, axes)
            if sum(int(factor) != 0 for factor in factors[:-1]) > 1:
                return True
    return False


def unbound(mod: Any) -> list[str]:
    """Names of primitive functions with a block that no thread runs: such loops would run on the host."""
    import tvm_ffi
    from tvm import tirx

    found = []
    for name, function in mod.functions_items():
        if not isinstance(function, tirx.PrimFunc):
            continue
        bound: list[bool] = []
        tvm_ffi.structural_walk(
            function.body,
            [(tirx.For, lambda loop, seen=bound: seen.append(loop.kind == tirx.ForKind.THREAD_BINDING))],
            order="post",
        )
        if not any(bound):
            found.append(str(name.name_hint))
    return found


def schedule_convolution(function: Any) -> Any:
    """A scheduled copy of a primitive function that is one convolution, with what is fused to it.

    `tuning.ranking.DEFAULTS` is its version: other tiles, another number.

    Raises:
        ScheduleError: it isn't one: grouped convolutions, matrix products and poolings aren't.
    """
    from tvm import s_tir

    schedule = s_tir.Schedule(function)
    apply_schedule(schedule, _Chosen())
    return schedule.mod["main"].with_attr("tirx.is_scheduled", True)


def apply_schedule(schedule: Any, tiles: Tiles) -> None:
    """Apply the rules to a schedule's function.

    for block of channels x rows x columns:                     # blockIdx
      for group, line, lane:                                    # threadIdx
        sums[channels a thread, rows a thread] = 0
        for chunk of input channels:
          shared input, shared weights = what the block's tile needs of them
          for channel of chunk, taps...: sums += shared input * shared weights
        output = epilogue(sums)

    Raises:
        ScheduleError: it isn't one convolution, with what is fused to it.
    """
    roles, parts = taken_apart(schedule, _convolution)
    _tile(schedule, parts, roles, tiles)


def _convolution(body: Any) -> Roles:
    from tvm.s_tir.schedule import ScheduleError

    roles = roles_of(body)
    if roles is None:
        raise ScheduleError("the reduction is no convolution")
    return roles


def _chunk(roles: Roles, sizes: dict[int, int]) -> int:
    """Input channels a block loads at a time: a divisor whose tiles fit into SHARED_BYTES."""

    def size(channels: int) -> int:
        of = {**sizes, roles.inner: channels}
        return roles.itemsize * (roles.footprint(0, of) + roles.footprint(1, of))

    extent = roles.extents[roles.inner]
    fitting = [d for d in range(1, min(extent, WARP) + 1) if extent % d == 0 and size(d) <= SHARED_BYTES]
    return max(fitting, default=1)


@dataclass(frozen=True)
class Cut:
    """A tile as the loops that it is made of, outermost first.

    Attributes:
        channels, rows: over blocks, over threads, and over what a thread holds, in one loop or several.
        columns: over blocks, over threads.
        threads: factors that a block's loads are shared out by, along channels, rows and columns.
        lanes: weights that a thread loads at a time.
        chunk: splits the loop over input channels, into those over chunks and over a chunk's channels.
    """

    channels: Sequence[Any]
    rows: Sequence[Any]
    columns: Sequence[Any]
    threads: Sequence[Any]
    lanes: int
    chunk: Callable[[Any], Sequence[Any]]


class Tiles(Protocol):
    """Chooses tiles."""

    def cut(self, schedule: Any, roles: Roles, loops: Sequence[Any]) -> Cut:
        """Split the loops over channels, rows and columns."""
        ...


@dataclass(frozen=True)
class _Chosen:
    """The default tiles."""

    def cut(self, schedule: Any, roles: Roles, loops: Sequence[Any]) -> Cut:
        down, across = roles.pixels[-2:]
        batch = prod(roles.extents[i] for i in roles.pixels[:-2])
        axes = (roles.channel, down, across)
        channels, rows, columns = (roles.extents[axis] for axis in axes)
        made = tile(channels, rows, columns, batch)
        sizes = dict(zip(axes, made.sizes, strict=True)) | {tap: roles.extents[tap] for tap in roles.taps}
        chunk = _chunk(roles, sizes)
        return Cut(
            schedule.split(loops[0], factors=[None, made.groups, made.channels]),
            schedule.split(loops[1], factors=[None, made.lanes[0], made.rows]),
            schedule.split(loops[2], factors=[None, made.lanes[1]]),
            (made.groups, *made.lanes),
            VECTOR_BYTES // roles.itemsize if channels % made.sizes[0] == 0 else 1,
            lambda loop: schedule.split(loop, factors=[None, chunk]),
        )


def _tile(schedule: Any, parts: Parts, roles: Roles, tiles: Tiles) -> None:
    block, epilogue = parts.sums, parts.epilogue
    down, across = roles.pixels[-2:]
    schedule.set_scope(block, 0, "local")
    loops = schedule.get_loops(epilogue)
    cut = tiles.cut(schedule, roles, (loops[roles.channel], loops[down], loops[across]))
    (channel, group, *held), (row, line, *tall), (column, lane) = cut.channels, cut.rows, cut.columns
    others = [loops[i] for i in roles.pixels[:-2]]
    schedule.reorder(*others, channel, row, column, group, line, lane, *held, *tall)
    schedule.bind(schedule.fuse(*others, channel), "blockIdx.z")
    schedule.bind(row, "blockIdx.y")
    schedule.bind(column, "blockIdx.x")
    schedule.bind(group, "threadIdx.z")
    schedule.bind(line, "threadIdx.y")
    schedule.bind(lane, "threadIdx.x")
    for loop in (*held, *tall):
        schedule.unroll(loop)

    schedule.compute_at(block, lane, preserve_unit_loops=True)
    count = len(roles.extents)
    own = schedule.get_loops(block)[-count:]
    outer, inner = cut.chunk(own[roles.inner])
    taps = [own[i] for i in reversed(roles.taps)]
    output = [own[i] for i in (*roles.pixels[:-2], roles.channel, down, across)]
    schedule.reorder(outer, inner, *taps, *output)
    unrolled = taps if prod(roles.extents[i] for i in roles.taps) <= UNROLLED_TAPS else taps[-1:]
    for loop in (*unrolled, *output):
        schedule.unroll(loop)
    for copy, lanes in ((parts.window, 1), (parts.weights, cut.lanes)):
        schedule.compute_at(copy, outer, preserve_unit_loops=True)
        _load(schedule, copy, cut.threads, lanes)
    schedule.decompose_reduction(block, outer)


def _load(schedule: Any, copy: Any, threads: Sequence[Any], lanes: int) -> None:
    """Share a copy among a block's threads."""
    group, line, thread = shared_out(schedule, copy, threads, lanes)
    schedule.bind(group, "threadIdx.z")
    schedule.bind(line, "threadIdx.y")
    schedule.bind(thread, "threadIdx.x")
