"""How a tuning process tells its parent what it does: a line of JSON for each step, in a file."""

from __future__ import annotations

from pathlib import Path

import msgspec

JOURNAL = "journal.jsonl"


class TaskLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task as it stands.

    Attributes:
        task, name: its key, and the function's name in its graph.
        calls: of it in a frame.
        share: of a frame's time with the default schedules.
        default_s, best_s: seconds of a call with the default schedule, and with the fastest found; None where
            none could be measured.
        trials: schedules measured, in earlier runs too.
        failed: of those measured now, how many came to nothing.
        to_95: measurements after which 95 % of the best speed was reached.
        suggested: schedules taken over from like tasks.
        state: "waiting", "searching", "done" (gains dried up), "exhausted" or "small" (not worth a search).
    """

    task: str
    name: str
    calls: int
    share: float = 0.0
    default_s: float | None = None
    best_s: float | None = None
    trials: int = 0
    failed: int = 0
    to_95: int | None = None
    suggested: int = 0
    state: str = "waiting"


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A step of a run.

    Attributes:
        stage: what begins now, in words; "" for a measurement or batch in the stage before.
        total: steps of the stage; 0 if unknown.
        task: that was measured.
        measured: schedules by this step.
        left_s: seconds the run will take yet, estimated.
    """

    stage: str = ""
    total: int = 0
    task: TaskLine | None = None
    measured: int = 0
    left_s: float | None = None


class Journal:
    """The child's end."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / JOURNAL

    def tell(self, event: Event) -> None:
        """Add an event."""
        with self._file.open("ab") as file:
            file.write(msgspec.json.encode(event) + b"\n")


class Reader:
    """The parent's end."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / JOURNAL
        self._at = 0

    def new(self) -> list[Event]:
        """Events since the last call; one that is half written waits for the next."""
        if not self._file.is_file():
            return []
        with self._file.open("rb") as file:
            file.seek(self._at)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._at += len(whole)
        return [msgspec.json.decode(line, type=Event) for line in whole.splitlines()]
