"""superlower prune as a user runs it: what it writes, goes on with, and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")

import torch

from superlower.cli.common import Bars
from superlower.driver import prune_work
from support.clips import save_folder
from support.command import superlower

SMALL = ("tecogan", "-w", "random:0", "--set", "blocks=2", "--set", "warmup=0", "--threads", 1)


@pytest.fixture
def learning(tmp_path: Path) -> tuple[object, ...]:
    """Options of a small pruning with everything in it."""
    clip = save_folder(tmp_path / "clip", 3, 168, 172)
    windows = ("--windows", 2, "--length", 2, "--crop", 33, "--batch", 1)
    return (
        *SMALL,
        "--remove",
        "5%",
        "--clip",
        clip,
        *windows,
        "--steps",
        2,
        "--evaluate",
        clip,
        "--frames",
        2,
    )


@pytest.mark.slow
def test_a_pruning_stopped_and_taken_up_again_is_the_same(
    learning: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, stopped = tmp_path / "at-once.pth", tmp_path / "stopped.pth"
    outcome = superlower("prune", *learning, "-o", at_once, "--time", "16x16", "--json")
    assert outcome.code == 0, outcome.stderr
    assert [stage["name"] for stage in outcome.json["stages"]] == ["whole", "cut", "refitted", "fine-tuned"]
    before, after = outcome.json["before"], outcome.json["after"]
    assert after["parameters"] < 0.96 * before["parameters"]
    assert after["gmacs"] < before["gmacs"]
    assert outcome.json["ratio"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["at-once.pth", "at-once.pth.config.toml", "clip"]

    class KilledError(Exception):
        pass

    def die(self: Bars, note: str = "") -> None:
        if note.startswith("loss") and Path(f"{stopped}.tuning").exists():
            raise KilledError

    monkeypatch.setattr(prune_work, "SAVE_EVERY", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Bars, "advance", die)
        assert superlower("prune", *learning, "-o", stopped).code == 1
    assert not stopped.exists()
    other = superlower("--no-progress", "prune", *learning, "-o", stopped, "--seed", 1)
    assert other.code == 2
    assert "is of a pruning with other options" in other.error
    assert superlower("prune", *learning, "-o", stopped).code == 0
    assert not Path(f"{stopped}.tuning").exists()
    found, wanted = (torch.load(path, weights_only=True)["params"] for path in (stopped, at_once))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)


def test_blocks_go_without_clips(tmp_path: Path) -> None:
    output = tmp_path / "one.pth"
    asked = (*SMALL, "--blocks", 1, "--importance", "weights", "--time", "none", "-o", output)
    outcome = superlower("prune", *asked, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["structure"] == {"blocks": "1"}
    assert outcome.json["before"]["parameters"] - outcome.json["after"]["parameters"] == 73_856
    table = superlower("prune", *asked)
    assert "parameters" in table.stderr
    assert table.stdout == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("tecogan",), "either --remove a share, or --blocks"),
        (("tecogan", "--remove", "20%", "--blocks", 2), "either --remove a share, or --blocks"),
        (("tecogan", "--remove", "0.4"), "write a percentage, as 40%"),
        (("tecogan", "--remove", "100%"), "between 0 % and 100 %"),
        (("tecogan", "--remove", "20%"), "give --clip, or --importance weights"),
        (("tecogan", "--remove", "20%", "--clip", "none.mp4", "--units", "layers"), "unknown unit 'layers'"),
        (("tecogan", "--blocks", 1, "--clip", "none.mp4"), "no such clip: none.mp4"),
        (("tecogan", "--blocks", 1, "--steps", 5, "--minutes", 1), "either --steps or --minutes"),
        (
            ("tecogan", "--blocks", 11, "--importance", "weights"),
            "can't be made: srnet.resblocks has 10 blocks",
        ),
        (("vespcn", "--blocks", 1), "vespcn can't be pruned: choose basicvsr, egvsr, frvsr, mstgan, tecogan"),
    ],
)
def test_what_cannot_be_is_refused(options: tuple[object, ...], message: str, tmp_path: Path) -> None:
    output = tmp_path / "out" / "pruned.pth"
    outcome = superlower("--no-progress", "prune", *options, "-w", "random:0", "-o", output)
    assert outcome.code == 2
    assert message in outcome.error
    assert not output.parent.exists()


def test_a_clip_too_small_is_refused(tmp_path: Path) -> None:
    clip = save_folder(tmp_path / "clip", 3, 40, 40)
    outcome = superlower(
        "--no-progress", "prune", *SMALL, "--blocks", 1, "--clip", clip, "-o", tmp_path / "p"
    )
    assert outcome.code == 2
    assert "is 3 frames of 40x40: windows take 4 frames of 224x224" in outcome.error
