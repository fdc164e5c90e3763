"""What a tuning process is asked, and what its run comes to: JSON between it and its parent."""

from __future__ import annotations

import msgspec

from superlower.backends.tvm.tuning.journal import TaskLine


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to tune.

    Attributes:
        graphs: files of the legalized graphs, and how often a frame calls each.
        target: TVM's target dictionary.
        database: folder.
        device: what measures, in words.
        threads: CPU threads of a measurement; 0 on a GPU.
        builders: candidates to build side by side.
        trials: measurements at most; None for no limit.
        until: when to end, in seconds of the clock that `time.time` reads; None for no limit.
        seed: of what is drawn.
        transfer: whether to start from like tasks' schedules.
        farm: (host, port, key) of a TVM RPC tracker; None to measure here.
        devices: of the farm that may be used at a time.
        dry: only say what the tasks are, and what is known of them.
    """

    graphs: tuple[tuple[str, int], ...]
    target: dict[str, str | int]
    database: str
    device: str
    threads: int
    builders: int
    trials: int | None = None
    until: float | None = None
    seed: int = 0
    transfer: bool = True
    farm: tuple[str, int, str] | None = None
    devices: int = 1
    dry: bool = False


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to.

    Attributes:
        tasks: as they stand, those that take most of a frame first.
        hits: how many of them a build finds a measurement for.
        measured: schedules measured in this run, the default ones included.
        skipped: lines of the database that are no measurements.
    """

    tasks: tuple[TaskLine, ...]
    hits: int
    measured: int
    skipped: int
