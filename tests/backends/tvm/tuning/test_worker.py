"""What a candidate may differ by from the default schedule's result."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from superlower.backends.tvm.tuning import worker
from superlower.backends.tvm.tuning.worker import Run


@pytest.mark.parametrize(
    ("given", "off", "right"),
    [
        ("float32", 1e-4, True),
        ("float32", 3e-3, False),
        # Half operands are rounded on the way, though the result is cast to float32.
        ("float16", 3e-3, True),
        ("float16", 5e-2, False),
    ],
)
def test_room_is_that_of_the_operands(given: str, off: float, right: bool, tmp_path: Path) -> None:
    expected = np.linspace(-30, 30, 101, dtype=np.float32)
    job = Run(
        library="candidate.so",
        function="f",
        arguments=((given, (101,)), ("float32", (101,))),
        reference=str(tmp_path / "reference.npy"),
        make_reference=True,
    )
    assert worker._differs(expected, job) == ""
    job = msgspec.structs.replace(job, make_reference=False)
    found = expected.copy()
    found[7] += off * 30
    told = worker._differs(found, job)
    assert (told == "") == right
    assert right or "computes wrongly" in told
