"""The tuning database: nothing measured is lost, and nothing else is believed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from superlower.backends.tvm.tuning import store
from superlower.backends.tvm.tuning.ranking import AGAIN, DEFAULT, DEFAULTS, Record, fastest, rivals
from superlower.backends.tvm.tuning.store import FILE, Store
from superlower.errors import BadInputError


def record(task: str = "a", seconds: tuple[float, ...] = (0.5, 0.25), **changed: object) -> Record:
    plain = Record(
        task=task,
        name="fused_conv2d_add",
        kind="k",
        shapes=((1, 3, 8, 8), (1, 4, 8, 8)),
        target="llvm/generic",
        tvm="0.27",
        device="a processor",
        origin="search",
        threads=2,
        seconds=seconds,
        defaults=DEFAULTS["llvm"],
        trace=f"trace {task} {seconds}",
    )
    return msgspec.structs.replace(plain, **changed)


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    database = Store(tmp_path / "new" / "folder")
    assert database.read().records == ()
    written = [record("a"), record("b", (), error="crashed (SIGSEGV)"), record("ü", (1e-9,))]
    for one in written:
        database.append([one])
    assert database.read().records == tuple(written)
    assert database.read().skipped == 0


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"hello\n",
        b"{}\n",
        b"\xff\xfe\x00 not text\n",
        b'{"sum":"0","record":{"task":"a"}}\n',
        b'[["b64 of a workload"], {"from": "another tool"}]\n',
    ],
)
def test_lines_that_are_no_records_are_skipped_and_counted(tmp_path: Path, damage: bytes) -> None:
    database = Store(tmp_path)
    database.append([record("a"), record("b")])
    file = tmp_path / FILE
    file.write_bytes(damage + file.read_bytes())
    found = database.read()
    assert [one.task for one in found.records] == ["a", "b"]
    assert found.skipped == (1 if damage else 0)


def test_a_changed_byte_makes_a_line_no_record(tmp_path: Path) -> None:
    database = Store(tmp_path)
    database.append([record("a")])
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes().replace(b"0.25", b"0.05"))
    assert database.read() == store.Measurements((), 1)


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_line_cut_short_costs_that_line_alone(tmp_path: Path, cut: int) -> None:
    database = Store(tmp_path)
    database.append([record("a"), record("b")])
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[:-cut])
    database.append([record("c")])
    found = database.read()
    # Only the line's end is missing where one byte is.
    assert [one.task for one in found.records] == (["a", "b", "c"] if cut == 1 else ["a", "c"])
    assert found.skipped == (0 if cut == 1 else 1)


WRITER = """
import sys
from pathlib import Path
from superlower.backends.tvm.tuning.store import Store
sys.path.insert(0, sys.argv[2])
from test_store import record
for number in range(100_000):
    Store(Path(sys.argv[1])).append([record(f"{sys.argv[3]}{number}")])
    print(number, flush=True)
"""


def test_every_record_that_was_told_of_survives_kill_9(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), here, name], stdout=subprocess.PIPE, text=True
        )
        for name in ("x", "y")
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    time.sleep(0.3)
    told = []
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        assert writer.stdout is not None
        told.append(int(([0, *writer.stdout.read().split()])[-1]))
        writer.wait()
    found = Store(tmp_path).read()
    tasks = {one.task for one in found.records}
    assert found.skipped <= 2
    assert {f"x{n}" for n in range(told[0] + 1)} | {f"y{n}" for n in range(told[1] + 1)} <= tasks


def test_the_best_is_the_fastest_with_as_many_threads(tmp_path: Path) -> None:
    database = Store(tmp_path)
    default = record(seconds=(0.3,), origin=DEFAULT, trace="")
    database.append(
        [default, record(seconds=(0.2, 0.9)), record(seconds=(), error="no"), record("b", (0.01,))]
    )
    database.append([record(seconds=(0.1,), threads=8), record(seconds=(0.05,), tvm="0.28")])
    found = database.read()
    assert (best := found.best("a", "llvm/generic", "0.27", 2)) is not None
    assert best.time == 0.2
    assert (best := found.best("a", "llvm/generic", "0.27", 8)) is not None
    assert best.time == 0.1
    # Nobody measured with three: any is better than none.
    assert (best := found.best("a", "llvm/generic", "0.27", 3)) is not None
    assert best.time == 0.1
    assert found.best("a", "llvm/znver4", "0.27", 2) is None
    assert found.best("c", "llvm/generic", "0.27", 2) is None


def test_one_lucky_measurement_takes_nobodys_place(tmp_path: Path) -> None:
    """Of many schedules that are equally fast one is measured in the machine's best moment."""

    def best(*records: Record) -> str:
        found = store.Measurements(records).best("a", "llvm/generic", "0.27", 2)
        assert found is not None
        return found.trace

    def turns(trace: str, *times: float, default_s: float) -> list[Record]:
        return [record(seconds=(s,), default_s=default_s, trace=trace, origin=AGAIN) for s in times]

    default = record(seconds=(1.0,), trace="", origin=DEFAULT)
    once = record(seconds=(0.9,), trace="lucky")
    again = turns("lucky", 1.05, 1.02, 1.03, default_s=1.0)
    sure = turns("sure", 0.97, 0.95, 0.96, default_s=1.0)
    # The machine was twice as fast then: so was the default schedule.
    later = turns("later", 0.6, 0.52, 0.53, default_s=0.5)
    assert best(default, once) == ""
    assert best(default, record(seconds=(0.5,), trace="far faster")) == "far faster"
    assert best(default, once, *again) == ""
    assert best(default, once, *again, *sure) == "sure"
    # Half as long twice, but not each time: that was the machine.
    now_and_then = turns("now and then", 0.5, 0.5, 1.01, default_s=1.0)
    assert best(default, *now_and_then) == ""
    assert best(default, once, *again, *later, record(seconds=(0.4,), trace="not beside it")) == ""
    # Nine of ten turns aren't chance, eight of ten are, once in eighteen times.
    nearly = turns("nearly", *[0.9] * 9, 1.01, default_s=1.0)
    assert best(default, *nearly) == "nearly"
    assert best(default, *turns("less", *[0.9] * 8, 1.01, 1.01, default_s=1.0)) == ""
    old = record(seconds=(0.2,), default_s=1.0, trace="beside other defaults", origin=AGAIN, defaults=1)
    assert best(default, once, *again, old) == ""
    kept = fastest([default, once, *again, *later, *sure], 1)
    assert {r.trace for r in kept} == {"", "sure"}
    assert len(kept) == 1 + len(sure)


