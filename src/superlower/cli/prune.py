"""superlower prune: a checkpoint becomes a smaller one."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated

import typer

from superlower.cli.common import (
    Bars,
    DryRun,
    JsonFlag,
    OutputPath,
    Seed,
    Settings,
    Threads,
    console,
    parse_settings,
    parse_size,
    print_json,
    print_table,
    save_config,
)
from superlower.driver.prune import prunable_frontend, run
from superlower.driver.prune_request import COST_SIZE, Cut, Footage, Pruned, Tuning, check
from superlower.errors import BadInputError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("prune")(prune)


def prune(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="Architecture: basicvsr, frvsr, tecogan or egvsr.")],
    output: OutputPath,
    weights: Annotated[
        str | None, typer.Option("--weights", "-w", help="Checkpoint to prune, as of `export`.")
    ] = None,
    remove: Annotated[
        str | None, typer.Option("--remove", help="Share of the whole network that goes, as 40%.")
    ] = None,
    blocks: Annotated[
        int | None, typer.Option("--blocks", min=1, help="Residual blocks to keep of each row, instead.")
    ] = None,
    of: Annotated[
        str, typer.Option("--of", help="What --remove is a share of: parameters, flops.")
    ] = "parameters",
    units: Annotated[str, typer.Option("--units", help="What goes: both, channels or blocks.")] = "both",
    importance: Annotated[
        str, typer.Option("--importance", help="output (its change, on the clips) or weights (their norms).")
    ] = "output",
    multiple: Annotated[
        int, typer.Option("--multiple", min=1, help="Channels that go together; kernels take 16 at once.")
    ] = 16,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Windows to measure importance and to refit on.")
    ] = 32,
    no_refit: Annotated[bool, typer.Option("--no-refit", help="No least squares after the cut.")] = False,
    clip: Annotated[
        list[str] | None,
        typer.Option("--clip", help="Video, folder of PNGs or sample clip to learn from; repeatable."),
    ] = None,
    degradation: Annotated[
        str, typer.Option("--degrade", help="How low resolution is made: bi, bd, bd13, bd9.")
    ] = "bi",
    steps: Annotated[int, typer.Option("--steps", min=0, help="Of fine-tuning.")] = 0,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Of fine-tuning, instead of --steps.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Windows a step.")] = 4,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Of the first step.")] = 2e-4,
    windows: Annotated[int, typer.Option("--windows", min=1, help="Cut from the clips.")] = 48,
    length: Annotated[int, typer.Option("--length", min=2, help="Frames of a window.")] = 4,
    crop: Annotated[int, typer.Option("--crop", min=33, help="Low-resolution side of a window.")] = 48,
    evaluate: Annotated[
        list[str] | None,
        typer.Option("--evaluate", help="Clip of ground truth to score on, never learned from; repeatable."),
    ] = None,
    frames: Annotated[int, typer.Option("--frames", min=1, help="Of each of those.")] = 8,
    side: Annotated[
        int | None, typer.Option("--side", min=33, help="Low-resolution side of their middle that is scored.")
    ] = None,
    time_size: Annotated[
        str, typer.Option("--time", help="HEIGHTxWIDTH to time both networks at, in PyTorch; none not to.")
    ] = "64x64",
    threads: Threads = 0,
    settings: Settings = None,
    seed: Seed = 0,
    dry_run: DryRun = False,
    json: JsonFlag = False,
) -> None:
    """Prune MODEL's checkpoint: blocks and channels that change its output least go, the rest is refitted and
    fine-tuned to say what the whole network said.

    The output is a checkpoint that `export MODEL --weights` takes. Stopped, it goes on with the same options.
    """
    cut = Cut(
        remove=None if remove is None else _share(remove),
        blocks=blocks,
        of=of,
        units=units,
        importance=importance,
        multiple=multiple,
        refit=not no_refit,
        samples=samples,
    )
    if steps and minutes is not None:
        raise BadInputError("say how long: either --steps or --minutes")
    tuning = Tuning(
        steps=None if minutes is not None else steps,
        minutes=minutes,
        batch=batch,
        learning_rate=learning_rate,
        windows=windows,
        length=length,
        crop=crop,
    )
    footage = Footage(clip or (), evaluate or (), frames, side, degradation)
    size = None if time_size == "none" else parse_size(time_size)
    if dry_run:
        prunable_frontend(model)
        check(cut, tuning, footage)
        console.print(f"would prune {model} to {output}")
        return
    with Bars() as bars:
        made = run(
            model,
            weights,
            output,
            cut,
            tuning,
            footage,
            options=parse_settings(settings),
            time_size=size,
            threads=threads,
            seed=seed,
            progress=bars,
        )
    save_config(ctx, output)
    if json:
        print_json(asdict(made))
        return
    _print(made)


def _share(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%", text.strip())
    if match is None:
        raise BadInputError(f"--remove {text}: write a percentage, as 40%")
    return float(match[1]) / 100


def _print(made: Pruned) -> None:
    rows = [
        ("parameters", f"{made.before.parameters:,}", f"{made.after.parameters:,}"),
        (
            "GMAC a frame of {}x{}".format(*COST_SIZE),
            f"{made.before.gmacs:.1f}",
            f"{made.after.gmacs:.1f}",
        ),
    ]
    if made.before.ms is not None and made.after.ms is not None:
        rows.append(("ms a frame, PyTorch eager", f"{made.before.ms:.0f}", f"{made.after.ms:.0f}"))
    shares = (made.after.parameters / made.before.parameters, made.after.gmacs / made.before.gmacs)
    changes = [f"{share - 1:+.1%}" for share in shares]
    if made.ratio is not None:
        changes.append(f"{made.ratio:.2f} times as fast")
    print_table(
        f"{made.output}: " + "; ".join(f"{name} {what}" for name, what in made.structure.items()),
        ("", "before", "after", ""),
        ((*row, change) for row, change in zip(rows, changes, strict=True)),
    )
    if not made.stages[0].psnr:
        return
    whole = made.stages[0].psnr
    print_table(
        f"PSNR-Y in dB, {made.steps} steps of fine-tuning, {made.seconds / 60:.0f} minutes in all",
        ("", *whole),
        (
            (stage.name, *(f"{value:.3f} ({value - whole[name]:+.3f})" for name, value in stage.psnr.items()))
            for stage in made.stages
        ),
    )
