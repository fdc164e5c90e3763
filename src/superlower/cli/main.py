"""The `superlower` command: options of the whole line, the verbs, and exit codes."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
import tomllib
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

import superlower
from superlower.cli.common import State, console
from superlower.errors import BadInputError, StoppedError, SuperlowerError, unknown_name

VERBS = {
    "export": "export",
    "plan": "plan",
    "passes": "passes",
    "prune": "prune",
    "coverage": "coverage",
    "tune": "tune",
    "farm": "farm",
    "compile": "compile",
    "check": "check",
    "bench": "bench",
    "upscale": "upscale",
    "inspect": "inspect",
    "doctor": "doctor",
    "cache": "cache",
    "demo": "demo",
    "models": "models",
    "targets": "lists",
    "backends": "lists",
}
"""Each verb and its module in `superlower.cli`, in the order of the help."""


class _Lazy(dict[str, Any]):
    """Commands by verb, each module imported when its verb is asked for: lists need no compiler's."""

    def __getitem__(self, verb: str) -> Any:
        found = super().__getitem__(verb)
        if isinstance(found, str):
            made = typer.Typer(rich_markup_mode=None)
            import_module(f"superlower.cli.{found}").register(made)
            found = typer.main.get_group(made).commands[verb]
            self[verb] = found
        return found

    def get(self, verb: str, default: Any = None) -> Any:
        """The verb's command; the default where there is no such verb."""
        return self[verb] if verb in VERBS else default


class _Verbs(TyperGroup):
    """Keeps from Typer what it would end the process for in its own way."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Lazy(VERBS)

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            raise StoppedError("stopped") from stopped
        except BrokenPipeError:
            # Whoever read stdout has seen enough; the flush at exit must not fail in turn.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


app = typer.Typer(
    name="superlower",
    cls=_Verbs,
    help="Lower video super-resolution models onto accelerators.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"superlower {superlower.__version__}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    log_level: Annotated[
        str, typer.Option("--log-level", help="debug, info, warning or error; debug shows tracebacks.")
    ] = "warning",
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No progress bars.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with options of the verb, by their names.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every verb."""
    level = getattr(logging, log_level.upper(), None)
    if not isinstance(level, int):
        raise BadInputError(f"--log-level {log_level}: write debug, info, warning or error")
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    State.progress = not no_progress
    if config is not None and ctx.invoked_subcommand is not None:
        found = _read_config(config)
        verb: Any = cast(Any, ctx.command).commands[ctx.invoked_subcommand]
        known = {option.name for option in verb.params} | getattr(verb, "commands", {}).keys()
        for name in found.keys() - known:
            unknown = unknown_name(f"option of {ctx.invoked_subcommand}", name, known)
            raise BadInputError(f"config file {config}: {unknown}")
        # An argument that takes several was written as one by a compile of one.
        several = {option.name for option in verb.params if option.nargs == -1}
        lists = {n: [found[n]] for n in several & found.keys() if not isinstance(found[n], list)}
        ctx.default_map = {ctx.invoked_subcommand: found | lists}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise BadInputError(f"no such config file: {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadInputError(f"config file {path} can't be read: {error}") from None


def main() -> None:
    """Run the command line and exit with the documented code."""
    debug = "--log-level=debug" in sys.argv or ("--log-level", "debug") in pairwise(sys.argv)
    with _stopping() as stopped:
        try:
            app(prog_name="superlower")
        except (Exception, KeyboardInterrupt) as error:
            message, code = _told(error)
            # What was running then may have made another error of it: an import "fails to initialize".
            if stopped:
                message, code = "stopped", StoppedError.exit_code
            _fail(message, code, debug)


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """Everything that asks the process to end raises KeyboardInterrupt, so that nothing half-written stays.

    Signals that the caller ignores (nohup) stay ignored. The list holds those that came.
    """
    came: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    with ExitStack() as restored:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    restored.callback(signal.signal, number, signal.signal(number, stop))
        yield came


def _told(error: BaseException) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, SuperlowerError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "stopped", StoppedError.exit_code
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            where += ": the disk is full, free some space or choose another output"
        return f"{error.strerror or error}{where}", BadInputError.exit_code
    first = (str(error).strip().splitlines() or [""])[0]
    return f"unexpected {type(error).__name__}: {first}; --log-level debug shows where", 1


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    line = " ".join(part.strip() for part in message.splitlines() if part.strip())
    console.print(f"superlower: {line}", style="red", markup=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