def test_rivals_are_measured_until_it_is_plain_which_is_faster() -> None:
    default = record(seconds=(1.0,), trace="", origin=DEFAULT)

    def beside(trace: str, *times: float) -> list[Record]:
        return [record(seconds=(s,), default_s=1.0, trace=trace, origin=AGAIN) for s in times]

    def found(*records: Record) -> list[str]:
        return [one.trace for one in rivals([default, *records])]

    searched = [record(seconds=(s,), trace=f"{s}") for s in (1.2, 1.05, 0.9, 0.8, 0.95)]
    assert found(*searched) == ["0.8", "0.9", "0.95"]
    assert rivals(searched) == [], "without the default's time nothing can be told"
    assert found(*beside("faster", *[0.9] * 5)) == []
    assert found(*beside("slower", 0.9, 0.9, 1.1, 1.1, 1.1)) == []
    assert found(*beside("who knows", *[0.9] * 4, 1.1)) == ["who knows"]
    assert found(*beside("faster now", *[0.9] * 9, 1.1)) == []
    assert found(*beside("never", *[0.9] * 10, *[1.1] * 5)) == [], "fifteen turns are enough"


def test_databases_are_merged_by_import_and_by_copying(tmp_path: Path) -> None:
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    one.append([record("a"), record("b")])
    two.append([record("b"), record("c")])
    assert one.merge(tmp_path / "two") == (1, 1, 0)
    assert one.merge(tmp_path / "two" / FILE) == (0, 2, 0)
    assert [r.task for r in one.read().records] == ["a", "b", "c"]
    (tmp_path / "two" / "from-another-machine.jsonl").write_bytes((tmp_path / "one" / FILE).read_bytes())
    assert {r.task for r in two.read().records} == {"a", "b", "c"}
    with pytest.raises(BadInputError, match="no such file"):
        one.merge(tmp_path / "three")
    (tmp_path / "foreign.jsonl").write_text("{}\n")
    with pytest.raises(BadInputError, match="holds no measurements"):
        one.merge(tmp_path / "foreign.jsonl")


def test_pruning_leaves_the_fastest_and_the_default(tmp_path: Path) -> None:
    database = Store(tmp_path)
    slow = record(seconds=(9.0,), origin=DEFAULT, trace="")
    database.append([slow, *(record(seconds=(n / 10,)) for n in range(1, 6)), record(seconds=(), error="no")])
    (tmp_path / "more.jsonl").write_bytes((tmp_path / FILE).read_bytes())
    assert database.prune(2) == (7, 3)
    assert sorted(r.time for r in database.read().records) == [0.1, 0.2, 9.0]
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_pruning_loses_nothing_that_is_written_meanwhile(tmp_path: Path) -> None:
    database = Store(tmp_path)
    database.append([record("first")])
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent), "x"]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    writer.stdout.readline()
    for _ in range(20):
        database.prune(1)
    writer.kill()
    told = int(([0, *writer.stdout.read().split()])[-1])
    writer.wait()
    assert {"first", *(f"x{n}" for n in range(told + 1))} <= {one.task for one in database.read().records}


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(BadInputError, match=r"can't be written.*--db"):
        Store(tmp_path / "taken").append([record()])


def test_the_folder_can_be_told_or_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(store.FOLDER, str(tmp_path))
    assert store.default_folder() == tmp_path
    monkeypatch.setenv(store.FOLDER, "off")
    assert store.default_folder() is None
    assert store.in_force(store.default_folder()) == []
    monkeypatch.delenv(store.FOLDER)
    monkeypatch.setenv("SUPERLOWER_CACHE", str(tmp_path))
    assert store.default_folder() == tmp_path / "tuning"


def test_what_ships_with_the_package_is_whole() -> None:
    found = Store(store.SHIPPED).read()
    assert found.skipped == 0
    assert all(one.seconds and one.device for one in found.records)
