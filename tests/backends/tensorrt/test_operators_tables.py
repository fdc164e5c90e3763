"""The tables of what TensorRT's parser takes, and the tool that reads them from its documents."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from superlower.probes.key import Key
from superlower.probes.tables import Result, Verdict, stored

DOCUMENT = """
| Operator   | Supported | Supported Types | Restrictions |
|------------|-----------|-----------------|--------------|
| Col2Im     | N         |
| DeformConv | Y         | FP32, FP16 | `input` must have 1D or 2D spatial dimensions.
| GridSample | Y         | FP32, FP16 | Input must be 4D input.
| Relu       | Y         | FP32, FP16, BF16, INT32 |
| QuantizeLinear | Y     | FP32, FP16, BF16 | `y_zero_point` must be 0 |
| ScatterND  | Y [EXPERIMENTAL] | FP32, FP16, INT32 | `reduction` is not supported
"""


@pytest.fixture(scope="module")
def tool() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "tools")
        return importlib.import_module("onnx_tensorrt_operators")


@pytest.mark.parametrize(
    ("key", "major", "verdict", "detail"),
    [
        (Key("Relu", 14, "fp32"), 10, Verdict.BUILT, ""),
        (Key("Relu", 14, "bf16"), 10, Verdict.BUILT, ""),
        (Key("Relu", 14, "int64"), 10, Verdict.REFUSED, "not supported in int64"),
        (Key("Relu", 14, "int64"), 8, Verdict.BUILT, ""),
        (Key("Col2Im", 18, "fp32"), 10, Verdict.REFUSED, "Col2Im is not supported"),
        (Key("Sinh", 9, "fp32"), 10, Verdict.REFUSED, "Sinh is not supported"),
        (Key("DeformConv", 19, "fp16", ("rank=4",)), 10, Verdict.BUILT, "from TensorRT 10.1 on"),
        (Key("DeformConv", 19, "fp16", ("rank=5",)), 10, Verdict.REFUSED, "1 or 2 spatial dimensions"),
        (Key("GridSample", 16, "fp32", ("mode=bilinear", "rank=4")), 10, Verdict.BUILT, ""),
        (Key("GridSample", 20, "fp32", ("mode=linear", "rank=4")), 10, Verdict.WRONG, "as nearest"),
        (Key("GridSample", 20, "fp32", ("mode=nearest", "rank=4")), 10, Verdict.BUILT, ""),
        (Key("QuantizeLinear", 19, "fp32", ("per=tensor", "quantized=int8")), 10, Verdict.BUILT, ""),
        (Key("QuantizeLinear", 19, "fp32", ("quantized=uint8",)), 10, Verdict.REFUSED, "uint8"),
        (Key("ScatterND", 18, "fp32", ("reduction=none",)), 10, Verdict.BUILT, ""),
        (Key("ScatterND", 18, "fp32", ("reduction=add",)), 10, Verdict.REFUSED, "reduction is not supported"),
        (Key("ScatterND", 18, "fp32", ("reduction=add",)), 8, Verdict.WRONG, "ignores reduction"),
    ],
)
def test_rows_answer_for_keys(tool: Any, key: Key, major: int, verdict: Verdict, detail: str) -> None:
    found, said = tool.answer(tool.rows(DOCUMENT), key, major)
    assert found is verdict
    assert detail in said


@pytest.fixture(scope="module", params=[("cuda", "10.1"), ("8", "8.6")], ids=["10.1", "8.6"])
def table(request: pytest.FixtureRequest) -> tuple[str, dict[str, Result]]:
    """A shipped table's version, and its results by key."""
    name, version = request.param
    found = stored("tensorrt", name)
    assert found is not None
    assert found.sdk == {"tensorrt": version}
    return version, {result.key: result for result in found.results}


def test_what_the_shipped_tables_say_of_warps(table: tuple[str, dict[str, Result]]) -> None:
    version, results = table
    setting = "align_corners=1 mode={} padding_mode=zeros rank=4"
    for dtype in ("fp32", "fp16"):
        assert results[f"GridSample-16 {dtype} {setting.format('bilinear')}"].verdict is Verdict.BUILT
        assert results[f"GridSample-20 {dtype} {setting.format('linear')}"].verdict is Verdict.WRONG
    deform = [result for key, result in results.items() if key.startswith("DeformConv-19 fp32")]
    assert deform
    assert {r.verdict for r in deform} == {Verdict.BUILT if version == "10.1" else Verdict.REFUSED}
