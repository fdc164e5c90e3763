"""Tuning, from the command line to the engine, on a graph of two tasks that take a second to search."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from superlower.backends.base import BuildOptions
from superlower.backends.tvm.backend import Tvm
from superlower.backends.tvm.tuning.ranking import DEFAULT, MOST_TURNS, RIVALS, TURNS, ranked
from superlower.backends.tvm.tuning.store import FILE, Measurements, Store
from superlower.driver.tune import Limits, Result, missing, tune
from superlower.frontends import onnx_files
from superlower.ir import infer_shapes
from superlower.passes.pipelines import default_pipeline
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.command import superlower

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

TRIALS = 10


def save(folder: Path, height: int = 24, width: int = 32) -> Path:
    """Two convolutions and what follows them, one frame in, one twice as large out."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) / 6).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["a"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w1"], ["c"], name="last", pads=[1] * 4),
        helper.make_node("DepthToSpace", ["c"], ["y"], name="up", blocksize=2, mode="CRD"),
    ]
    weights = [weight("w0", 16, 3, 3, 3), weight("b0", 16), weight("w1", 12, 16, 3, 3)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, height, width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 2 * height, 2 * width])
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / f"{height}x{width}.onnx")
    return folder / f"{height}x{width}.onnx"


def tuned(file: Path, database: Path, trials: int = TRIALS, **options: object) -> Result:
    return tune(
        onnx_files.load(file),
        target("cpu"),
        Precision.FP32,
        database,
        limits=Limits(trials=trials),
        threads=1,
        **options,  # type: ignore[arg-type]
    )


def compiled(
    file: Path, folder: Path, tuning: str
) -> tuple[dict[str, str | int | float], NDArray[np.float32]]:
    """Facts of a build and its output."""
    backend = Tvm()
    (graph,) = onnx_files.load(file).graphs.values()
    for one in (*default_pipeline(), *backend.legalize(target("cpu"), Precision.FP32)):
        one.run(graph)
    options = BuildOptions(threads=1, settings={"tuning": tuning})
    artifact = backend.compile(infer_shapes(graph), target("cpu"), options, folder)
    session = backend.load(artifact, folder)
    x = np.random.default_rng(1).random((1, 3, 24, 32), dtype=np.float32)
    try:
        (output,) = session.run({"x": x}).values()
    finally:
        session.close()
    return artifact.facts, np.asarray(output, np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Result]:
    """The graph, a database, and what tuning into it told."""
    folder = tmp_path_factory.mktemp("tuned")
    file = save(folder)
    return file, folder / "database", tuned(file, folder / "database")


def measurements(database: Path) -> Measurements:
    return Store(database).read()


def test_every_task_has_its_default_and_searched_ones_their_trials(run: tuple[Path, Path, Result]) -> None:
    _, database, result = run
    found = measurements(database)
    assert found.skipped == 0
    assert result.hits == len(result.tasks) == len({r.task for r in found.records if r.origin == DEFAULT})
    assert result.measured == len(found.records)
    assert sum(r.searched for r in found.records) == TRIALS
    assert sum(task.trials for task in result.tasks) == TRIALS
    assert sum(task.share for task in result.tasks) == pytest.approx(1)
    assert {r.device for r in found.records} == {target("cpu").title}
    assert {r.threads for r in found.records} == {1}
    for task in result.tasks:
        schedules = ranked(r for r in found.records if r.task == task.task)
        (default,) = (one for one in schedules if one.default)
        assert task.default_s == default.seconds
        again = [one for one in schedules if one.beside is not None]
        if again:
            ratios = [1.0, *(one.beside for one in again if one.faster)]
            assert task.best_s == pytest.approx(default.seconds * min(ratios))
        # What came near the default has been measured in turns with it.
        assert {len(one.records) - 1 for one in again} <= {TURNS, 2 * TURNS, MOST_TURNS}
        assert not any(one.undecided for one in again)
        assert len(again) <= RIVALS
        first = next(r.time for r in default.records if r.origin == DEFAULT)
        if any(one.records[0].time < first for one in schedules if not one.default):
            assert again


def test_a_build_finds_every_task_and_computes_the_same(
    run: tuple[Path, Path, Result], tmp_path: Path
) -> None:
    file, database, result = run
    plain, expected = compiled(file, tmp_path / "plain", "off")
    facts, output = compiled(file, tmp_path / "tuned", str(database))
    assert plain["tuned"] == "no"
    assert "tasks_measured" not in plain
    # 100 % of the compiled graph's own tasks: the keys are those that tuning measured by.
    assert facts["tasks"] == facts["tasks_measured"] == len(result.tasks)
    found = measurements(database)
    first = found.records[0]
    best = {task.task: found.best(task.task, first.target, first.tvm, 1) for task in result.tasks}
    searched = [task for task, record in best.items() if record is not None and record.trace]
    assert facts.get("tasks_tuned") == len(searched)
    assert sorted(str(facts.get("records", "")).split()) == sorted(
        f"{task.name}={task.task}" for task in result.tasks if task.task in searched
    )
    # Two sums of 144 products of size under one, in two orders: 2 * 144 roundings of 2^-24 at most.
    np.testing.assert_allclose(output, expected, rtol=0, atol=2 * 144 * 2.0**-24)


