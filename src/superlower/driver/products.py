"""How fast this processor multiplies matrices at each precision: the yardstick for engines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superlower.backends.openvino_deform import shared_core
from superlower.driver.speed import physical_cores
from superlower.errors import OutputsDifferError
from superlower.targets.base import Precision

Matrix = NDArray[Any]
Multiply = Callable[[], Matrix]
REPEATS = 5
SQUARES = (1024, 1536, 1920)


@dataclass(frozen=True)
class Product:
    """A library's product of two matrices, [m, k] by [k, n], the second constant as weights are."""

    library: str
    m: int
    k: int
    n: int
    precision: Precision = Precision.FP32

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.library} {self.m}x{self.k}x{self.n}"

    def ready(self, seed: int = 0) -> Callable[[], float]:
        """Checks the library's result, then times it: each call returns GFLOP/s, the median of some products.

        Raises:
            OutputsDifferError: it didn't compute what was asked for, or in another type.
        """
        rng = np.random.default_rng(seed)
        if self.precision is Precision.INT8:
            # Seven bits: without VNNI, pairs of full products would leave what the sums are kept in.
            a = rng.integers(-64, 64, (self.m, self.k), np.int8)
            b = rng.integers(-64, 64, (self.k, self.n), np.int8)
        else:
            a = rng.standard_normal((self.m, self.k), np.float32)
            b = rng.standard_normal((self.k, self.n), np.float32)
        multiply = LIBRARIES[self.precision][self.library](a, b)
        check(self.name, a, b, multiply(), self.precision)

        def gflops_s() -> float:
            seconds = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                multiply()
                seconds.append(time.perf_counter() - started)
            return 2e-9 * self.m * self.k * self.n / median(seconds)

        return gflops_s


_ALLOWED = {Precision.FP32: 1e-4, Precision.BF16: 3e-2, Precision.INT8: 1e-12}


def check(name: str, a: Matrix, b: Matrix, product: Matrix, precision: Precision = Precision.FP32) -> None:
    """Hold some rows to the same in double.

    A sum of k products of standard normal numbers is of size sqrt(k). fp32 rounds at each of k steps, by at
    most 2^-24 of that: sqrt(k) 2^-24 relative, 3e-6 for k = 2048, and some times that in the tail. bf16 keeps
    8 bits of each factor, 2^-9 relative, 2e-3, and of a result too, of up to five times that size: 1e-2.
    1e-4 tells one from the other. Integers are exact.

    Raises:
        OutputsDifferError: an element is off by more.
    """
    error = np.abs(a[:8].astype(np.float64) @ b - product[:8]).max() / np.sqrt(a.shape[1])
    if not error < _ALLOWED[precision]:
        raise OutputsDifferError(
            f"{name} is off by {error:.2g} of its size: it was not computed in {precision.value}"
        )


def products(height: int, width: int, precision: Precision = Precision.FP32) -> list[Product]:
    """Every library at square sizes, and at that of a 3x3 convolution of 64 channels over a frame."""
    shapes = [(side, side, side) for side in SQUARES] + [(height * width, 9 * 64, 64)]
    return [
        Product(library, *shape, precision)
        for library in LIBRARIES[precision]
        if find_spec(_MODULES[library]) is not None
        for shape in shapes
    ]


def fastest(height: int, width: int, precision: Precision) -> tuple[Product, Callable[[], float]] | None:
    """The product with the highest rate at a precision, ready to be timed; None where none is computed so."""
    best: tuple[float, Product, Callable[[], float]] | None = None
    for product in products(height, width, precision):
        try:
            timed = product.ready()
        except (OutputsDifferError, RuntimeError, NotImplementedError):
            continue
        rate = timed()
        if best is None or rate > best[0]:
            best = rate, product, timed
    return None if best is None else best[1:]


