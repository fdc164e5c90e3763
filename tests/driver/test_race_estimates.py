"""Times of engines that can't be run here."""

from __future__ import annotations

from pathlib import Path

import msgspec
import onnx_ir as ir
import pytest

from superlower.backends.base import Artifact
from superlower.driver.race_estimates import KERNEL_S, estimated_ms
from superlower.ir import infer_shapes
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.gpu_schedules import TRUNK, model


@pytest.fixture
def graph() -> ir.Model:
    """A trunk's convolution at 180x320, and a Relu."""
    return infer_shapes(model(TRUNK))


def engine(backend: str, **facts: float) -> Artifact:
    return Artifact(backend=backend, target="v100", precision=Precision.FP16, files={}, sdk={}, facts=facts)


def test_by_figures_tensor_cores_are_what_tells(graph: ir.Model, tmp_path: Path) -> None:
    times = {
        name: estimated_ms(graph, engine(name), tmp_path, target("v100"), Precision.FP16)
        for name in ("tensorrt", "tvm")
    }
    assert times["tensorrt"] is not None
    assert times["tvm"] is not None
    assert 1000 * KERNEL_S < times["tensorrt"] < times["tvm"] / 2


def test_the_share_that_a_build_put_on_tensor_cores_counts(graph: ir.Model, tmp_path: Path) -> None:
    plain, half, whole = (
        estimated_ms(graph, engine("tvm", tensor_core_share=share), tmp_path, target("v100"), Precision.FP16)
        for share in (0.0, 0.5, 1.0)
    )
    assert None not in (plain, half, whole)
    assert whole < half < plain  # type: ignore[operator]


def test_by_measurements_of_all_its_functions(graph: ir.Model, tmp_path: Path) -> None:
    v100 = target("v100")
    assert estimated_ms(graph, engine("tvm", tasks_ms=0.125), tmp_path, v100, Precision.FP16) == 0.125
    # Beside backends of which nothing is known they say nothing either.
    unknown = msgspec.structs.replace(v100, peak_tops={}, bandwidth_gbs=None)
    assert estimated_ms(graph, engine("tvm", tasks_ms=0.125), tmp_path, unknown, Precision.FP16) is None
