"""superlower check: a bundle's golden clip through its engines."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Annotated

import typer

from superlower.bundle.bundle import Bundle
from superlower.check.bisect import Culprit, NotBisected, bisect
from superlower.check.crosscheck import VariantCheck, check_variant
from superlower.cli.common import Atol, Bars, JsonFlag, console, print_json, print_table
from superlower.errors import MissingSdkError, OutputsDifferError, SuperlowerError, unknown_name


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("check")(check)


def check(
    bundle_path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.")],
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="Variant or backend; repeatable. Default: all.")
    ] = None,
    atol: Atol = None,
    bisect_failures: Annotated[
        bool, typer.Option("--bisect", help="On failure, name the first node whose output leaves tolerance.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Replay BUNDLE's golden clip and compare every frame with the reference. Exit code 4 if one differs."""
    bundle = Bundle.open(bundle_path)
    known = {name for v in bundle.manifest.variants for name in (v.name, v.backend)}
    for name in variants or ():
        if name not in known:
            raise unknown_name("variant or backend in this bundle", name, known)
    chosen = [
        v for v in bundle.manifest.variants if not variants or v.name in variants or v.backend in variants
    ]
    golden = bundle.golden()
    checks: list[VariantCheck] = []
    culprits: dict[str, Culprit | NotBisected | None] = {}
    with Bars() as bars:
        for variant in chosen:
            bars.stage(variant.name, len(golden.frames))
            checks.append(check_variant(bundle, variant, golden, atol=atol, on_frame=bars.advance))
            if bisect_failures and checks[-1].passed is False:
                bars.stage(f"bisecting {variant.name}")
                try:
                    culprits[variant.name] = bisect(
                        bundle, variant, golden, atol=atol, on_step=lambda step: bars.stage(f"  {step}")
                    )
                except SuperlowerError as error:  # The verdicts are the report; this only explains one.
                    culprits[variant.name] = NotBisected(str(error))
    if json:
        print_json({"checks": checks, "culprits": culprits})
    else:
        print_checks(checks, culprits)
    failed = [c for c in checks if c.passed is False]
    if failed:
        names = ", ".join(c.variant for c in failed)
        hint = "" if bisect_failures else "; --bisect names the first node"
        raise OutputsDifferError(f"{names} left tolerance on {bundle_path}{hint}")
    if checks and all(c.passed is None for c in checks):
        raise MissingSdkError(f"no variant of {bundle_path} runs on this machine: {checks[0].skipped}")


def print_checks(checks: list[VariantCheck], culprits: dict[str, Culprit | NotBisected | None]) -> None:
    """Errors by frame, verdicts, and what bisection found."""
    run = [c for c in checks if c.passed is not None]
    if run:
        print_table(
            f"largest error of each frame against {run[0].reference} (PSNR in dB)",
            ("frame", *(c.variant for c in run)),
            (
                (
                    t,
                    *(
                        f"{c.max_abs[t]:.2g} ({'identical' if (db := c.psnr_db[t]) == inf else f'{db:.1f}'})"
                        for c in run
                    ),
                )
                for t in range(len(run[0].max_abs))
            ),
        )
    print_table(
        "verdict",
        ("variant", "verdict", "largest error", "tolerance", "growth"),
        (
            (
                c.variant,
                "pass" if c.passed else "not run" if c.passed is None else "FAIL",
                f"{max(c.max_abs):.2g}" if c.max_abs else c.skipped,
                f"{c.tolerance:.2g}" if c.floor_db is None else f"{c.floor_db:.1f} dB",
                "" if c.growth is None else f"x{c.growth:.2f}",
            )
            for c in checks
        ),
    )
    for c in run:
        if c.flips_accepted:
            console.print(
                f"{c.variant}: compared with the reference's choices; its own differ for {c.flips} patches, "
                f"{c.flips_accepted} may",
                markup=False,
            )
    for name, culprit in culprits.items():
        if culprit is None:
            console.print(
                f"{name}: every call agrees by itself; the error grows through the states", markup=False
            )
        elif isinstance(culprit, NotBisected):
            console.print(f"{name}: not bisected: {culprit.reason}")
        elif not culprit.rebuilt:
            console.print(
                f"{name}: the stored engine of graph {culprit.graph} is off by {culprit.error:.2g} at call "
                f"{culprit.call}, one built anew is not: compile the bundle again",
            )
        else:
            console.print(
                f"{name}: graph {culprit.graph}, call {culprit.call}: first off is {culprit.op} "
                f"'{culprit.node}' (tensor {culprit.tensor}), by {culprit.error:.2g}, tolerance "
                f"{culprit.tolerance:.2g}",
            )