def _torch(a: Matrix, b: Matrix) -> Multiply:
    import torch

    left, right, out = torch.from_numpy(a), torch.from_numpy(b), torch.empty(a.shape[0], b.shape[1])

    def multiply() -> Matrix:
        torch.mm(left, right, out=out)
        return out.numpy()

    return multiply


def _torch_bf16(a: Matrix, b: Matrix) -> Multiply:
    import torch

    left, right = (torch.from_numpy(each).to(torch.bfloat16) for each in (a, b))
    return lambda: torch.mm(left, right)[:8].float().numpy()


def _torch_int8(a: Matrix, b: Matrix) -> Multiply:
    import torch

    left, right = torch.from_numpy(a), torch.from_numpy(b)
    return lambda: torch._int_mm(left, right).numpy()


def _numpy(a: Matrix, b: Matrix) -> Multiply:
    out = np.empty((a.shape[0], b.shape[1]), np.float32)
    return lambda: np.matmul(a, b, out=out)


def _openvino(a: Matrix, b: Matrix) -> Multiply:
    return _openvino_product(a, b, "f32")


def _openvino_bf16(a: Matrix, b: Matrix) -> Multiply:
    return _openvino_product(a, b, "bf16")


def _openvino_product(a: Matrix, b: Matrix, element_type: str) -> Multiply:
    import openvino
    from openvino import opset13

    left = opset13.parameter(a.shape, np.float32)
    given = [left, opset13.constant(b)]
    if element_type != "f32":
        given = [opset13.convert(each, element_type) for each in given]
    product = opset13.matmul(*given, False, False)
    if element_type != "f32":
        product = opset13.convert(product, "f32")
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": physical_cores(),
    }
    graph = openvino.Model([product], [left], "product")
    request = shared_core().compile_model(graph, "CPU", settings).create_infer_request()

    def multiply() -> Matrix:
        result: Matrix = request.infer({0: a}, share_inputs=True, share_outputs=True)[0]
        return result

    return multiply


def _onnxruntime_int8(a: Matrix, b: Matrix) -> Multiply:
    """Of uint8 by int8, as its quantized convolutions are."""
    import onnx_ir as ir
    import onnxruntime

    from superlower.ir import IR_VERSION, OPSET, serialize

    offset = ir.Value(name="offset", const_value=ir.tensor(np.uint8(64), name="offset"))
    left = ir.Value(name="a", shape=ir.Shape(a.shape), type=ir.TensorType(ir.DataType.UINT8))
    right = ir.Value(name="b", const_value=ir.tensor(b, name="b"))
    node = ir.node("MatMulInteger", [left, right, offset])
    out = node.outputs[0]
    out.name, out.type = "c", ir.TensorType(ir.DataType.INT32)
    graph = ir.Graph(
        [left],
        [out],
        nodes=[node],
        initializers=[right, offset],
        opset_imports={"": OPSET},
        name="product",
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = physical_cores()
    session = onnxruntime.InferenceSession(
        serialize(ir.Model(graph, ir_version=IR_VERSION)), options, providers=["CPUExecutionProvider"]
    )
    feeds = {"a": (a.astype(np.int16) + 64).astype(np.uint8)}

    def multiply() -> Matrix:
        result: Matrix = session.run(None, feeds)[0]
        return result

    return multiply


LIBRARIES: Mapping[Precision, Mapping[str, Callable[[Matrix, Matrix], Multiply]]] = {
    Precision.FP32: {"torch.mm": _torch, "numpy @": _numpy, "OpenVINO MatMul": _openvino},
    Precision.BF16: {"torch.mm": _torch_bf16, "OpenVINO MatMul": _openvino_bf16},
    Precision.INT8: {"torch._int_mm": _torch_int8, "ONNX Runtime MatMulInteger": _onnxruntime_int8},
}
_MODULES = {
    "torch.mm": "torch",
    "torch._int_mm": "torch",
    "numpy @": "numpy",
    "OpenVINO MatMul": "openvino",
    "ONNX Runtime MatMulInteger": "onnxruntime",
}
