"""The benchmark of lowerings runs, and what it writes is what builds choose from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from superlower.backends.lowerings import Lowerings, order_of
from superlower.passes.forms import FORMS

pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "lowerings.py"


@pytest.mark.slow
def test_a_quick_run(tmp_path: Path) -> None:
    output = tmp_path / "lowerings.json"
    command = [sys.executable, str(SCRIPT), "--backends", "onnxruntime", "--sizes", "9x12", "16x10", "--busy"]
    environment = {**os.environ, "COLUMNS": "200"}
    ran = subprocess.run(
        [*command, "--rounds", "2", "-o", str(output)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    written = msgspec.json.decode(output.read_bytes(), type=Lowerings)
    assert written.machine["clock"] == "process_time"
    assert {found.size[2:] for found in written.findings} == {(9, 12), (16, 10)}
    tried = {(f.key.partition("-")[0], t.form) for f in written.findings for t in f.trials}
    assert tried == {(op, form) for op, forms in FORMS.items() for form in forms}
    for found in written.findings:
        for trial in found.trials:
            assert not trial.refused
            assert trial.error is not None
            assert trial.error <= found.tolerance
            assert trial.ms is not None
            assert trial.ms > 0
    for order in written.orders:
        assert order_of([f for f in written.findings if f.key == order.key]) == order
