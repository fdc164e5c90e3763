"""TVM is loaded without PyTorch, which is there as ever afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

from superlower.backends.tvm.loading import load_tvm

pytest.importorskip("tvm", reason="TVM isn't installed: pip install 'superlower[tvm]'")
pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")

SCRIPT = """
import sys
from superlower.backends.tvm.loading import load_tvm
tvm = load_tvm()
import numpy as np
x = np.ones((2, 3), np.float32)
print("torch" in sys.modules, (tvm.runtime.tensor(x).numpy() == x).all())
import torch
print(torch.ones(2, 3).sum().item())
"""


def test_a_fresh_process_has_tvm_alone() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False True", "6.0"]


def test_pytorch_that_is_loaded_stays() -> None:
    import torch

    load_tvm()
    assert sys.modules["torch"] is torch
