"""Program passes on the command line: explained, with what they gain, and compiled into bundles."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from superlower.bundle.bundle import Bundle
from superlower.cli.pass_options import chosen_pass
from superlower.program import files
from superlower.program.model import Edge
from superlower.rewrites.hoist_frames import HoistFrames
from support.command import superlower
from support.pyramids import FlowPyramid
from support.windows import WindowBuilder, window


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A window of three whose frames each go through one network; zeros beyond the clip."""
    g = WindowBuilder()
    nets = [g.net(x) for x in g.frames(-1, 0, 1)]
    model = window(g, g.conv(g.Concat(*nets, axis=1), 12, 3, 9), (-1, 0, 1), Edge.ZEROS)
    files.save_model(model, tmp_path / "window")
    return tmp_path / "window"


def test_listed() -> None:
    (entry,) = (e for e in superlower("passes", "--json").json if e["name"] == "hoist-frames")
    assert entry["summary"] == (HoistFrames.__doc__ or "").splitlines()[0]
    assert entry["options"] == {"ends": True, "sums": False}


@pytest.mark.parametrize(("value", "meant"), [("yes", True), ("no", False), ("true", True), ("0", False)])
def test_a_switch_is_yes_or_no(value: str, meant: bool) -> None:
    assert chosen_pass("hoist-frames", {"hoist-frames.sums": value}) == HoistFrames(sums=meant)


def test_explained_with_what_it_gains(folder: Path) -> None:
    told = superlower("passes", "--explain", folder, "--pass", "hoist-frames", "--json").json
    (record,) = (r for r in told["passes"] if r["name"] == "hoist-frames")
    assert (record["graph"], record["measured"]) == ("window", 0.0)
    assert {r["graph"] for r in told["passes"]} == {"window", "of_frame", "step", "step_ends"}
    # Three networks of 252 products a pixel and a fusion of 324, then one network.
    assert told["before"]["flops"] == 2 * 64 * (3 * 252 + 324)
    assert told["after"]["flops"] == 2 * 64 * (252 + 324)
    shown = superlower("passes", "--explain", folder, "--pass", "hoist-frames").stderr.replace("\n", " ")
    assert "window hoist-frames: of_frame: once a frame from frame[t]" in shown
    assert "0.0001382 -> 7.373e-05 GFLOP" in shown


def test_explained_with_options_and_what_quality_it_costs(tmp_path: Path) -> None:
    files.save_model(FlowPyramid().model(), tmp_path / "pyramid")
    asked = ("--pass", "truncate-flow-levels", "--set", "truncate-flow-levels.levels=2")
    given = (*asked, "--set", "truncate-flow-levels.budget_db=99")
    outcome = superlower("passes", "--explain", tmp_path / "pyramid", *given)
    assert outcome.code == 0, outcome.stderr
    shown = " ".join(outcome.stderr.split())
    assert "truncate-flow-levels: levels=2 budget_db=99.0" in shown
    assert re.search(r"truncate-flow-levels costs \d+\.\d{3} dB of PSNR, .* of 99 allowed", shown)
    over = superlower("passes", "--explain", tmp_path / "pyramid", *asked)
    assert over.code == 4
    assert "over its budget of 0.1" in over.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hoist-frames.sum=yes", "unknown option of pass hoist-frames 'sum': did you mean sums?"),
        ("hoist-frame.sums=yes", "unknown --pass of --set 'hoist-frame': did you mean hoist-frames?"),
        ("openvino.NUM_STREAMS=1", "unknown --pass of --set 'openvino'"),
        ("hoist-frames.sums=perhaps", "--set hoist-frames.sums=perhaps: Expected `bool`"),
    ],
)
def test_settings_that_nothing_takes(folder: Path, setting: str, message: str) -> None:
    outcome = superlower("passes", "--explain", folder, "--pass", "hoist-frames", "--set", setting)
    assert outcome.code == 2
    assert message in outcome.stderr.replace("\n", " ")


def test_compiled(folder: Path, tmp_path: Path) -> None:
    arguments = (folder, "-o", tmp_path / "bundle", "-t", "cpu", "-b", "onnxruntime", "--frames", 4)
    outcome = superlower("compile", *arguments, "--pass", "hoist-frames")
    assert outcome.code == 0, outcome.stderr
    bundle = Bundle.open(tmp_path / "bundle")
    first = bundle.manifest.passes[0]
    assert (first.graph, first.name, first.options) == (
        "window",
        "hoist-frames",
        {"ends": "True", "sums": "False"},
    )
    assert set(bundle.manifest.variants[0].engines) == {"of_frame", "step", "step_ends"}
    measured = bundle.manifest.variants[0].measured
    assert measured is not None
    assert max(measured.max_abs) <= bundle.manifest.variants[0].tolerance


def test_options(folder: Path, tmp_path: Path) -> None:
    arguments = (folder, "-o", tmp_path / "bundle", "-t", "cpu", "-b", "onnxruntime", "--frames", 4)
    outcome = superlower("compile", *arguments, "--pass", "hoist-frames", "--set", "hoist-frames.ends=false")
    assert outcome.code == 0, outcome.stderr
    bundle = Bundle.open(tmp_path / "bundle")
    assert set(bundle.manifest.variants[0].engines) == {"step"}
    (reason,) = bundle.manifest.passes[0].refused
    assert "it takes a second graph for the clip's ends" in reason


def test_unknown(folder: Path) -> None:
    outcome = superlower("passes", "--explain", folder, "--pass", "hoist-frame")
    assert outcome.code == 2
    assert "unknown program pass 'hoist-frame': did you mean hoist-frames?" in outcome.stderr
