"""From a checkpoint to a smaller one: what is worth least goes, the rest is refitted and fine-tuned."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import msgspec

from superlower import plugins
from superlower.driver.export import frontend
from superlower.driver.progress import Progress, received
from superlower.driver.prune_request import COST_SIZE, Cut, Footage, Pruned, Stage, Tuning, check
from superlower.driver.prune_work import PrunableFrontend, Scored, Work
from superlower.driver.speed import physical_cores, pytorch_threads
from superlower.errors import BadInputError, MissingSdkError
from superlower.frontends.base import ExportRequest, ZooFrontend
from superlower.frontends.weights import fetch_weights


def run(
    model: str,
    weights: str | None,
    output: Path,
    cut: Cut,
    tuning: Tuning,
    footage: Footage,
    *,
    options: Mapping[str, str] | None = None,
    time_size: tuple[int, int] | None = None,
    threads: int = 0,
    seed: int = 0,
    progress: Progress,
) -> Pruned:
    """Prune a checkpoint, refit and fine-tune what is left, and say what that cost and gained.

    A fine-tuning is saved as OUTPUT.tuning as it goes on, and taken up again from there by a call with
    the same arguments.

    Args:
        model, weights, options: as of `export`.
        output: the pruned checkpoint, which `export` takes as any other.
        time_size: height and width that both networks are timed at, in turns; None not to.
        threads: of PyTorch; 0 for all cores.
        seed: of windows, projections and fine-tuning.

    Raises:
        BadInputError: an architecture that can't be pruned, footage too small, a cut that can't be made, or a
            saved fine-tuning of other arguments.
        MissingSdkError: PyTorch isn't installed.
    """
    started = time.monotonic()
    architecture, prunable = prunable_frontend(model)
    check(cut, tuning, footage)
    if output.is_dir():
        raise BadInputError(f"{output} is a folder: a pruned checkpoint is a file, choose another output")
    fetched = fetch_weights(weights, architecture, progress=received(progress, "fetching weights"))
    request = ExportRequest(fetched.path, *COST_SIZE, options or {}, fetched.source)
    work = Work(prunable, request, output, progress, seed)
    settings = msgspec.json.encode(
        {
            "model": model,
            "weights": fetched.source,
            "options": dict(options or {}),
            "seed": seed,
            **asdict(cut),
            **asdict(tuning),
            **asdict(footage),
        },
        order="sorted",
    ).decode()
    with pytorch_threads(threads or physical_cores()):
        whole = prunable.network(request)
        saved = work.saved(settings)
        windows = work.windows(footage, tuning)
        if saved is None:
            clips = [Scored.read(whole, name, footage, progress) for name in footage.evaluation]
            stages = [work.score("whole", whole, clips)]
            plan, pruned = work.cut(whole, cut, windows, tuning.batch)
            stages.append(work.score("cut", pruned, clips))
            if cut.refit and windows is not None:
                work.refit(pruned, whole, plan, cut, windows, tuning.batch)
                stages.append(work.score("refitted", pruned, clips))
        else:
            stages = [Stage(**found) for found in msgspec.json.decode(saved["stages"])]
            pruned = work.network(saved["params"])
        steps = 0
        if windows is not None and tuning.steps != 0:
            steps = work.fine_tune(pruned, whole, windows, tuning, settings, stages, saved)
            clips = [Scored.read(whole, name, footage, progress) for name in footage.evaluation]
            stages.append(work.score("fine-tuned", pruned, clips))
        before, after, ratio = work.sizes(whole, pruned, time_size)
        work.write(pruned)
    return Pruned(
        output=output,
        structure=pruned.structure,
        before=before,
        after=after,
        ratio=ratio,
        stages=tuple(stages),
        steps=steps,
        seconds=time.monotonic() - started,
    )


def prunable_frontend(model: str) -> tuple[ZooFrontend, PrunableFrontend]:
    """A named architecture, as both of what it is.

    Raises:
        BadInputError: unknown, or it can't be pruned.
        MissingSdkError: PyTorch isn't installed.
    """
    architecture = frontend(model)
    if not isinstance(architecture, PrunableFrontend):
        known = [n for n in plugins.table("frontend") if isinstance(frontend(n), PrunableFrontend)]
        raise BadInputError(f"{model} can't be pruned: choose {', '.join(known)}")
    if (reason := architecture.missing()) is not None:
        raise MissingSdkError(reason)
    return architecture, architecture
