"""superlower coverage: which node of a model each backend serves on each target, and how."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from superlower.backends.base import NodeSupport, Support
from superlower.backends.registry import backend, backends
from superlower.cli.common import (
    BackendNames,
    Bars,
    JsonFlag,
    PrecisionNames,
    TargetNames,
    console,
    parse_precisions,
    parse_size,
    parse_targets,
    print_json,
    print_table,
)
from superlower.errors import MissingSdkError, UnsupportedOperatorError
from superlower.frontends import onnx_files


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("coverage")(coverage)


def coverage(
    model: Annotated[Path, typer.Argument(help="Program folder or .onnx file.")],
    targets: TargetNames,
    backend_names: BackendNames = None,
    precisions: PrecisionNames = None,
    size: Annotated[str | None, typer.Option("--size", help="For an .onnx with free sizes.")] = None,
    json: JsonFlag = False,
) -> None:
    """Say how each backend serves every node of MODEL on each target.

    Asks the SDK's own parser or compiler where it is installed; a backend that can't answer without it is
    left out, unless asked for by name. Exit code 3 when a node is unsupported.
    """
    height, width = parse_size(size) if size else (None, None)
    graphs = onnx_files.load(model, height=height, width=width).graphs
    chosen = [backend(name) for name in backend_names] if backend_names else backends()
    rows: list[dict[str, object]] = []
    unserved: list[tuple[str, str, str, str]] = []
    with Bars() as bars:
        for sdk in chosen:
            for where in parse_targets(targets):
                for precision in parse_precisions(precisions):
                    if (reason := sdk.serves(where, precision)) is not None:
                        unserved.append((sdk.name, where.name, precision, reason))
                        continue
                    bars.stage(f"{sdk.name} on {where.name} at {precision}", len(graphs))
                    try:
                        for name, graph in graphs.items():
                            found = sdk.coverage(graph, where, precision)
                            rows += [_row(sdk.name, where.name, precision, name, node) for node in found]
                            bars.advance(name)
                    except MissingSdkError as error:
                        if backend_names:
                            raise
                        unserved.append((sdk.name, where.name, precision, str(error)))
    bad = [row for row in rows if row["support"] is Support.UNSUPPORTED]
    if json:
        print_json({"nodes": rows, "unserved": unserved})
    else:
        _tables(rows, unserved)
    if bad:
        first = bad[0]
        raise UnsupportedOperatorError(
            f"{len(bad)} nodes are unsupported, the first {first['op']} '{first['node']}' of graph "
            f"{first['graph']} by {first['backend']} on {first['target']}: {first['detail']}"
        )


def _row(sdk: str, where: str, precision: str, graph: str, node: NodeSupport) -> dict[str, object]:
    return {
        "backend": sdk,
        "target": where,
        "precision": precision,
        "graph": graph,
        "node": node.node,
        "op": node.op,
        "support": node.support,
        "detail": node.detail,
    }


def _tables(rows: list[dict[str, object]], unserved: list[tuple[str, str, str, str]]) -> None:
    columns = list(dict.fromkeys((str(r["backend"]), str(r["target"]), str(r["precision"])) for r in rows))
    counts = Counter(
        (str(r["op"]), (str(r["backend"]), str(r["target"]), str(r["precision"])), str(r["support"]))
        for r in rows
    )
    print_table(
        "coverage by operator",
        ("operator", *(" ".join(c) for c in columns)),
        (
            (
                op,
                *(", ".join(f"{counts[op, c, s]} {s}" for s in Support if counts[op, c, s]) for c in columns),
            )
            for op in sorted({str(r["op"]) for r in rows})
        ),
    )
    for row in rows:
        if row["support"] is not Support.NATIVE:
            console.print(
                f"{row['backend']} {row['target']} {row['graph']} {row['op']} '{row['node']}': "
                f"{row['support']} ({row['detail']})",
            )
    for name, where, precision, reason in unserved:
        console.print(f"{name} doesn't serve {where} at {precision}: {reason}")
