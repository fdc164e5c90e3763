"""The `superlower` command: options of the whole line, the verbs, and exit codes."""

from __future__ import annotations

import errno
import logging
import os
import sys
import tomllib
import traceback
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

import superlower
from superlower.cli import (
    bench,
    check,
    compile,
    coverage,
    demo,
    doctor,
    export,
    inspect,
    lists,
    passes,
    upscale,
)
from superlower.cli.common import State, console
from superlower.errors import BadInputError, StoppedError, SuperlowerError, unknown_name


class _Verbs(TyperGroup):
    """Keeps from Typer what it would end the process for in its own way."""

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
for verb in (export, passes, coverage, compile, check, bench, upscale, inspect, doctor, demo, lists):
    verb.register(app)


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
        ctx.default_map = {ctx.invoked_subcommand: found}


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
    try:
        app(prog_name="superlower")
    except SuperlowerError as error:
        _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        _fail("stopped", StoppedError.exit_code, debug)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            where += ": the disk is full, free some space or choose another output"
        _fail(f"{error.strerror or error}{where}", BadInputError.exit_code, debug)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        _fail(f"unexpected {type(error).__name__}: {first}; --log-level debug shows where", 1, debug)


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    console.print(f"superlower: {message}", style="red", markup=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
