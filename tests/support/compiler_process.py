"""Processes with TVM's compiler: the tests' own has its runtime alone, and a process has one or the other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from superlower.backends.tvm import cuda
from superlower.errors import MissingSdkError
from superlower.targets.catalog import target


def run_module(name: str, *arguments: object) -> None:
    """Run `python -m name`, from the tests' folder; fails with what it wrote if it does."""
    done = subprocess.run(
        [sys.executable, "-m", name, *map(str, arguments)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TVM_USE_RUNTIME_LIB": "0", "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def skip_without_cuda_compiler(gpu: str, folder: Path) -> None:
    """Skip a test where no compiler knows a target's architecture."""
    try:
        cuda.find_compiler([str(target(gpu).tvm["arch"])], folder)
    except MissingSdkError as error:
        pytest.skip(str(error))
