"""Matrix products: each library's is right, and of the type that was asked for."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from superlower.driver.products import _MODULES, LIBRARIES, Product, check, fastest
from superlower.errors import OutputsDifferError
from superlower.targets.base import Precision


def _bf16(x: np.ndarray) -> np.ndarray:
    return ((x.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)


def test_bf16_is_told_from_fp32_and_noise_from_bf16() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((512, 512), np.float32) for _ in range(2))
    check("fp32", a, b, a @ b)
    check("bf16", a, b, _bf16(_bf16(a) @ _bf16(b)), Precision.BF16)
    with pytest.raises(OutputsDifferError, match="not computed in fp32"):
        check("bf16", a, b, _bf16(a) @ _bf16(b))
    with pytest.raises(OutputsDifferError, match="not computed in bf16"):
        check("half of it", a, b, (a[:, :256] @ b[:256]), Precision.BF16)
    with pytest.raises(OutputsDifferError):
        check("nan", a, b, np.full_like(a, np.nan))


def test_integers_are_exact() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-64, 64, (8, 8), np.int8) for _ in range(2))
    right = a.astype(np.int32) @ b.astype(np.int32)
    check("int8", a, b, right, Precision.INT8)
    with pytest.raises(OutputsDifferError, match="not computed in int8"):
        check("int8", a, b, right + 1, Precision.INT8)


@pytest.mark.parametrize(("precision", "library"), [(p, name) for p in LIBRARIES for name in LIBRARIES[p]])
def test_every_library_multiplies(precision: Precision, library: str) -> None:
    module = _MODULES[library]
    if find_spec(module) is None:
        pytest.skip(f"{module} isn't installed")
    assert Product(library, 32, 48, 64, precision).ready()() > 0


def test_the_fastest_is_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter((3.0, 7.0, 5.0))

    def ready(product: Product) -> object:
        if product.m == 1:
            raise OutputsDifferError("wrong")
        rate = next(rates)
        return lambda: rate

    monkeypatch.setattr(Product, "ready", ready)
    shapes = [Product("numpy @", m, 2, 2) for m in (1, 2, 3, 4)]
    monkeypatch.setattr("superlower.driver.products.products", lambda *_: shapes)
    found = fastest(8, 8, Precision.FP32)
    assert found is not None
    assert (found[0].m, found[1]()) == (3, 7.0)
    monkeypatch.setattr("superlower.driver.products.products", lambda *_: shapes[:1])
    assert fastest(8, 8, Precision.FP32) is None
