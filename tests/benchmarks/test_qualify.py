"""The GPU run without a GPU: limits by a fake clock, steps by fake processes, tables, PyTorch on a CPU."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from superlower.backends.tensorrt.cuda import Device
from superlower.errors import BadInputError, MissingSdkError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The scripts' modules, imported as Python does when one of them is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("plan", "steps", "table", "qualify")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


class Clock:
    """Time passes where a step says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TestRunSteps:
    def run(
        self, plan: ModuleType, steps: list[Any], limit: float, **takes: float
    ) -> tuple[list[Any], list[int]]:
        clock, written = Clock(), []

        def run(step: Any, seconds: float) -> Any:
            wanted = takes.get(step.name, 1.0)
            clock.now += min(wanted, seconds)
            if wanted < 0:
                return plan.Record(step.name, plan.FAILED, 0.0, error="broken", exit_code=5)
            late = wanted > seconds
            return plan.Record(step.name, plan.LATE if late else plan.DONE, min(wanted, seconds))

        before = [plan.Record("old", plan.DONE, result={"of": "before"})]
        records = plan.run_steps(
            steps, limit, run, lambda r: written.append(len(r)), before=before, clock=clock
        )
        self.end = clock.now
        return records, written

    def test_a_checkpoint_after_each(self, scripts: dict[str, ModuleType]) -> None:
        plan = scripts["plan"]
        records, written = self.run(plan, [plan.Step("a", "a"), plan.Step("b", "b")], 100)
        assert [record.status for record in records] == ["done", "done"]
        assert written == [1, 2]

    def test_the_limit_holds_whatever_steps_want(self, scripts: dict[str, ModuleType]) -> None:
        plan = scripts["plan"]
        steps = [plan.Step(name, name, least_s=5) for name in "abc"]
        records, _ = self.run(plan, steps, 60, a=30, b=500, c=1)
        assert [record.status for record in records] == ["done", "out of time", "out of time"]
        assert records[2].error == "0 s are left, it takes 5 at least"
        assert self.end <= 60 - plan.RESERVE_S

    def test_a_steps_own_limit(self, scripts: dict[str, ModuleType]) -> None:
        plan = scripts["plan"]
        records, _ = self.run(plan, [plan.Step("a", "a", most_s=20), plan.Step("b", "b")], 100, a=500)
        assert [record.status for record in records] == ["out of time", "done"]
        assert self.end == pytest.approx(21)

    def test_what_needs_a_failed_step_is_skipped_and_the_rest_goes_on(
        self, scripts: dict[str, ModuleType]
    ) -> None:
        plan = scripts["plan"]
        steps = [plan.Step("a", "a"), plan.Step("b", "b", needs=("a",)), plan.Step("c", "c")]
        records, _ = self.run(plan, steps, 100, a=-1)
        assert [record.status for record in records] == ["failed", "skipped", "done"]
        assert records[1].error == "needs a, which isn't done"

    def test_builds_of_before_are_taken_and_measurements_are_not(
        self, scripts: dict[str, ModuleType]
    ) -> None:
        plan = scripts["plan"]
        records, _ = self.run(plan, [plan.Step("old", "old", kept=True)], 100)
        assert records[0].result == {"of": "before"}
        records, _ = self.run(plan, [plan.Step("old", "old")], 100)
        assert records[0].result == {}


