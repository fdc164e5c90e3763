"""What the verbs share, where no verb shows it well."""

from __future__ import annotations

import io
import tomllib
from pathlib import Path

import pytest
import typer
from rich.console import Console
from rich.progress import Progress

from superlower.cli import common
from superlower.cli.common import Bars, parse_precisions, save_config
from superlower.targets.base import Precision


def test_precisions_are_taken_once() -> None:
    assert parse_precisions(["fp16", "fp32", "fp16", "fp32"]) == [Precision.FP16, Precision.FP32]
    assert parse_precisions(None) == [Precision.FP32]


class TestBars:
    """On a terminal that is a string."""

    @pytest.fixture(autouse=True)
    def _terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(common, "console", Console(file=io.StringIO(), force_terminal=True, width=120))
        monkeypatch.setattr(common.State, "progress", True)

    def run(self, error: Exception | None) -> Progress:
        bars = Bars()
        try:
            with bars:
                bars.stage("first", 2)
                bars.stage("second", 10)
                for _ in range(3):
                    bars.advance()
                if error is not None:
                    raise error
        except ZeroDivisionError:
            pass
        assert bars._bar is not None
        assert not bars._bar.live.is_started
        return bars._bar

    def test_a_failure_is_not_drawn_as_done(self) -> None:
        first, second = self.run(ZeroDivisionError()).tasks
        assert (first.completed, first.total) == (2, 2)
        assert (second.completed, second.total) == (3, 10)

    def test_an_end_is(self) -> None:
        assert [task.completed for task in self.run(None).tasks] == [2, 10]


def test_a_config_that_cant_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = typer.main.get_command(_app())
    context = command.make_context("verb", ["--size", "4x4"])
    save_config(context, tmp_path / "out")
    written = tmp_path / "out.config.toml"
    assert tomllib.loads(written.read_text()) == {"size": "4x4"}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        save_config(context, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [written]


def _app() -> typer.Typer:
    app = typer.Typer(add_completion=False)

    @app.command()
    def verb(size: str = "1x1") -> None:
        """Nothing."""

    return app
