"""Every architecture, small and seeded: bundles that pass `check` on engines of this machine, and plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from superlower import plugins
from superlower.backends.base import BuildOptions
from superlower.backends.registry import backend
from superlower.driver.compile import compile_bundle, plan_jobs
from superlower.driver.export import GOLDEN_FRAMES, export
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.command import superlower

pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")

pytestmark = pytest.mark.slow

BLOCK = {"blocks": "1"}
OPTIONS: dict[str, dict[str, str]] = {
    "basicvsr": BLOCK,
    "basicvsrpp": BLOCK,
    "edvr-improved": BLOCK,
    "edvr-l": BLOCK | {"tsa": "no"},
    "edvr-m": BLOCK,
    "egvsr": BLOCK,
    "frvsr": BLOCK,
    "iconvsr": BLOCK | {"stride": "3"},
    "mstgan": BLOCK,
    "skipvsr": BLOCK | {"settle": "1", "patch": "12", "halo": "3", "threshold": "2"},
    "sofvsr": {"scale": "2"},
    "tecogan": BLOCK,
}
"""A block where there are many alike: every kind of layer is there."""

WINDOWS = {"edvr-improved", "edvr-l", "edvr-m", "espcn", "mstgan", "sofvsr", "sofvsr-accv", "vespcn"}
"""They keep no states in which errors could grow: a shorter clip will do."""

SIDES = {"basicvsrpp": 64}
ENGINES = ("onnxruntime", "openvino", "tvm")
PLANS = (("t4", Precision.FP16), ("rtx3090", Precision.FP32), ("rtx5090", Precision.FP16))


@pytest.mark.parametrize("name", sorted(plugins.table("frontend")))
def test_bundle_passes_check(name: str, tmp_path: Path) -> None:
    engines = [each for each in ENGINES if backend(each).missing() is None]
    jobs = plan_jobs([target("cpu")], [Precision.FP32], engines)
    if backend("tensorrt-rtx").missing() is None:
        for where, precision in PLANS:
            jobs += plan_jobs([target(where)], [precision], ["tensorrt-rtx"])
    side = SIDES.get(name, 32)
    frames = 3 if name in WINDOWS else GOLDEN_FRAMES
    exported = export(name, "random:0", side, side, options=OPTIONS.get(name), golden_frames=frames)
    compile_bundle(
        exported.model, jobs, exported.golden, tmp_path / "bundle", options=BuildOptions(threads=1)
    )
    outcome = superlower("check", tmp_path / "bundle", "--json")
    assert outcome.code == 0, outcome.stderr
    checks = outcome.json["checks"]
    assert {check["variant"] for check in checks} == {job.name for job in jobs}
    for check in checks:
        print(name, check["variant"], max(check["max_abs"], default=None))
        assert check["passed"] is (True if check["backend"] in engines else None)
