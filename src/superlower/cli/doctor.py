"""superlower doctor: what this machine has, and what is missing for what."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Iterator

import typer

import superlower
from superlower.backends.registry import backends
from superlower.cli.common import JsonFlag, print_json, print_table
from superlower.frontends.fetch import default_cache
from superlower.targets.catalog import target, targets

_DEPENDENCIES = ("onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy", "av")
"""Those of superlower itself whose versions explain most."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("doctor")(doctor)


def doctor(json: JsonFlag = False) -> None:
    """Report this machine, the SDKs found, and which targets can be built for and run on."""
    rows = list(_facts())
    served = [
        {
            "target": where.name,
            "backend": sdk.name,
            "builds": sdk.missing() or ", ".join(p for p in where.precisions if sdk.serves(where, p) is None),
            "runs": sdk.missing() or sdk.runnable(where),
        }
        for where in targets()
        for sdk in backends()
        if where.precisions and sdk.serves(where, where.precisions[0]) is None
    ]
    if json:
        print_json({"machine": dict(rows), "targets": served})
        return
    print_table("this machine", ("what", "found"), rows)
    print_table(
        "targets",
        ("target", "backend", "builds here", "runs here"),
        ((r["target"], r["backend"], r["builds"], r["runs"] or "yes") for r in served),
    )


def _facts() -> Iterator[tuple[str, str]]:
    yield "superlower", superlower.__version__
    yield "Python", f"{platform.python_version()} on {platform.platform()}"
    yield "processor", target("cpu").title
    cache = default_cache()
    near = next(p for p in (cache, *cache.parents) if p.exists())
    yield "cache", f"{cache} ({shutil.disk_usage(near).free / 1e9:.0f} GB free)"
    for name in (*_DEPENDENCIES, "torch"):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            remedy = (
                "pip install --force-reinstall superlower"
                if name in _DEPENDENCIES
                else f"pip install 'superlower[{name}]'"
            )
            yield name, f"not installed: {remedy}"
    for sdk in backends():
        found = ", ".join(f"{k} {v}" for k, v in sdk.versions().items())
        yield f"backend {sdk.name}", sdk.missing() or found