class TestChild:
    SCRIPT = """
import json, os, sys, time
what = sys.argv[sys.argv.index("--do") + 1]
result = sys.argv[sys.argv.index("--result") + 1]
print("begun", flush=True)
if what == "hang":
    if os.fork() == 0:
        open(sys.argv[sys.argv.index("--work") + 1] + "/grandchild", "w").write(str(os.getpid()))
    time.sleep(600)
if what == "crash":
    os.kill(os.getpid(), 11)
if what == "refuse":
    sys.exit(print("no driver") or 6)
json.dump({"said": what}, open(result, "w"))
"""

    def do(self, plan: ModuleType, folder: Path, what: str, seconds: float = 60) -> Any:
        script = folder / "script.py"
        script.write_text(self.SCRIPT)
        return plan.child(script, folder)(plan.Step(what, what), seconds)

    def test_results_and_failures(self, scripts: dict[str, ModuleType], tmp_path: Path) -> None:
        plan = scripts["plan"]
        good = self.do(plan, tmp_path, "well")
        assert (good.status, good.result) == ("done", {"said": "well"})
        crashed = self.do(plan, tmp_path, "crash")
        assert (crashed.status, crashed.exit_code, crashed.error) == ("failed", 5, "killed by signal 11")
        refused = self.do(plan, tmp_path, "refuse")
        assert (refused.status, refused.exit_code, refused.error) == ("failed", 6, "no driver")
        assert (tmp_path / "logs" / "well.log").read_text() == "begun\n"

    def test_one_that_hangs_is_killed_with_what_it_started(
        self, scripts: dict[str, ModuleType], tmp_path: Path
    ) -> None:
        late = self.do(scripts["plan"], tmp_path, "hang", 1.5)
        assert late.status == "out of time"
        assert late.seconds < 30
        pid = (tmp_path / "grandchild").read_text()
        # The signal is sent; the kernel ends the process when it comes to it.
        deadline = time.monotonic() + 10
        while not self.ended(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.ended(pid)

    @staticmethod
    def ended(pid: str) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True


def test_records_are_read_as_they_were_written(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    plan = scripts["plan"]
    records = [plan.Record("a", "done", 1.5, {"x": [1]}), plan.Record("b", "failed", error="e", exit_code=5)]
    plan.write(tmp_path / "f.json", {"steps": plan.builtins(records)})
    assert plan.read_records(tmp_path / "f.json") == records
    (tmp_path / "f.json").write_text('{"steps": [{"nam')
    assert plan.read_records(tmp_path / "f.json") == []


class TestPlan:
    def test_a_model_at_a_time_and_tuning_last(self, scripts: dict[str, ModuleType]) -> None:
        steps = scripts["qualify"].steps_of(["one", "two"], ["tvm", "tensorrt"], tune=True)
        names = [step.name for step in steps]
        assert names[:7] == [
            "prepare one",
            "build one tvm",
            "check one tvm",
            "build one tensorrt",
            "check one tensorrt",
            "speed one",
            "torch.compile one",
        ]
        assert names[-3:] == ["tune one", "build one tvm tuned", "speed one tuned"]
        for step in steps:
            assert set(step.needs) <= set(names[: names.index(step.name)]), step

    def test_a_dry_run_ends_at_the_device(self, scripts: dict[str, ModuleType]) -> None:
        steps = scripts["qualify"].dry_steps(["one"], ["tvm"])
        assert [step.name for step in steps] == ["prepare one", "build one tvm", "device"]

    def test_the_exit_code(self, scripts: dict[str, ModuleType]) -> None:
        plan, verdict = scripts["plan"], scripts["qualify"].verdict
        assert verdict([plan.Record("check m tvm", "done", result={"v": {"passed": True}})]) == 0
        assert verdict([plan.Record("check m tvm", "done", result={"v": {"passed": False}})]) == 4
        assert verdict([plan.Record("build m tvm", "failed", exit_code=5)]) == 5
        assert verdict([plan.Record("tune m", "failed", exit_code=6)]) == 0
        assert verdict([plan.Record("speed m", "out of time")]) == 0


class TestTargets:
    def test_of_the_devices_architecture(self, scripts: dict[str, ModuleType]) -> None:
        target_of = scripts["steps"].target_of
        assert target_of([Device(0, "NVIDIA H200", 90)]).name == "h100"
        assert target_of([Device(0, "Tesla T4", 75)]).name == "t4"
        assert target_of([Device(0, "NVIDIA GeForce RTX 2080 Ti", 75)]).name == "rtx2080ti"
        with pytest.raises(MissingSdkError, match="sm_61"):
            target_of([Device(0, "GTX 1080", 61)])

    def test_a_dry_runs_target_is_a_gpu(self, scripts: dict[str, ModuleType]) -> None:
        with pytest.raises(BadInputError, match="is no NVIDIA GPU"):
            scripts["steps"].by_name("cpu")

    def test_backends_without_a_part_say_why(self, scripts: dict[str, ModuleType]) -> None:
        steps = scripts["steps"]
        told = steps.contending(steps.by_name("h100"), here=False)
        assert "no NVIDIA device" in told["openvino"]
        assert "9.0" in told["tensorrt-rtx"]


def document(**changed: object) -> dict[str, Any]:
    row = {"ms": 2.0, "rounds_ms": [1.5, 2.5], "ratio": 1.0, "ratios": [1.0, 1.0]}
    rows = [
        {**row, "name": "PyTorch eager fp32"},
        {**row, "name": "tvm-h100-fp32", "ms": 4.0, "ratio": 0.5, "ratios": [0.4, 0.6]},
    ]
    steps = [
        {"name": "prepare m", "status": "done", "result": {}},
        {
            "name": "build m tvm",
            "status": "done",
            "result": {
                "variants": {
                    "tvm-h100-fp32": {"MB": 1.0, "build_s": 7.0},
                    "tvm-h100-fp16": {"MB": 1.0, "build_s": 8.0},
                },
                "failures": {"tvm-h100-bf16": "no | kernel"},
            },
        },
        {
            "name": "check m tvm",
            "status": "done",
            "result": {
                "tvm-h100-fp32": {"passed": True, "max_abs": [1e-6, 2e-6]},
                "tvm-h100-fp16": {"passed": False, "max_abs": [0.5]},
            },
        },
        {
            "name": "speed m",
            "status": "done",
            "result": {"rows": rows, "errors": {"PyTorch eager fp32": 3e-7}},
        },
        {"name": "tune m", "status": "failed", "error": "no verb\n`tune`", "result": {}},
    ]
    whole = {
        "superlower": "0.1.0",
        "python": "3.11",
        "device": {"name": "NVIDIA H200", "sm": 90},
        "target": "h100",
        "settings": {"size": [180, 320]},
        "finished": True,
        "left out": {"openvino": "OpenVINO has no NVIDIA device"},
        "steps": steps,
    }
    return {**whole, **changed}


def test_the_table(scripts: dict[str, ModuleType]) -> None:
    lines = scripts["table"].markdown(document()).splitlines()
    assert lines[0] == "# GPU run: NVIDIA H200 (sm_90)"
    assert "| PyTorch eager fp32 | 2.00 (1.50 to 2.50) | 1.00 (1.00 to 1.00) | 3.0e-07 |  |" in lines
    assert "| tvm-h100-fp32 | 4.00 (1.50 to 2.50) | 0.50 (0.40 to 0.60) | 2.0e-06 |  |" in lines
    assert "| tvm-h100-fp16 | | | 5.0e-01 | OUT OF TOLERANCE |" in lines
    assert "| tvm-h100-bf16 | | | | not built: no / kernel |" in lines
    assert "- tune m: failed, no verb `tune`" in lines
    assert "- openvino: OpenVINO has no NVIDIA device" in lines
    dry = scripts["table"].markdown(document(device={}, finished=False))
    assert dry.startswith("# GPU run: no GPU: builds for h100\n")
    assert "The run isn't finished." in dry


def test_pytorch_by_the_clip_on_this_processor(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")
    from superlower.frontends.zoo.espcn import Espcn

    steps = scripts["steps"]
    assert Espcn.name == "espcn"
    network = steps.PyTorch("espcn", (16, 24), "random:0", device="cpu")
    clip = [np.random.default_rng(t).random((1, 1, 16, 24), np.float32) for t in range(3)]
    expected = network.runner(clip)()
    ready, errors, failed = steps.pytorch_contenders(network, clip, expected, compiled=False)
    assert list(ready) == ["PyTorch eager fp32", "PyTorch eager fp16 (autocast)"]
    assert errors["PyTorch eager fp32"] == 0
    assert 0 < errors["PyTorch eager fp16 (autocast)"] < 0.1
    assert failed == {}

    def broken(*_: object, **given: bool) -> object:
        if given["half"]:
            raise RuntimeError("no half here\nand more")
        return lambda: expected

    monkeypatch.setattr(steps.PyTorch, "runner", broken)
    ready, _, failed = steps.pytorch_contenders(network, clip, expected, compiled=False)
    assert list(ready) == ["PyTorch eager fp32"]
    assert failed == {"PyTorch eager fp16 (autocast)": "RuntimeError: no half here"}


def test_without_a_gpu_it_says_so_in_a_line(tmp_path: Path) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("there is a GPU here")
    done = subprocess.run(
        [sys.executable, str(FOLDER / "qualify.py"), "--work", str(tmp_path / "work")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 6
    assert done.stderr.startswith("qualify: no NVIDIA driver")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_a_dry_run_builds_for_sm_90_and_stops_at_the_driver(tmp_path: Path) -> None:
    pytest.importorskip("tvm", reason="TVM isn't installed: pip install 'superlower[tvm]'")
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("there is a GPU here")
    arguments = ("--dry-run", "--model", "egvsr", "--size", "64x64", "--work", str(tmp_path / "work"))
    done = subprocess.run(
        [sys.executable, str(FOLDER / "qualify.py"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 6, done.stderr
    assert done.stderr.splitlines()[-1].startswith("qualify: no NVIDIA driver")
    whole = json.loads((tmp_path / "work" / "qualify.json").read_text())
    built = {step["name"]: step for step in whole["steps"]}["build egvsr tvm"]
    assert built["status"] == "done"
    for variant in built["result"]["variants"].values():
        assert {facts["arch"] for facts in variant["facts"].values()} == {"sm_90"}
    assert "tvm-h100-fp32" in (tmp_path / "work" / "qualify.md").read_text()
