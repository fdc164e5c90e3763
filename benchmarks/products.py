"""How fast this processor multiplies fp32 matrices: the yardstick for convolutions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superlower.errors import OutputsDifferError

Matrix = NDArray[np.float32]
REPEATS = 5
SQUARES = (1024, 1536, 1920)


@dataclass(frozen=True)
class Product:
    """A library's product of two fp32 matrices, [m, k] by [k, n], the second constant as weights are."""

    library: str
    m: int
    k: int
    n: int

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.library} {self.m}x{self.k}x{self.n}"

    def ready(self, seed: int = 0) -> Callable[[], float]:
        """Checks the library's result, then times it: each call returns GFLOP/s, the median of some products.

        Raises:
            OutputsDifferError: it didn't compute in fp32.
        """
        rng = np.random.default_rng(seed)
        a = rng.standard_normal((self.m, self.k), np.float32)
        b = rng.standard_normal((self.k, self.n), np.float32)
        multiply = LIBRARIES[self.library](a, b)
        check(self.name, a, b, multiply())

        def gflops_s() -> float:
            seconds = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                multiply()
                seconds.append(time.perf_counter() - started)
            return 2e-9 * self.m * self.k * self.n / median(seconds)

        return gflops_s


def check(name: str, a: Matrix, b: Matrix, product: Matrix) -> None:
    """Hold some rows to the same in double.

    A sum of k products of standard normal numbers is of size sqrt(k). fp32 rounds at each of k steps, by at
    most 2^-24 of that: sqrt(k) 2^-24 relative, 3e-6 for k = 2048, and some times that in the tail. bf16 keeps
    8 bits of each factor, 2^-9 relative, 2e-3. 1e-4 tells one from the other.

    Raises:
        OutputsDifferError: an element is off by more.
    """
    error = np.abs(a[:8].astype(np.float64) @ b - product[:8]).max() / np.sqrt(a.shape[1])
    if not error < 1e-4:
        raise OutputsDifferError(f"{name} is off by {error:.2g} of its size: it was not computed in fp32")


def products(height: int, width: int) -> list[Product]:
    """Every library at square sizes, and at that of a 3x3 convolution of 64 channels over a frame."""
    shapes = [(side, side, side) for side in SQUARES] + [(height * width, 9 * 64, 64)]
    return [Product(library, *shape) for library in LIBRARIES for shape in shapes]


def _torch(a: Matrix, b: Matrix) -> Callable[[], Matrix]:
    import torch

    left, right, out = torch.from_numpy(a), torch.from_numpy(b), torch.empty(a.shape[0], b.shape[1])

    def multiply() -> Matrix:
        torch.mm(left, right, out=out)
        return out.numpy()

    return multiply


def _numpy(a: Matrix, b: Matrix) -> Callable[[], Matrix]:
    out = np.empty((a.shape[0], b.shape[1]), np.float32)
    return lambda: np.matmul(a, b, out=out)


def _openvino(a: Matrix, b: Matrix) -> Callable[[], Matrix]:
    import openvino
    from openvino import opset13

    from superlower.driver.speed import physical_cores

    left = opset13.parameter(a.shape, np.float32)
    graph = openvino.Model([opset13.matmul(left, opset13.constant(b), False, False)], [left], "product")
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": physical_cores(),
    }
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()

    def multiply() -> Matrix:
        result: Matrix = request.infer({0: a}, share_inputs=True, share_outputs=True)[0]
        return result

    return multiply


LIBRARIES: dict[str, Callable[[Matrix, Matrix], Callable[[], Matrix]]] = {
    "torch.mm": _torch,
    "numpy @": _numpy,
    "OpenVINO MatMul": _openvino,
}
