"""superlower doctor: what this machine has, what is missing for what, and which known bugs concern it."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import superlower
from superlower.backends.base import Backend
from superlower.backends.registry import backend, backends
from superlower.backends.tensorrt.cuda import Driver
from superlower.backends.tvm.cuda import find_compiler
from superlower.cli.cache import cache_line
from superlower.cli.common import BackendNames, Bars, JsonFlag, console, print_json, print_table
from superlower.doctor.examine import concerns
from superlower.doctor.fits import (
    ESSENTIAL,
    Conflict,
    conflicts,
    cuda_major,
    driver_conflict,
    installed,
    read_driver,
)
from superlower.doctor.rules import Action, Rule, rules
from superlower.driver.probe import refresh, require_written
from superlower.errors import BadInputError, MissingSdkError
from superlower.frontends.fetch import default_cache
from superlower.probes.cases import cases
from superlower.targets.base import Target
from superlower.targets.catalog import target, targets

_DRIVER = Path("/proc/driver/nvidia/version")
_TVM_CUDA = 13
"""CUDA version whose runtime library apache-tvm's wheel links (0.27)."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("doctor")(doctor)


def doctor(
    list_rules: Annotated[
        bool, typer.Option("--rules", help="List the known bugs, and which concern what is installed.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Run the operator probes here; write tables that can be sent in.")
    ] = False,
    backend_names: BackendNames = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of --probe's tables.")] = Path(
        "superlower-probes"
    ),
    json: JsonFlag = False,
) -> None:
    """Report this machine, the SDKs found, whether their versions fit, and what can be built and run.

    Exit code 6 when something that is installed doesn't fit the rest; the message says what mends it.
    """
    chosen = [backend(name) for name in dict.fromkeys(backend_names)] if backend_names else backends()
    if list_rules and probe:
        raise BadInputError("--rules lists and --probe runs: ask for one of them")
    if list_rules:
        _rules(chosen, json, of_all=not backend_names)
    elif probe:
        _probe(chosen, output, json)
    else:
        _report(chosen, json)


@dataclass(frozen=True)
class _Serves:
    """How a backend serves a target here: precisions it builds, why it doesn't build, why it doesn't run."""

    target: str
    backend: str
    precisions: tuple[str, ...]
    missing: str | None
    runs: str | None

    @property
    def cell(self) -> str:
        """For the table."""
        does = "install" if self.missing else "builds" if self.runs else "runs"
        return f"{does}: {' '.join(self.precisions)}"


def _report(chosen: Sequence[Backend], json: bool) -> None:
    served = [s for where in targets() for sdk in chosen if (s := _serves(sdk, where)) is not None]
    facts, unfit = dict(_facts(chosen)), _conflicts(chosen)
    told = [line for sdk in chosen for line in _bugs(sdk)]
    if json:
        rows = [
            {
                "target": s.target,
                "backend": s.backend,
                "builds": s.missing or ", ".join(s.precisions),
                "runs": s.runs,
            }
            for s in served
        ]
        print_json(
            {
                "machine": facts,
                "targets": rows,
                "conflicts": [{"what": c.what, "why": c.why, "command": c.command} for c in unfit],
                "known_bugs": told,
            }
        )
    else:
        _show(facts, served, chosen)
        for line in (*told, *(conflict.line for conflict in unfit[1:])):
            console.print(line)
    if unfit:
        more = f" (and {len(unfit) - 1} more conflicts)" if len(unfit) > 1 else ""
        raise MissingSdkError(f"{unfit[0].line}{more}")


def _serves(sdk: Backend, where: Target) -> _Serves | None:
    built = tuple(str(p) for p in where.precisions if sdk.serves(where, p) is None)
    if not built:
        return None
    missing = sdk.missing()
    return _Serves(where.name, sdk.name, built, missing, missing or sdk.runnable(where))


def _show(facts: dict[str, str], served: Sequence[_Serves], chosen: Sequence[Backend]) -> None:
    print_table("this machine", ("what", "found"), facts.items())
    cells = {(s.target, s.backend): s.cell for s in served}
    names = [sdk.name for sdk in chosen if any(s.backend == sdk.name for s in served)]
    print_table(
        "targets: runs and builds here, builds here, or needs its SDK installed",
        ("target", *names),
        (
            (where.name, *(cells.get((where.name, name), "-") for name in names))
            for where in targets()
            if any(s.target == where.name for s in served)
        ),
    )
    for sdk in chosen:
        if (reason := sdk.missing()) is not None:
            console.print(f"to install {sdk.name}: {reason}")


