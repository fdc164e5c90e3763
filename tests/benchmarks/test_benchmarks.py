"""The benchmark scripts: what they make of their measurements, and that they run."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from superlower.errors import OutputsDifferError
from superlower.program.chunks import cut

pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")
pytest.importorskip("openvino", reason="OpenVINO isn't installed: pip install 'superlower[openvino]'")

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
MODULES = ("common", "profiled", "speed", "chunking", "rewrites")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Imports a script by its name, as Python does when it is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def test_throughput_is_taken_round_by_round(load) -> None:
    speed: ModuleType = load("speed")
    plain = [SimpleNamespace(seconds=s) for s in (2.0, 4.0, 2.5)]
    profiled = [
        SimpleNamespace(seconds=2.2, by_type={"Convolution": 1.0, "Reorder": 0.2}),
        SimpleNamespace(seconds=4.0, by_type={"Convolution": 2.0, "Reorder": 0.4}),
        SimpleNamespace(seconds=2.5, by_type={"Convolution": 1.25, "Reorder": 0.3}),
    ]
    rates = {"small": [300.0, 160.0, 240.0], "large": [200.0, 200.0, 400.0]}
    found = speed.throughput(200.0, 4, plain, profiled, rates)
    assert found.gflop_frame == 50
    assert found.convolutions.rounds == (200, 100, 160)
    assert found.wall.rounds == (100, 50, 80)
    assert found.peak.rounds == (300, 200, 400)
    assert found.fraction.rounds == pytest.approx((2 / 3, 0.5, 0.4))
    assert found.fraction.median == 0.5
    assert found.wall_fraction.rounds == pytest.approx((1 / 3, 0.25, 0.2))
    assert found.overhead.median == 1
    assert found.shares == pytest.approx({"Convolution": 4.25 / 5.15, "Reorder": 0.9 / 5.15})


def test_bars_are_held_at_their_value(load) -> None:
    speed: ModuleType = load("speed")
    assert speed.Bar("x", 1.15, 1.15).met
    assert not speed.Bar("x", 1.1499, 1.15).met


def test_profiled_convolutions_are_those_of_the_graph(load, upscaler_openvino: Path) -> None:
    from superlower.bundle.bundle import Bundle

    profiled: ModuleType = load("profiled")
    bundle = Bundle.open(upscaler_openvino)
    clip = bundle.golden().frames[:2]
    lap = profiled.ProfiledClip(bundle, bundle.manifest.variants[0], clip)
    first, second = lap(), lap()
    lap.hold_to(bundle)
    for each in (first, second):
        assert 0 <= each.by_type["Convolution"] <= each.seconds
    other = bundle.model().with_graphs({name: _one_more_conv(g) for name, g in bundle.model().graphs.items()})
    with pytest.raises(OutputsDifferError, match="has 4 Conv nodes, OpenVINO executed 3"):
        lap.hold_to(SimpleNamespace(model=lambda: other))


@pytest.fixture(scope="module")
def upscaler_openvino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lone upscaler of three convolutions, compiled by OpenVINO."""
    from support.command import superlower
    from support.models import save_upscaler

    folder = tmp_path_factory.mktemp("upscaler-openvino")
    model = save_upscaler(folder / "upscaler.onnx")
    asked = ("-t", "cpu", "-b", "openvino", "--threads", 1, "--frames", 3)
    outcome = superlower("compile", model, "-o", folder / "bundle", *asked)
    assert outcome.code == 0, outcome.stderr
    return folder / "bundle"


def _one_more_conv(graph):
    import onnx_ir as ir

    conv = next(node for node in graph.graph if node.op_type == "Conv")
    twin = ir.node("Conv", conv.inputs, attributes=conv.attributes, name="twin")
    twin.outputs[0].shape = conv.outputs[0].shape
    graph.graph.append(twin)
    return graph


def test_chunks_are_scored_by_distance_to_their_end(load) -> None:
    chunking: ModuleType = load("chunking")
    whole = [np.zeros((1, 1, 2, 2), np.float32) for _ in range(8)]
    outputs = [np.full((1, 1, 2, 2), e, np.float32) for e in (0, 0.1, 0.2, 0, 0.3, 0.4, 0.9, 0.9)]
    chunks = [c for c in cut(8, 3, 1) if c.end < 8]
    assert [(c.first, c.stop, c.end) for c in chunks] == [(0, 3, 4), (3, 6, 7)]
    rows = chunking.by_distance(chunking.errors(outputs, whole, chunks))
    assert [(row.distance, row.frames) for row in rows] == [(0, 2), (1, 2), (2, 2)]
    # Errors 0.2 and 0.4 at the end: a mean square of 0.1 is 10 dB; 0.16 alone 7.96.
    assert rows[0].psnr_db == pytest.approx(10, abs=1e-5)
    assert rows[0].worst_psnr_db == pytest.approx(7.9588, abs=1e-4)
    assert rows[0].max_abs == pytest.approx(0.4)
    assert rows[2].psnr_db is None


