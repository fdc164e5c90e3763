"""The examples do what their pages say."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from superlower.media.samples import SAMPLES
from superlower.passes.pipelines import apply, count
from superlower.passes.surgery import Surgery
from support.command import superlower
from support.published import fetched

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_every_example_is_on_the_page() -> None:
    page = (EXAMPLES / "README.md").read_text()
    assert {f.name for f in EXAMPLES.glob("*.py")} == {
        f.name for f in EXAMPLES.glob("*.py") if f.name in page
    }


def test_the_running_average_compiles_and_averages(tmp_path: Path) -> None:
    folder, bundle = tmp_path / "average", tmp_path / "average.bundle"
    command = [sys.executable, str(EXAMPLES / "running_average.py"), str(folder), "--size", "12x16"]
    subprocess.run(command, check=True, capture_output=True)
    assert superlower("compile", folder, "-o", bundle, "-t", "cpu", "-b", "onnxruntime").code == 0
    assert superlower("check", bundle).code == 0

    from superlower.bundle.bundle import Bundle
    from superlower.runtime.load import open_runner

    opened = Bundle.open(bundle)
    flat = [np.full((1, 3, 12, 16), level, np.float32) for level in (1.0, 0.0, 0.0)]
    with open_runner(opened, opened.pick()) as runner:
        levels = [float(output.mean()) for output in runner.run(flat)]
    keep = runpy.run_path(str(EXAMPLES / "running_average.py"))["KEEP"]
    assert levels == pytest.approx([1.0, keep, keep**2], abs=1e-6)


@pytest.mark.slow
def test_the_sharpener_runs_where_busy(tmp_path: Path) -> None:
    folder, bundle = tmp_path / "busy", tmp_path / "busy.bundle"
    command = [
        sys.executable,
        str(EXAMPLES / "sharpen_where_busy.py"),
        str(folder),
        "--size",
        "48x60",
        "--threshold",
        "0.28",
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert "chosen by busy[t] for each of 4x5 patches of 12x12" in superlower("inspect", folder).stderr
    assert superlower("compile", folder, "-o", bundle, "-t", "cpu", "-b", "onnxruntime").code == 0
    checked = superlower("check", bundle).stderr
    assert "its own differ for 0 patches, 1 may" in " ".join(checked.split())
    assert "of the golden clip's patches run" in superlower("inspect", bundle).stderr
    timed = superlower("bench", "speed", bundle, "--rounds", 1)
    assert "sharpen of onnxruntime-cpu-fp32 ran for" in timed.stderr


@pytest.mark.slow
def test_skips_are_trained_and_go_on_from_where_they_were(tmp_path: Path) -> None:
    """Two steps of one piece: nothing is learned, but all that is written fits what it was made for."""
    torch = pytest.importorskip("torch", reason="PyTorch isn't installed")
    from superlower.frontends.base import ExportRequest
    from superlower.frontends.zoo.basicvsr_torch import BasicVsrNet
    from superlower.frontends.zoo.skipvsr import SkipVsr

    fetched(SAMPLES["bikes"])
    torch.manual_seed(0)
    weights, skips = tmp_path / "weights.pth", tmp_path / "skips.npz"
    torch.save({"params": BasicVsrNet(1).state_dict()}, weights)
    command = [sys.executable, str(EXAMPLES / "train_skipvsr.py"), str(skips), "--weights", str(weights)]
    first = subprocess.run([*command, "--pieces", "1"], check=True, capture_output=True, text=True)
    assert "teacher: 1 pieces" in first.stdout
    second = subprocess.run([*command, "--pieces", "1"], check=True, capture_output=True, text=True)
    assert "teacher" not in second.stdout
    assert "forward: change" in second.stdout
    asked = ExportRequest(weights, 40, 40, {"skips": str(skips)}, str(weights))
    flat = [np.full((1, 3, 40, 40), 0.5, np.float32)] * 2
    assert all(np.isfinite(output).all() for output in SkipVsr().reference(asked)(flat))


def test_the_surgery_says_relu() -> None:
    pytest.importorskip("onnx_graphsurgeon")
    shape = [1, 1, 2, 2]
    graph = helper.make_graph(
        [
            helper.make_node("LeakyRelu", ["x"], ["a"], "flat", alpha=0.0),
            helper.make_node("LeakyRelu", ["a"], ["y"], "leaky", alpha=0.1),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    proto = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 19)])
    onnx.checker.check_model(proto)
    feeds = [{"x": np.array([[[[-1, 2], [3, -4]]]], np.float32)}]
    surgery = Surgery(script=f"{EXAMPLES / 'relu_surgery.py'}:leaky_to_relu")
    model, (report,) = apply(ir.from_proto(proto), [surgery], feeds)
    assert count(model) == {"Relu": 1, "LeakyRelu": 1}
    assert report.deviation is not None
    assert report.deviation.relative == 0