def _facts(chosen: Sequence[Backend]) -> Iterator[tuple[str, str]]:
    yield "superlower", superlower.__version__
    yield "Python", f"{platform.python_version()} on {platform.platform()}"
    yield "processor", target("cpu").title
    yield "NVIDIA GPU", _gpus()
    yield "CUDA compilers", _compilers()
    cache = default_cache()
    near = next(p for p in (cache, *cache.parents) if p.exists())
    yield "cache", f"{cache} ({shutil.disk_usage(near).free / 1e9:.0f} GB free)"
    yield "engines in it", cache_line()
    here = installed()
    for name in (*ESSENTIAL, "torch"):
        extra = f"'superlower[{name}]'" if name == "torch" else "--force-reinstall superlower"
        yield name, here.get(name) or f"not installed: pip install {extra}"
    for sdk in chosen:
        found = ", ".join(f"{k} {v}" for k, v in sdk.versions().items())
        yield f"backend {sdk.name}", sdk.missing() or found


def _gpus() -> str:
    try:
        driver = Driver()
        found = ", ".join(f"{device.name} (SM{device.sm})" for device in driver.devices())
    except MissingSdkError as error:
        return str(error).partition(": ")[0]
    return f"{found or 'none'}, driver {_driver_version() or 'of an unknown version'}"


def _driver_version() -> str:
    try:
        return read_driver(_DRIVER.read_text("utf-8", errors="replace"))
    except OSError:
        return ""


def _compilers() -> str:
    """Which CUDA compiler serves which of the targets' architectures."""
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for sm in sorted({t.compute_capability for t in targets() if t.compute_capability is not None}):
            try:
                name = find_compiler([f"sm_{sm}"], Path(folder)).name
            except MissingSdkError:
                name = "none"
            found.setdefault(name, []).append(f"sm_{sm}")
    return "; ".join(f"{name} for {', '.join(archs)}" for name, archs in found.items())


def _conflicts(chosen: Sequence[Backend]) -> list[Conflict]:
    here, driver = installed(), _driver_version()
    found = conflicts(here)
    built = {name: cuda for name in here if (cuda := cuda_major(name)) is not None and "tensorrt" in name}
    if any(sdk.name == "tvm" and sdk.missing() is None for sdk in chosen):
        built["apache-tvm"] = _TVM_CUDA
    found += [c for name, cuda in built.items() if (c := driver_conflict(driver, cuda, name)) is not None]
    return found


def _bugs(sdk: Backend) -> list[str]:
    """Known bugs of the versions installed that are there whatever is built."""
    if sdk.missing() is not None:
        return []
    return [
        f"{sdk.name}: {rule.symptom}: {rule.cure} [{rule.id}]"
        for rule in _concerning(sdk)
        if rule.graph_free and rule.versions and rule.action in (Action.WARN, Action.REFUSE) and not rule.sm
    ]


def _concerning(sdk: Backend) -> list[Rule]:
    return [r for r in rules() if (not r.backends or sdk.name in r.backends) and concerns(r, sdk.versions())]


def _rules(chosen: Sequence[Backend], json: bool, *, of_all: bool) -> None:
    here = {r.id for sdk in chosen if sdk.missing() is None for r in _concerning(sdk)}
    names = {sdk.name for sdk in chosen}
    known = [r for r in rules() if of_all or not r.backends or names.intersection(r.backends)]
    if json:
        print_json([{**_plain(rule), "here": rule.id in here} for rule in known])
        return
    print_table(
        "known bugs and limits (*: of what is installed)",
        ("", "rule", "superlower", "what happens, and what to do"),
        (
            (
                "*" if rule.id in here else "",
                rule.id,
                rule.action,
                f"{rule.symptom}{': ' if rule.cure else ''}{rule.cure}".replace("{detail}", "…"),
            )
            for rule in known
        ),
    )


def _plain(rule: Rule) -> dict[str, object]:
    return {
        "id": rule.id,
        "backends": rule.backends,
        "versions": rule.versions,
        "kinds": rule.kinds,
        "sm": rule.sm,
        "precisions": rule.precisions,
        "condition": rule.condition.told,
        "symptom": rule.symptom,
        "action": rule.action,
        "passes": [use.name for use in rule.passes],
        "settings": rule.settings,
        "cure": rule.cure,
        "source": rule.source,
    }


def _probe(chosen: Sequence[Backend], folder: Path, json: bool) -> None:
    with Bars() as bars:
        found = refresh(chosen, folder, cases(), bars)
    written = [one.path for one in found if one.path is not None]
    if json:
        print_json({"tables": found})
    else:
        print_table(
            "probes",
            ("backend", "target", "cases", "table"),
            (
                (
                    one.backend,
                    one.target,
                    ", ".join(f"{count} {verdict}" for verdict, count in sorted(one.verdicts.items())),
                    one.path or one.reason,
                )
                for one in found
            ),
        )
        if written:
            console.print(f"{folder} can be sent in: SDK versions, processor, and what each operator gave")
    require_written(found)