def test_an_engine_is_the_same_where_nothing_was_measured(
    run: tuple[Path, Path, Result], tmp_path: Path
) -> None:
    file, _, _ = run
    (tmp_path / "none").mkdir()
    compiled(file, tmp_path / "off", "off")
    facts, _ = compiled(file, tmp_path / "empty", str(tmp_path / "none"))
    assert facts["tuned"] == "no"
    assert (tmp_path / "off" / "engine.so").read_bytes() == (tmp_path / "empty" / "engine.so").read_bytes()


def test_a_second_run_goes_on_and_measures_nothing_twice(
    run: tuple[Path, Path, Result], tmp_path: Path
) -> None:
    file, database, first = run
    Store(tmp_path).merge(database)
    second = tuned(file, tmp_path, trials=6)
    found = measurements(tmp_path)
    searched = [(r.task, r.trace) for r in found.records if r.searched]
    assert len(searched) == len(set(searched)) == TRIALS + 6
    assert {task.task for task in second.tasks} == {task.task for task in first.tasks}
    for task in second.tasks:
        assert task.best_s is not None
        assert task.default_s is not None
        assert task.best_s <= task.default_s


def test_another_size_starts_from_what_is_known(run: tuple[Path, Path, Result], tmp_path: Path) -> None:
    _, database, first = run
    Store(tmp_path / "database").merge(database)
    larger = save(tmp_path, 36, 48)
    result = tuned(larger, tmp_path / "database")
    ours = {task.task for task in result.tasks} - {task.task for task in first.tasks}
    assert ours, "another size has tasks of its own"
    taken = [
        r for r in measurements(tmp_path / "database").records if r.task in ours and r.origin == "transfer"
    ]
    assert taken
    assert [r.error for r in taken if r.error] == []
    cold = tuned(larger, tmp_path / "cold", trials=4, transfer=False)
    assert cold.measured
    assert "transfer" not in {r.origin for r in measurements(tmp_path / "cold").records}


def test_foreign_and_unfit_records_do_no_harm(run: tuple[Path, Path, Result], tmp_path: Path) -> None:
    import msgspec

    file, database, _ = run
    found = measurements(database)
    wrong = [
        msgspec.structs.replace(r, seconds=(1e-9,), default_s=1.0, trace='[[["NoSuchStep",[],[],[]]],[]]')
        for r in found.records
        if r.trace
    ][:1]
    Store(tmp_path).append([*found.records, *wrong])
    with (tmp_path / FILE).open("ab") as file_:
        file_.write(b"not ours\n")
    facts, output = compiled(file, tmp_path / "engine", str(tmp_path))
    assert facts["records_failed"] == 1
    assert facts["records_skipped"] == 1
    assert np.isfinite(output).all()


def test_a_dry_run_and_stats_measure_nothing(run: tuple[Path, Path, Result]) -> None:
    file, database, result = run
    before = (database / FILE).read_bytes()
    arguments = ("tune", file, "--target", "cpu", "--db", database, "--threads", 1, "--json")
    told = superlower(*arguments, "--stats").json["result"]
    assert told["hits"] == len(told["tasks"]) == len(result.tasks)
    assert told["measured"] == 0
    assert superlower(*arguments, "--dry-run").json["result"]["tasks"] == told["tasks"]
    assert (database / FILE).read_bytes() == before


def test_a_run_that_is_killed_loses_no_measurement(tmp_path: Path) -> None:
    file = save(tmp_path)
    database = tmp_path / "database"
    command = [sys.executable, "-m", "superlower.cli.main", "--no-progress", "tune", str(file)]
    command += ["--target", "cpu", "--trials", "40", "--threads", "1", "--db", str(database)]
    child = subprocess.Popen(
        [sys.executable, "-c", "from superlower.cli.main import main; main()", *command[3:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while len(measurements(database).records) < 12 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    # The tuner, and the workers under it, end with whoever started them.
    time.sleep(2)
    kept = measurements(database)
    assert len(kept.records) >= 12
    assert kept.skipped <= 1
    time.sleep(2)
    assert measurements(database) == kept, "something still measures"
    result = tuned(file, database, trials=4)
    after = measurements(database)
    assert after.records[: len(kept.records)] == kept.records
    searched = [(r.task, r.trace) for r in after.records if r.searched]
    assert len(searched) == len(set(searched))
    assert sum(task.trials for task in result.tasks) == len(searched)


def test_the_time_limit_is_kept(tmp_path: Path) -> None:
    started = time.monotonic()
    tune(
        onnx_files.load(save(tmp_path)),
        target("cpu"),
        Precision.FP32,
        tmp_path / "database",
        limits=Limits(minutes=1),
        threads=1,
    )
    # It may end sooner, when gains have dried up.
    assert time.monotonic() - started < 66