def test_rewrites_that_change_outputs_stop_the_benchmark(load) -> None:
    rewrites: ModuleType = load("rewrites")

    def gives(value: float) -> list[np.ndarray]:
        return [np.full((1, 1, 2, 2), value, np.float32)]

    row = rewrites._in_turns("x", "openvino", (2, 1), [lambda: gives(1), lambda: gives(1.0005)], 3, 1)
    assert row.error == pytest.approx(5e-4, abs=1e-6)
    assert len(row.wall.ratios) == len(row.cpu.ratios) == 3
    with pytest.raises(OutputsDifferError, match=r"differ by 0\.5"):
        rewrites._in_turns("x", "openvino", (2, 1), [lambda: gives(1), lambda: gives(1.5)], 1, 1)


def _run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_speed_runs(tmp_path: Path) -> None:
    output = tmp_path / "speed.json"
    small = ("--size", "64x64", "--blocks", 1, "--frames", 2, "--rounds", 1, "--no-bars")
    run = _run("speed.py", *small, "-o", output)
    assert run.returncode == 0, run.stderr
    found = json.loads(output.read_text())
    assert found["machine"]["title"] in " ".join(run.stderr.split())
    assert [row["name"] for row in found["contenders"]] == [
        "PyTorch eager fp32",
        "onnxruntime-cpu-fp32",
        "openvino-cpu-fp32",
    ]
    assert {row["threads"] for row in found["contenders"]} == {found["machine"]["threads"]}
    throughput = found["throughput"]
    # Two frames: two flows and both sweeps. SPyNet's 7x7 kernels on six levels, 64 to 2 pixels wide; a trunk
    # of one block takes 67, 64, 64 channels to 64; then fusion, and the convolutions at 1 to 16 times 64x64.
    flow = 49 * (8 * 32 + 32 * 64 + 64 * 32 + 32 * 16 + 16 * 2) * sum(4**level for level in range(1, 7))
    trunk = 9 * 64 * (67 + 64 + 64) * 64**2
    head = (128 * 64 + 9 * 64 * (256 + 4 * 256 + 16 * 64 + 16 * 3)) * 64**2
    assert throughput["gflop_frame"] * 1e9 == pytest.approx(2 * (flow + 2 * trunk + head))
    assert max(throughput["peak"]["rounds"]) == max(p["high"] for p in throughput["products"].values())
    assert sum(throughput["shares"].values()) == pytest.approx(1)
    assert [bar["met"] for bar in found["bars"]] == [bar["measured"] >= bar["bar"] for bar in found["bars"]]


def test_few_rounds_hold_no_bar() -> None:
    run = _run("speed.py", "--rounds", 4)
    assert run.returncode == 2
    assert "5 at least" in run.stderr


@pytest.mark.slow
def test_chunking_runs(tmp_path: Path) -> None:
    from superlower.errors import BadInputError
    from superlower.frontends.fetch import fetch
    from superlower.media.samples import SAMPLES

    try:
        fetch(SAMPLES["carphone"].location, sha256=SAMPLES["carphone"].sha256)
    except BadInputError as error:
        pytest.skip(f"the sample can't be fetched: {error}")
    output = tmp_path / "chunking.json"
    small = ("--size", "64x64", "--blocks", 1, "--frames", 8, "--chunk", 3, "--look-ahead", 0, 3)
    run = _run("chunking.py", *small, "-o", output)
    assert run.returncode == 0, run.stderr
    none, three = json.loads(output.read_text())["cuts"]
    # At the end of a chunk that looks nowhere ahead, the backward state is zeros.
    assert none["rows"][0]["psnr_db"] < none["rows"][-1]["psnr_db"]
    assert none["rows"][0]["psnr_db"] < three["rows"][0]["psnr_db"]
    assert none["calls"]["forward"] == three["calls"]["forward"] == 8
    # Backward states that a look-ahead computed are computed anew by the next chunk.
    assert none["calls"]["backward"] == 8
    assert three["calls"]["backward"] > 8
    assert none["exact_max_abs"] == three["exact_max_abs"] == 0


@pytest.mark.slow
def test_rewrites_run(tmp_path: Path) -> None:
    output = tmp_path / "rewrites.json"
    cases = ("transposed convolution 4x4, stride 2", "ESPCN, transposed convolution")
    small = ("--size", "16x16", "--frames", 2, "--rounds", 1, "--threads", 1, "--backend", "openvino")
    asked = [part for case in cases for part in ("--case", case)]
    run = _run("rewrites.py", *small, *asked, "-o", output)
    assert run.returncode == 0, run.stderr
    rows = json.loads(output.read_text())["rows"]
    assert [row["case"] for row in rows] == list(cases)
    # 4x4 taps at each of 16x16 inputs, of 64 channels to 64; a padding of 1 is no multiple of the stride: the
    # pixel shuffle covers 17x17 and is cut.
    assert rows[0]["gflop"] == pytest.approx([2e-9 * (4 * 64 * 16) ** 2, 2e-9 * (4 * 64 * 17) ** 2])


@pytest.mark.slow
def test_routing_runs(tmp_path: Path) -> None:
    """Windows of 10x12 for 16 patches in 24x32 pixels: 4 have 0.625 of the frame's, 8 would have 1.25."""
    output = tmp_path / "routing.json"
    small = ("--size", "24x32", "--patch", "6x8", "--halo", 2, "--rounds", 1, "--backend", "onnxruntime")
    run = _run("routing.py", *small, "-o", output)
    assert run.returncode == 0, run.stderr
    pixels = [row["pixels"] for row in json.loads(output.read_text())["rows"]]
    assert pixels == [1, 2.5, 2.5, 2.5, 0, 0.625, 1, 1, 1]
