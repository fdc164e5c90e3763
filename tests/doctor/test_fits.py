"""Versions that don't fit together are told with the command that mends them."""

from __future__ import annotations

import importlib.metadata

import pytest

from superlower.doctor.fits import (
    ESSENTIAL,
    Conflict,
    conflicts,
    cuda_major,
    driver_conflict,
    installed,
    read_driver,
    requirements,
)

REQUIRED = {
    "superlower": [
        'apache-tvm-ffi==0.1.14.post1; extra == "tvm"',
        "onnx<1.24,>=1.19",
        'torch>=2.13; extra == "torch"',
    ],
    "onnxscript": ["onnx_ir<2,>=1.1", 'onnx>=1.17; python_version >= "3.8"', 'numpy<1; python_version < "3"'],
    "apache-tvm": ["apache-tvm-ffi>=0.1.12"],
}


def required(name: str) -> list[str]:
    return REQUIRED.get(name, [])


def test_what_fits_is_no_conflict() -> None:
    here = {
        "onnx": "1.23.2",
        "onnxscript": "0.7.2",
        "onnx-ir": "1.1.0",
        "numpy": "2.4.6",
        "torch": "2.13.0+cpu",
    }
    assert conflicts(here, required) == []


def test_the_ffi_that_kills_tuning_is_one_with_the_command_that_mends_it() -> None:
    (found,) = conflicts({"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.15.post2"}, required)
    assert found.line == (
        "apache-tvm-ffi 0.1.15.post2 is here, and superlower[tvm] needs ==0.1.14.post1: "
        "pip install 'apache-tvm-ffi==0.1.14.post1'"
    )


def test_names_are_compared_as_pip_compares_them() -> None:
    (found,) = conflicts({"onnx-ir": "0.9.0", "onnxscript": "0.7.2"}, required)
    assert (found.what, found.command) == ("onnx-ir 0.9.0", "pip install 'onnx-ir<2,>=1.1'")


def test_what_is_not_here_conflicts_with_nothing() -> None:
    assert conflicts({"apache-tvm": "0.27.0.post1"}, required) == []


def test_this_environment_fits() -> None:
    """pyproject.toml's pins and what each distribution says hold for what the tests run with."""
    here = installed()
    assert {"onnx", "onnxruntime"} <= here.keys()
    assert set(ESSENTIAL) <= here.keys()
    assert conflicts(here) == []


def test_requirements_of_what_is_not_here_are_none() -> None:
    assert requirements("no-such-distribution") == ()
    assert any(r.startswith("onnx") for r in requirements("superlower"))
    assert installed(["no-such-distribution"]) == {}


def test_a_distribution_of_the_wrong_version_is_found_here(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "0.1" if n == "onnx" else real(n))
    (found,) = conflicts(installed())
    assert found.what == "onnx 0.1"
    assert found.command.startswith("pip install 'onnx")


PROC = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 22:50:36 UTC 2026\nGCC version: 12"
)
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n"


@pytest.mark.parametrize(
    ("text", "version"), [(PROC, "570.86.15"), (OPEN, "580.95.05"), ("", ""), ("AMD", "")]
)
def test_the_driver_is_read(text: str, version: str) -> None:
    assert read_driver(text) == version


@pytest.mark.parametrize(
    ("driver", "cuda", "fits"),
    [
        ("570.86.15", 13, False),
        ("580.65.06", 13, True),
        ("525.60.13", 12, True),
        ("470.82.01", 12, False),
        ("", 13, True),
        ("570.86.15", 99, True),
    ],
)
def test_a_driver_too_old_is_a_conflict(driver: str, cuda: int, fits: bool) -> None:
    found = driver_conflict(driver, cuda, "TVM's wheel")
    assert (found is None) == fits
    if found is not None:
        assert isinstance(found, Conflict)
        assert found.line.startswith(
            f"NVIDIA driver {driver} is here, and TVM's wheel is built with CUDA {cuda}"
        )


@pytest.mark.parametrize(
    ("name", "major"), [("tensorrt-rtx-cu12", 12), ("tensorrt-cu13", 13), ("openvino", None)]
)
def test_cuda_is_in_a_wheels_name(name: str, major: int | None) -> None:
    assert cuda_major(name) == major
