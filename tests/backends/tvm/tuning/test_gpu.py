"""Tuning for NVIDIA GPUs on a machine without one: all but the clock is real (see support.gpu_tuning)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from superlower.backends.base import BuildOptions
from superlower.backends.tvm import engine
from superlower.backends.tvm.backend import Tvm, tvm_target
from superlower.backends.tvm.tensor_cores import TENSORIZE
from superlower.backends.tvm.tuning import worker
from superlower.backends.tvm.tuning.request import Request
from superlower.backends.tvm.tuning.store import Store
from superlower.backends.tvm.tuning.worker import Run
from superlower.driver.tune import Limits, missing, tune
from superlower.errors import MissingSdkError, SuperlowerError
from superlower.frontends import onnx_files
from superlower.ir import infer_shapes, save
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.compiler_process import run_module, skip_without_cuda_compiler
from support.gpu_schedules import PADDED, Case, legalized, model
from support.gpu_tuning import Asked

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

FRAME: Case = ("Conv", ((1, 3, 16, 32), (3, 3, 3, 3), (3,)), PADDED)
CASE: Case = ("Conv", ((1, 32, 16, 32), (32, 32, 3, 3), (32,)), PADDED)
TRIALS = 12
GPUS = {"rtx3090": Precision.FP32, "v100": Precision.FP16, "rtx5090": Precision.FP16}


@pytest.fixture(scope="module", params=GPUS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The target, the database, and what tuning and its schedules came to."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    skip_without_cuda_compiler(name, folder)
    save(legalized(CASE, name, GPUS[name]), folder / "graph.onnx")
    asked = Asked(
        request=Request(
            graphs=((str(folder / "graph.onnx"), 1),),
            target=tvm_target(target(name), BuildOptions()),
            database=str(folder / "database"),
            device="stand-in",
            threads=0,
            builders=2,
            trials=TRIALS,
        ),
        folder=str(folder),
        result=str(folder / "result.json"),
    )
    (folder / "asked.json").write_bytes(msgspec.json.encode(asked))
    run_module("support.gpu_tuning", folder / "asked.json")
    return name, folder / "database", json.loads((folder / "result.json").read_text())


@pytest.mark.slow
def test_candidates_are_built_kept_and_compute_the_same(run: Any) -> None:
    name, database, found = run
    records = Store(database).read().records
    result = found["result"]
    assert result["hits"] == len(result["tasks"])
    assert {record.target for record in records} == {f"cuda/{target(name).tvm['arch']}"}
    assert {record.threads for record in records} == {0}
    assert sum(record.searched for record in records) == TRIALS
    built = [record for record in records if record.searched and record.seconds]
    assert len(built) >= TRIALS // 2, [record.error for record in records if record.error]
    # Sums of a few hundred products in another order; half-precision results are rounded to 11 bits.
    room = 2e-6 if GPUS[name] is Precision.FP32 else 2e-3
    assert sum(ran for _, ran in found["errors"].values()) >= len(built) // 2 > 0
    assert max(error for error, _ in found["errors"].values()) <= room


@pytest.mark.slow
def test_a_build_takes_them_up(run: Any, tmp_path: Path) -> None:
    name, database, found = run
    options = BuildOptions(precision=GPUS[name], settings={"tuning": str(database)})
    artifact = Tvm().compile(legalized(CASE, name, GPUS[name]), target(name), options, tmp_path)
    assert artifact.facts["tasks"] == artifact.facts["tasks_measured"] == len(found["result"]["tasks"])
    assert artifact.facts["tuned"] == "yes"
    took = sum(task["calls"] * task["best_s"] for task in found["result"]["tasks"])
    assert artifact.facts["tasks_ms"] == pytest.approx(1000 * took, rel=2e-3)
    assert "records_failed" not in artifact.facts


@pytest.mark.slow
def test_half_precision_is_searched_on_tensor_cores(run: Any) -> None:
    name, database, _ = run
    on_them = [r for r in Store(database).read().records if TENSORIZE in r.trace]
    if GPUS[name] is Precision.FP32:
        assert on_them == []
        return
    assert any(record.seconds for record in on_them), [record.error for record in on_them]


def test_what_cannot_be_measured_here_is_said_before_anything_is_built(tmp_path: Path) -> None:
    if not isinstance(engine.nvidia_gpus(), str):
        pytest.skip("this machine has an NVIDIA GPU")
    skip_without_cuda_compiler("rtx3090", tmp_path)
    save(infer_shapes(model(FRAME)), tmp_path / "graph.onnx")
    with pytest.raises(MissingSdkError, match=r"NVIDIA .*: measure on a farm of such devices, by --tracker"):
        tune(
            onnx_files.load(tmp_path / "graph.onnx"),
            target("rtx3090"),
            Precision.FP32,
            tmp_path / "database",
            limits=Limits(trials=1),
        )
    assert not (tmp_path / "database").exists()


def test_a_measurement_stops_at_the_driver(tmp_path: Path) -> None:
    if not isinstance(engine.nvidia_gpus(), str):
        pytest.skip("this machine has an NVIDIA GPU")
    job = Run(library="none.so", function="f", arguments=(), reference="", cuda=True)
    with pytest.raises(SuperlowerError, match="NVIDIA GPU, and TVM finds none"):
        worker.run(job)
