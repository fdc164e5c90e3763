"""Scenarios of TVM's rules."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from superlower.doctor.rules import Action
from superlower.errors import BuildFailedError, MissingSdkError
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.scenarios.base import (
    F16,
    F32,
    FP8,
    I8,
    I64,
    Scenario,
    convolution,
    feeds,
    floats,
    one,
    quantized,
    relu,
    weight,
)
from support.scenarios.sdks import (
    ort_outputs,
    refused_by_tvm,
    tvm_imported,
    tvm_outputs,
    wrong_in_tvm,
)

IMAGE = [1, 2, 6, 9]


def _resize(
    sizes: list[int] | None = None, scales: list[float] | None = None, **attributes: Any
) -> Callable[[], ir.Model]:
    constants: dict[str, Any] = {}
    if scales is not None:
        constants["scales"] = floats(*scales)
    if sizes is not None:
        constants["sizes"] = np.array(sizes, np.int64)
    order = ["x", "", "scales" if scales else "", *(["sizes"] if sizes else [])]
    return lambda: one(
        "Resize", {"x": (F32, IMAGE)}, {"y": (F32, None)}, constants, order=order, mode="linear", **attributes
    )


def _computed() -> ir.Model:
    inputs = {"x": (F32, IMAGE), "scales": (F32, [4])}
    return one("Resize", inputs, {"y": (F32, None)}, order=["x", "", "scales"], mode="linear")


def _transposed() -> ir.Model:
    # Without output_shape the result would be 9 by 9.
    shapes = {"x": (F32, [1, 2, 4, 4])}, {"y": (F32, [1, 3, 10, 10])}
    return one(
        "ConvTranspose", *shapes, {"w": weight(F32, 2, 3, 3, 3)}, strides=[2, 2], output_shape=[10, 10]
    )


def _pool() -> ir.Model:
    shapes = {"x": (F32, [1, 2, 7, 10])}, {"y": (F32, [1, 2, 4, 5])}
    return one("MaxPool", *shapes, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER")


def _scattered() -> ir.Model:
    inputs = {"x": (F32, [4, 8]), "i": (I64, [4, 8]), "u": (F32, [4, 8])}
    return one("ScatterElements", inputs, {"y": (F32, [4, 8])})


def _loops_on_the_host(model: ir.Model) -> None:
    from superlower.backends.base import BuildOptions
    from superlower.backends.tvm.backend import Tvm

    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.raises((BuildFailedError, MissingSdkError)) as raised,
    ):
        Tvm().compile(model, target("rtx3090"), BuildOptions(raw=True), Path(folder))
    if isinstance(raised.value, MissingSdkError):
        pytest.skip(str(raised.value))
    assert "no GPU schedule for scatter_elements" in str(raised.value)


def _sampler() -> ir.Model:
    inputs = {"x": (F16, IMAGE), "grid": (F16, [1, 6, 9, 2])}
    return one("GridSample", inputs, {"y": (F16, IMAGE)})


def _gives_float32(model: ir.Model) -> None:
    # Relax says float16 all the while.
    assert tvm_outputs(model)[0].dtype == np.float32


def _keeps_float16(model: ir.Model) -> None:
    given = feeds(model)
    wide = {name: array.astype(np.float32) for name, array in given.items()}
    ours = ort_outputs(
        one("GridSample", {k: (F32, v.shape) for k, v in wide.items()}, {"y": (F32, IMAGE)}), wide
    )
    theirs = tvm_outputs(model, given)
    assert theirs[0].dtype == np.float16
    # The result, up to about 3, is rounded to 11 bits.
    assert np.abs(ours[0] - theirs[0]).max() < 4 * 2.0**-11


def _swish() -> ir.Model:
    return one("Swish", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)}, opset=24)


def _foreign() -> ir.Model:
    return one("Relu", {"x": (F32, IMAGE)}, {"y": (F32, IMAGE)}, domain="acme")


def _taken_for_onnx(model: ir.Model) -> None:
    given = feeds(model)
    assert np.array_equal(tvm_outputs(model, given)[0], np.maximum(given["x"], 0))


def _float_convolutions(model: ir.Model) -> None:
    from tvm import relax

    module = relax.transform.DecomposeOpsForInference()(tvm_imported(model))
    text = module.script(show_meta=False)
    (line,) = (line for line in text.splitlines() if "conv2d(" in line)
    assert "int8" not in line


def _halves(model: ir.Model) -> None:
    from superlower.backends.tvm.precision import accumulate_in_float32

    plain = tvm_imported(model)
    assert 'out_dtype="float32"' not in plain.script()
    assert 'out_dtype="float32"' in accumulate_in_float32(plain).script()


def _no_tasks_before_fusion(model: ir.Model) -> None:
    import tvm
    from tvm import relax
    from tvm.s_tir import meta_schedule

    target = tvm.target.Target({"kind": "llvm", "num-cores": 1})
    module = relax.transform.DecomposeOpsForInference()(tvm_imported(model))

    def tasks(given: Any) -> int:
        return len(meta_schedule.relax_integration.extract_tasks(given, target))

    with target:
        assert tasks(module) == 0
        assert tasks(relax.get_pipeline("zero")(module)) > 0


def _no_volta_in_13(_: ir.Model) -> None:
    from superlower.backends.tvm.cuda import find_compiler

    nvcc = shutil.which("nvcc")
    if (
        nvcc is None
        or "release 13"
        not in subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    ):
        pytest.skip("nvcc of CUDA 13 isn't here")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "empty.cu"
        source.write_text("__global__ void nothing() {}")
        command = [nvcc, "-arch=sm_70", "--cubin", "-o", str(source.with_suffix(".cubin")), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Unsupported gpu architecture" in done.stderr
        pytest.importorskip("nvidia", reason="nvidia-cuda-nvrtc-cu12 isn't installed")
        assert find_compiler(["sm_70"], Path(folder)).name.startswith("NVRTC 12")


def _tvm(
    rule: str,
    model: Callable[[], ir.Model],
    without: Callable[[ir.Model], None],
    action: Action = Action.REFUSE,
    **more: Any,
) -> Scenario:
    return Scenario(rule, model, action, "tvm", without=without, needs="tvm", **more)


SCENARIOS = (
    _tvm("tvm-foreign-domain", _foreign, _taken_for_onnx),
    _tvm("tvm-resize-antialias", _resize(sizes=[1, 2, 3, 3], antialias=1), wrong_in_tvm),
    _tvm("tvm-resize-axes", _resize(sizes=[12, 18], axes=[2, 3]), refused_by_tvm),
    _tvm(
        "tvm-resize-aspect",
        _resize(sizes=[1, 2, 9, 9], keep_aspect_ratio_policy="not_larger"),
        wrong_in_tvm,
    ),
    _tvm("tvm-resize-rounds", _resize(scales=[1, 1, 1.3, 1.3]), wrong_in_tvm),
    _tvm("tvm-resize-computed", _computed, refused_by_tvm),
    _tvm("tvm-pool-same-lower", _pool, wrong_in_tvm),
    _tvm("tvm-conv-transpose-shape", _transposed, wrong_in_tvm),
    _tvm("tvm-cuda-scatter", _scattered, _loops_on_the_host, target="rtx3090"),
    _tvm("tvm-half-grid-sample", _sampler, _gives_float32, Action.REWRITE, mended=_keeps_float16),
    _tvm("tvm-no-rule", _swish, refused_by_tvm),
    _tvm(
        "tvm-int8",
        lambda: quantized(storage=I8),
        _float_convolutions,
        Action.WARN,
        precision=Precision.INT8,
    ),
    _tvm("tvm-fp8", lambda: quantized(F16, FP8), refused_by_tvm, precision=Precision.FP8),
    Scenario(
        "tvm-ffi-segfault",
        relu(),
        Action.WARN,
        "tvm",
        versions={"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.15.post2"},
        unproven="the version at fault isn't installed: it can't be beside the right one",
    ),
    _tvm("tvm-tunes-unfused", convolution, _no_tasks_before_fusion, Action.AVOID),
    _tvm("tvm-half-sums", lambda: convolution(F16), _halves, Action.AVOID, precision=Precision.FP16),
    Scenario(
        "cuda-13-volta", relu(), Action.AVOID, "tvm", "v100", without=_no_volta_in_13, needs="superlower"
    ),
)
