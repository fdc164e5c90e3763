"""DeformConv as OpenVINO's own operation, against the operator's definition in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from superlower.backends.base import Support
from superlower.backends.openvino import OpenVino
from superlower.backends.openvino_build import compute_in
from superlower.backends.openvino_deform import shared_core
from superlower.ir import serialize
from superlower.probes.case import Case, widen
from superlower.probes.cases.deform_conv import cases
from superlower.targets.base import Precision, Target
from support.deform import Deform
from support.graphs import GraphBuilder

openvino = pytest.importorskip(
    "openvino", reason="OpenVINO isn't installed: pip install 'superlower[openvino]'"
)

CASES = {case.name: case for case in cases() if "/fp32" in case.name}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_probe_is_passed_from_written_ir(case: Case, tmp_path: Path) -> None:
    """Reading needs the conversion, the IR it is written to doesn't: an engine loads with a plain Core."""
    openvino.save_model(
        shared_core().read_model(serialize(case.model())), tmp_path / "model.xml", compress_to_fp16=False
    )
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(tmp_path / "model.xml"), "CPU", settings)
    feeds = case.feeds(np.random.default_rng(0))
    expected = case.reference({name: widen(array) for name, array in feeds.items()})["out0"]
    found = compiled.create_infer_request().infer(feeds)[0]
    assert np.abs(found - expected).max() <= case.tolerance.absolute


def test_covered_natively(cpu_target: Target) -> None:
    (node,) = OpenVino().coverage(Deform().model(), cpu_target, Precision.FP32)
    assert node.support is Support.NATIVE


def test_offsets_stay_in_fp32_where_products_are_bf16() -> None:
    """Of two convolutions, one makes the offsets: rounded to 8 bits they would be off by parts of a pixel."""
    g = GraphBuilder()
    x = g.input("x", 1, 4, 8, 8)
    offset = g.Conv(x, g.const(np.ones((18, 4, 3, 3))), pads=[1, 1, 1, 1])
    features = g.Conv(x, g.const(np.ones((4, 4, 3, 3))), pads=[1, 1, 1, 1])
    aligned = g.DeformConv(features, g.const(np.ones((4, 4, 3, 3))), offset, pads=[1, 1, 1, 1])
    model = shared_core().read_model(serialize(g.model(aligned)))
    assert compute_in(model, "bf16") == 1
    (op,) = (op for op in model.get_ops() if op.get_type_name() == "DeformableConvolution")
    assert op.input_value(1).get_node().input_value(0).get_element_type().get_type_name() == "f32"


def test_without_the_conversion_it_is_refused() -> None:
    """What this module is for; when OpenVINO takes it by itself, the module can go."""
    with pytest.raises(RuntimeError, match="DeformConv"):
        openvino.Core().read_model(serialize(Deform().model()))
