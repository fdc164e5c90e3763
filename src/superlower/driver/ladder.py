"""The ladder of the papers: what each step to a faster network brings and costs, all rungs in one run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

import msgspec

from superlower.bundle.bundle import Bundle
from superlower.bundle.manifest import MANIFEST_FILE
from superlower.driver.entrants import Checkpoint, Entrant, Kind, asked, reference
from superlower.driver.flops import clip_macs, graph_macs
from superlower.driver.footage import read_footage
from superlower.driver.ladder_build import Asked, Built, build, variant_name
from superlower.driver.ladder_plan import PYTORCH_BACKEND, Group, Ladder, Rung, Stage, groups
from superlower.driver.progress import Progress
from superlower.driver.quality import measure
from superlower.driver.side_by_side import Entry, Peak, Placed, place
from superlower.driver.speed import back_and_forth
from superlower.errors import MissingSdkError
from superlower.frontends.zoo.figures import Planned, a_frame
from superlower.ir import constant_value
from superlower.program.model import TemporalModel

SCORES_FILE = "scores.json"
METRICS = ("psnr", "ssim")


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Of one rung's arithmetic over one clip: frame by frame, luma against the ground truth."""

    psnr: tuple[float, ...]
    ssim: tuple[float, ...]


@dataclass(frozen=True)
class Step:
    """One rung, measured.

    Attributes:
        rung: what it is made of.
        parameters: trained numbers of the network, less those of convolutions that passes took away.
        gflop: operations of all convolutions for a frame, 10^9; two a multiply-accumulate.
        placed: times, memory and share of the peak; None if it wasn't timed.
        scores: by clip, in dB and SSIM.
        change_db, change_ssim: by clip, less the first rung's.
        own_db: PSNR of the golden clip to the network's own output in PyTorch, where no truth was given.
        stage: the published one beside it.
        published_ratio: how many times as fast that was as its base.
        why: there is nothing of it; one line.
    """

    rung: Rung
    parameters: int | None = None
    gflop: float | None = None
    placed: Placed | None = None
    scores: Mapping[str, Scores] = field(default_factory=dict)
    change_db: Mapping[str, float] = field(default_factory=dict)
    change_ssim: Mapping[str, float] = field(default_factory=dict)
    own_db: float | None = None
    stage: Stage | None = None
    published_ratio: float | None = None
    why: str = ""

    @property
    def lost_db(self) -> float | None:
        """What it loses on the clip that it loses most on; None without a ground truth."""
        return max((-change for change in self.change_db.values()), default=None)


@dataclass(frozen=True)
class Climb:
    """A ladder, measured."""

    steps: tuple[Step, ...]
    peaks: tuple[Peak, ...]


def climb(
    wanted: Asked,
    ladder: Ladder,
    folder: Path,
    *,
    clip_frames: int,
    scored_frames: int | None,
    rounds: int,
    progress: Progress,
    given: Sequence[Bundle] = (),
    quick: bool = False,
) -> Climb:
    """Build every rung, score it, and time all of them in turns.

    Args:
        folder: bundles and scores, which a further run of the same request takes up again.
        clip_frames: of the clip that each turn upscales.
        scored_frames: of each clip of ground truth; None for all.
        rounds: timed; 0 to build and score alone.
        given: bundles compiled before, to take engines from.
        quick: as of `place`.

    Raises:
        SuperlowerError: the first rung, which all others are compared with, can't be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    built = {
        group: build(wanted, group, rungs, folder / group.name, progress, given)
        for group, rungs in groups(ladder.rung).items()
    }
    first = ladder.rung[0]
    if why := built[_group(first)].reason(first):
        raise MissingSdkError(f"the first rung, {first.name}, can't be had: {why}")
    steps = {rung.name: _step(wanted, ladder, rung, built) for rung in ladder.rung}
    scores = _scored(wanted, ladder.rung, built, folder / SCORES_FILE, scored_frames, progress)
    peaks: list[Peak] = []
    placed: dict[str, Placed] = {}
    if rounds:
        entries = [
            _entry(wanted, rung, bundle, clip_frames)
            for rung in ladder.rung
            if (bundle := _bundle(rung, built)) is not None
        ]
        results, peaks = place(entries, rounds=rounds, quick=quick, progress=progress)
        placed = {one.name: one for one in results}
    base = scores.get(first.name, {})
    found = []
    for rung in ladder.rung:
        step, own, one = steps[rung.name], scores.get(rung.name, {}), placed.get(rung.name)
        found.append(
            replace(
                step,
                placed=one,
                scores=own,
                change_db={c: fmean(s.psnr) - fmean(base[c].psnr) for c, s in own.items()},
                change_ssim={c: fmean(s.ssim) - fmean(base[c].ssim) for c, s in own.items()},
                why=step.why or (one.why if one else ""),
            )
        )
    return Climb(tuple(found), tuple(peaks))


def _group(rung: Rung) -> Group:
    return Group(pruned=rung.pruned, passes=rung.passes)


def _bundle(rung: Rung, built: Mapping[Group, Built]) -> Bundle | None:
    """That a rung runs; None if it can't be had."""
    return built[_group(rung)].bundle(rung)


