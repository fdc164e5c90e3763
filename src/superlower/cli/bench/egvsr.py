"""superlower bench egvsr: what EGVSR weighs against one another, measured here."""

from __future__ import annotations

from typing import Annotated

import typer

from superlower.backends.registry import backend
from superlower.cli.bench.common import Files, Folder, MarkdownFile, PlotFile, surroundings, versions
from superlower.cli.common import BackendNames, Bars, JsonFlag, Threads, parse_size, print_json, print_table
from superlower.driver.egvsr_cases import CASES, CLAIMS, NETWORKS_GROUP
from superlower.driver.egvsr_study import CALLS, study
from superlower.driver.speed import physical_cores
from superlower.errors import MissingSdkError, unknown_name
from superlower.frontends.zoo.build import missing_torch
from superlower.report.egvsr_pages import COLUMNS, Page, by_group, cells

GROUPS = (*dict.fromkeys(case.group for case in CASES), NETWORKS_GROUP)


def egvsr(
    backend_names: BackendNames = None,
    size: Annotated[str, typer.Option("--size", help="HEIGHTxWIDTH of a low-resolution frame.")] = "68x120",
    frames: Annotated[int, typer.Option("--frames", min=3, help="Of the clip that networks run.")] = 4,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timed runs of each, in turns.")] = 5,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Groups whose names hold this text; repeatable. Default: all."),
    ] = None,
    threads: Threads = 0,
    folder: Folder = None,
    markdown: MarkdownFile = None,
    plot: PlotFile = None,
    json: JsonFlag = False,
) -> None:
    """EGVSR's comparisons: forms of upsampling, of batch norms, of a convolution, and networks, with seeded
    weights, by time and cost, beside what was published.

    The paper's size is 540x960; the default is an eighth of it at each side.
    """
    groups = [g for g in GROUPS if not only or any(text in g for text in only)]
    if not groups:
        raise unknown_name("group", (only or [""])[0], GROUPS)
    for name in backend_names or ():
        if name not in CALLS:
            raise unknown_name("backend here", name, CALLS)
    sdks = list(dict.fromkeys(backend_names or [n for n in CALLS if backend(n).missing() is None]))
    for name in sdks:
        if (reason := backend(name).missing()) is not None:
            raise MissingSdkError(reason)
    if NETWORKS_GROUP in groups and (reason := missing_torch()) is not None:
        raise MissingSdkError(reason)
    height, width = parse_size(size)
    files = Files.of("egvsr", folder, markdown, plot)
    about = surroundings()
    with Bars() as bars:
        forms = study(
            sdks,
            groups,
            size=(height, width),
            frames=frames,
            rounds=rounds,
            threads=threads or physical_cores(),
            progress=bars,
        )
    packages = versions(sdks, torch=NETWORKS_GROUP in groups)
    title = f"EGVSR's comparisons at {size}, {rounds} rounds in turns, {about['machine']}"
    result = {
        **about,
        "versions": packages,
        "height": height,
        "width": width,
        "frames": frames,
        "rounds": rounds,
        "results": forms,
        "published": CLAIMS,
    }
    page = Page(title, forms, str(about["system"]), packages, float(about["load_average"]))
    files.write(result, page.markdown(), page.plot())
    if json:
        print_json(result)
        return
    for group, of_group in by_group(forms):
        print_table(f"{group}, {title}", COLUMNS, cells(of_group))
