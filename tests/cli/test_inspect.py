"""superlower inspect: costs and engines, as people and as programs read them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from superlower.driver.inspect_model import model_cost
from superlower.frontends import onnx_files
from superlower.targets.catalog import targets
from support.command import superlower


def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text as on a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")


def test_costs_are_those_of_the_schedule(basicvsr_folder: Path) -> None:
    found = superlower("inspect", basicvsr_folder, "--frames", 11, "--json").json
    cost = model_cost(onnx_files.load(basicvsr_folder), 11)
    # Eleven frames have ten neighbours each way.
    assert found["costs"]["flow"]["calls_per_frame"] == pytest.approx(20 / 11)
    assert found["costs"]["forward"]["flops"] == cost.graphs["forward"].flops
    assert sum(found["per_frame"]["flops"].values()) == pytest.approx(cost.total)
    assert found["per_frame"]["least_bytes"] < found["per_frame"]["unfused_bytes"]
    bounds = {(row["target"], row["precision"]): row for row in found["roofline"]}
    with_figures = {t.name for t in targets() if t.peak_tops and t.bandwidth_gbs}
    assert {name for name, _ in bounds} == with_figures
    v100 = bounds["v100", "fp32"]
    calls = {name: cost["calls_per_frame"] for name, cost in found["costs"].items()}
    assert v100["seconds"] == pytest.approx(sum(calls[n] * g["seconds"] for n, g in v100["graphs"].items()))
    assert bounds["v100", "fp16"]["seconds"] < v100["seconds"]
    assert found["costs"]["flow"]["nodes"] == []


def test_nodes_are_listed_when_asked_for(basicvsr_folder: Path) -> None:
    found = superlower("inspect", basicvsr_folder, "--nodes", "--json").json
    for cost in found["costs"].values():
        assert sum(node["flops"] for node in cost["nodes"]) == sum(cost["flops"].values())
        assert sum(node["bytes"] for node in cost["nodes"]) == cost["unfused_bytes"]
    assert "GridSample" in superlower("inspect", basicvsr_folder, "--nodes").stderr


def test_it_fits_a_hundred_columns(basicvsr_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide(monkeypatch)
    shown = superlower("inspect", basicvsr_folder, "--nodes").stderr
    assert max(map(len, shown.splitlines())) <= 100
    for heading in ("cost of one call", "least ms a frame", "without peaks in the catalogue: cpu"):
        assert heading in shown


def test_a_graph_of_a_program_alone(basicvsr_folder: Path) -> None:
    path = basicvsr_folder / "graphs" / "flow.onnx"
    found = superlower("inspect", path, "--json").json
    assert found["graph"]["inputs"] == {"ref": [1, 3, 64, 64], "sup": [1, 3, 64, 64]}
    whole = superlower("inspect", basicvsr_folder, "--json").json
    assert found["costs"]["flow"]["flops"] == whole["costs"]["flow"]["flops"]
    assert found["costs"]["flow"]["calls_per_frame"] == 1
    shown = superlower("inspect", path).stderr
    assert "input ref: 1x3x64x64" in shown


def test_the_engines_of_a_bundle(recurrent_bundle: Path) -> None:
    found = superlower("inspect", recurrent_bundle, "--json").json
    (name,) = found["engines"]
    assert name.startswith("onnxruntime-cpu-fp32/")
    assert found["engines"][name]["kind"] == "ONNX model"
    assert f"{name}: ONNX model" in superlower("inspect", recurrent_bundle).stderr
    assert "layers of " in superlower("inspect", recurrent_bundle, "--layers").stderr


def test_device_code_of_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from superlower.backends.tvm import nvrtc

    wide(monkeypatch)
    library = next((found for found in nvrtc.libraries() if "sm_70" in found.archs), None)
    if library is None:
        pytest.skip("no NVRTC with sm_70: pip install 'nvidia-cuda-nvrtc-cu12==12.9.*'")
    source = 'extern "C" __global__ void twice(float* a) { a[threadIdx.x] *= 2; }'
    engine = tmp_path / "engine.so"
    engine.write_bytes(b"host code" + library.compile(source, arch="sm_70"))
    found = superlower("inspect", engine, "--json").json["engine"]
    assert [(c["arch"], c["kind"], len(c["kernels"])) for c in found["device_code"]] == [
        ("sm_70", "cubin", 1)
    ]
    assert "cubin sm_70 1 kernels" in superlower("inspect", engine).stderr
    assert "twice" in superlower("inspect", engine, "--layers").stderr


def test_damaged_engines_are_one_line(recurrent_bundle: Path, tmp_path: Path) -> None:
    outcome = superlower("inspect", shutil.copy(__file__, tmp_path / "engine.xml"))
    assert outcome.code == 2
    assert "is no OpenVINO model" in outcome.error


def test_independence_is_told_once_a_call(basicvsr_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    found = superlower("inspect", basicvsr_folder, "--json").json["facts"]["independent"]
    shown = superlower("inspect", basicvsr_folder).stderr
    told = dict(line.split(" at t: ", 1) for line in shown.splitlines() if line.startswith("independent of "))
    assert told.keys() == {f"independent of {first}" for first, _, _ in found}
    assert sum(len(others.split(", ")) for others in told.values()) == len(found) > len(told)
