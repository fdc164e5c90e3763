"""Activations with a slope: LeakyRelu and PRelu, the slopes of which come in several shapes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from superlower.probes.case import Case
from superlower.probes.cases._build import (
    OPSET,
    Floats,
    Input,
    fixed,
    kinds,
    probe,
    rounded,
    uniform,
    weights,
)

_SHAPE = (2, 4, 3, 5)


def cases() -> Iterator[Case]:
    """All cases of LeakyRelu and PRelu."""
    for kind in kinds("LeakyRelu", OPSET):
        one = rounded(kind, 2, 1.0, "a slope stored in the type, and one product")
        x = uniform(kind, *_SHAPE)
        for setting, alpha in (("plain", 0.1), ("steep", 0.875), ("negative", -0.25)):

            def leaky(x: Floats, alpha: float = float(np.float32(alpha))) -> Floats:
                return np.where(x < 0, alpha * x, x)

            given = {"alpha": alpha}
            yield probe("LeakyRelu", setting, OPSET, kind, [x], leaky, one, attributes=given)

        def preluted(x: Floats, slope: Floats) -> Floats:
            return np.where(x < 0, slope * x, x)

        slopes: dict[str, Input] = {
            "scalar": fixed(kind, 0.25),
            "one": fixed(kind, [0.25]),
            "channels": weights(kind, 4, 1, 1),
            "every-number": weights(kind, *_SHAPE),
            "last-axis": weights(kind, 5),
            "computed": uniform(kind, 4, 1, 1),
        }
        for setting, slope in slopes.items():
            yield probe("PRelu", setting, OPSET, kind, [x, slope], preluted, one)
