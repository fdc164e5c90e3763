"""What `doctor` says is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata

import pytest

from support.command import superlower


def test_remedies_are_ones_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extras that pyproject.toml declares, and nothing else in brackets."""
    real = importlib.metadata.version

    def absent(name: str) -> str:
        if name in ("onnx", "av", "torch"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    extras = importlib.metadata.metadata("superlower").get_all("Provides-Extra")
    monkeypatch.setattr(importlib.metadata, "version", absent)
    machine = superlower("doctor", "--json").json["machine"]
    assert machine["onnx"] == machine["av"] == "not installed: pip install --force-reinstall superlower"
    assert machine["torch"] == "not installed: pip install 'superlower[torch]'"
    assert "torch" in extras
    assert not {"onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy", "av"} & set(extras)
    assert machine["numpy"] == real("numpy")