def _step(wanted: Asked, ladder: Ladder, rung: Rung, built: Mapping[Group, Built]) -> Step:
    published = ladder.published
    beside = next((s for s in published.stage if s.name == rung.beside), None) if published else None
    ratio = published.ratio(rung.beside) if published and beside else None
    step = Step(rung, stage=beside, published_ratio=ratio)
    bundle, checkpoint = _bundle(rung, built), wanted.checkpoint(_group(rung))
    if bundle is None or checkpoint is None:
        return replace(step, why=built[_group(rung)].reason(rung))
    model = bundle.model()
    own_db = None
    if rung.backend != PYTORCH_BACKEND and not wanted.truth and not rung.passes:
        measured = bundle.variant(variant_name(rung)).measured
        own_db = fmean(measured.psnr_db) if measured is not None else None
    return replace(
        step,
        parameters=_parameters(bundle, checkpoint, built, rung, model),
        gflop=2e-9 * a_frame(model.program, graph_macs(model)),
        own_db=own_db,
    )


def _parameters(
    bundle: Bundle, checkpoint: Checkpoint, built: Mapping[Group, Built], rung: Rung, model: TemporalModel
) -> int | None:
    """Of the checkpoint's network, less the convolutions that the rung's passes took out of its graphs."""
    architecture, request = asked(bundle, checkpoint)
    if not isinstance(architecture, Planned):
        return None
    count = architecture.blueprint(request).parameters
    if not rung.passes:
        return count
    plain = built.get(Group(pruned=rung.pruned))
    whole = next(iter(plain.bundles.values()), None) if plain else None
    return None if whole is None else count - _weights(whole.model()) + _weights(model)


def _weights(model: TemporalModel) -> int:
    """Elements of all convolutions' weights and biases."""
    return sum(
        found.size
        for graph in model.graphs.values()
        for node in graph.graph.all_nodes()
        if node.op_type in ("Conv", "ConvTranspose", "DeformConv")
        for value in node.inputs
        if (found := constant_value(value)) is not None
    )


def _entry(wanted: Asked, rung: Rung, bundle: Bundle, clip_frames: int) -> Entry:
    clip = back_and_forth(bundle.golden().frames, clip_frames)
    torch = rung.backend == PYTORCH_BACKEND
    entrant = Entrant(
        name=rung.name,
        kind=Kind.EAGER if torch else Kind.VARIANT,
        bundle=str(bundle.folder.resolve()),
        variant="" if torch else variant_name(rung),
        checkpoint=wanted.checkpoint(_group(rung)),
        clips=rung.clips,
        in_flight=rung.in_flight,
        settings=rung.settings,
    )
    return Entry(entrant, rung.precision, bundle, clip, 2e-9 * clip_macs(bundle.model(), clip_frames))


def _scored(
    wanted: Asked,
    rungs: Sequence[Rung],
    built: Mapping[Group, Built],
    file: Path,
    frames: int | None,
    progress: Progress,
) -> dict[str, dict[str, Scores]]:
    """Scores by rung and clip; those known from an earlier run of the same engines aren't taken again."""
    known = msgspec.json.decode(file.read_bytes(), type=dict[str, Scores]) if file.is_file() else {}
    found: dict[str, dict[str, Scores]] = {}
    for rung in rungs:
        bundle = _bundle(rung, built)
        if bundle is None:
            continue
        for clip in wanted.truth:
            torch = rung.backend == PYTORCH_BACKEND
            name = PYTORCH_BACKEND if torch else variant_name(rung)
            digest = hashlib.sha256((bundle.folder / MANIFEST_FILE).read_bytes()).hexdigest()
            key = f"{digest}:{name}:{Path(clip).resolve()}:{frames}:{wanted.degradation}"
            if key not in known:
                known[key] = _score(wanted, rung, bundle, Path(clip), frames, progress)
                file.write_bytes(msgspec.json.encode(known))
            found.setdefault(rung.name, {})[Path(clip).name] = known[key]
    return found


def _score(
    wanted: Asked, rung: Rung, bundle: Bundle, clip: Path, frames: int | None, progress: Progress
) -> Scores:
    truth = read_footage(clip, bundle.program.frame, frames, wanted.degradation).truth
    checkpoint = wanted.checkpoint(_group(rung))
    assert checkpoint is not None
    torch = rung.backend == PYTORCH_BACKEND
    (row,) = measure(
        bundle,
        [] if torch else [bundle.variant(variant_name(rung))],
        truth,
        wanted.degradation,
        metrics=METRICS,
        reference=reference(bundle, checkpoint) if torch else None,
        progress=progress,
    )
    return Scores(psnr=tuple(row.quality.scores["psnr"]), ssim=tuple(row.quality.scores["ssim"]))
