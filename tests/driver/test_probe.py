"""Probing: every answer is kept whatever the SDK does, and numbers are held to float64."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from superlower.backends.registry import backend
from superlower.driver import probe_child
from superlower.driver.probe import probed_targets, refresh, run_probes
from superlower.driver.probe_child import load_arrays, save_arrays
from superlower.errors import BadInputError, BuildFailedError
from superlower.probes import tables
from superlower.probes.cases import cases
from superlower.probes.tables import Verdict
from superlower.targets.base import Target
from superlower.targets.catalog import target
from support.unsteady import Unsteady, case


@pytest.fixture(autouse=True)
def children_find_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def cpu() -> Target:
    return target("cpu")


def test_a_case_that_crashes_costs_no_other(cpu: Target) -> None:
    ops = ("Abs", "Exp", "Floor", "Sin", "Neg")
    told: list[str] = []
    table = run_probes(Unsteady(), cpu, [case(op) for op in ops], told.append)
    assert {r.case: r.verdict for r in table.results} == {
        "Abs/13/fp32": Verdict.RIGHT,
        "Exp/13/fp32": Verdict.CRASHED,
        "Floor/13/fp32": Verdict.WRONG,
        "Sin/13/fp32": Verdict.REFUSED,
        "Neg/13/fp32": Verdict.WRONG,
    }
    assert sorted(told) == sorted(f"{op}/13/fp32" for op in ops if op != "Exp")
    found = {r.case.partition("/")[0]: r for r in table.results}
    assert found["Floor"].error == 1
    assert found["Floor"].tolerance == 4.77e-07  # To three digits.
    assert found["Sin"].detail == "no sines"
    assert (found["Neg"].error, found["Neg"].detail) == (None, "output 'y' is [2], not [4]")
    assert found["Abs"].key == "Abs-13 fp32"
    assert (table.backend, table.target, table.sdk) == ("unsteady", "cpu", {"unsteady": "1.0"})
    assert table.machine == cpu.title


def test_a_case_that_never_ends_is_stopped(cpu: Target) -> None:
    table = run_probes(Unsteady(), cpu, [case("Ceil"), case("Abs")], limit_s=3)
    assert [r.verdict for r in table.results] == [Verdict.CRASHED, Verdict.RIGHT]


def test_a_process_that_dies_at_once_is_an_error(cpu: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unsteady, "__module__", "no_such_module")
    with pytest.raises(BuildFailedError, match="no_such_module"):
        run_probes(Unsteady(), cpu, [case("Abs")])


def test_a_target_it_does_not_serve() -> None:
    with pytest.raises(BadInputError, match="it knows CPUs only"):
        run_probes(Unsteady(), target("rtx3090"), [case("Abs")])


def test_tables_are_written_for_each_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unsteady, "missing", lambda _: None)
    (done,) = refresh([Unsteady()], tmp_path / "new", [case("Abs"), case("Sin", large=True)])
    assert done.path == tmp_path / "new" / "unsteady-cpu.json"
    assert done.verdicts == {"right": 1, "refused": 1}
    table = tables.read(done.path)
    assert [r.large for r in table.results] == [False, True]
    monkeypatch.setattr(Unsteady, "missing", lambda _: "it isn't installed")
    (left,) = refresh([Unsteady()], tmp_path, [case("Abs")])
    assert (left.path, left.reason) == (None, "it isn't installed")
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match=r"can't write probe tables to .*file"):
        refresh([Unsteady()], tmp_path / "file", [])


def test_what_is_probed_here() -> None:
    rtx = [t.compute_capability for t in probed_targets(backend("tensorrt-rtx"))]
    assert rtx == [75, 80, 86, 89, 120]
    assert [t.name for t in probed_targets(backend("tvm"))] == ["cpu", "rtx3090"]
    assert [t.name for t in probed_targets(backend("openvino"))] == ["cpu"]


def test_arrays_of_every_type_survive(tmp_path: Path) -> None:
    arrays = {
        "scalar": np.array(1.5, np.float32),
        "brain": np.array([[1, -2], [3, 0.1]], ml_dtypes.bfloat16),
        "half": np.array([np.inf, np.nan, -0.0], np.float16),
        "flags": np.array([True, False]),
        "": np.zeros((0, 3), np.int8),
    }
    save_arrays(tmp_path / "a.npz", arrays)
    found = load_arrays(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_onnxruntime_is_right_where_it_should_be(cpu: Target) -> None:
    """One plain operator, one whose 4K frames break in fp16, one without a kernel."""
    names = ("GridSample/linear-zeros/20/fp32", "GridSample/warp-linear-zeros/20/fp16/4k")
    found = [c for c in cases(["GridSample"]) if c.name in (*names, "GridSample/linear-zeros/22/bf16")]
    table = run_probes(backend("onnxruntime"), cpu, found)
    assert {r.case: r.verdict for r in table.results} == {
        names[0]: Verdict.RIGHT,
        names[1]: Verdict.WRONG,
        "GridSample/linear-zeros/22/bf16": Verdict.REFUSED,
    }


def test_outputs_of_another_type_are_not_compared(cpu: Target) -> None:
    """OpenVINO 2026.4 gives bf16 tensors to numpy as float16, and takes no array to write them into."""
    pytest.importorskip("openvino", reason="OpenVINO isn't installed: pip install 'superlower[openvino]'")
    (cast,) = (c for c in cases(["Cast"]) if c.name == "Cast/to-bf16/19/fp32")
    (result,) = run_probes(backend("openvino"), cpu, [cast]).results
    assert result.verdict is Verdict.BUILT
    assert result.detail == "superlower feeds and reads no bfloat16"
    misread = probe_child._misread(cast.model(), {"out0": np.zeros(1, np.float16)})
    assert misread == "output 'out0' comes as float16, not bfloat16"


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tvm"])
def test_scalars_reach_the_sdk_as_scalars(cpu: Target, name: str) -> None:
    """Not shaped [1], which TVM refuses, nor read-only, which OpenVINO does."""
    sdk = backend(name)
    if (reason := sdk.missing()) is not None:
        pytest.skip(reason)
    (clip,) = (c for c in cases(["Clip"]) if c.name == "Clip/computed/19/fp32")
    (result,) = run_probes(sdk, cpu, [clip]).results
    assert (result.verdict, result.detail) == (Verdict.RIGHT, "")
