"""What a pruning is asked for, and what it says of its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from superlower.driver.quality import DEGRADATIONS
from superlower.errors import BadInputError, unknown_name

COST_SIZE = (180, 320)
"""Height and width that products are counted at, as in the papers."""

COSTS = ("parameters", "flops")
UNITS = ("both", "channels", "blocks")
IMPORTANCES = ("output", "weights")


@dataclass(frozen=True)
class Cut:
    """How much goes, and by what measure.

    Attributes:
        remove: share of the cost, in 0..1; None where `blocks` says it.
        blocks: to keep of each row; None where `remove` says it.
        of: the cost, parameters or flops.
        units: channels, blocks or both.
        importance: output (how much a clip's outputs change) or weights (norms).
        multiple: channels that leave together.
        refit: by least squares, on the clips.
        rounds: of refitting.
        samples: windows that importance is measured and weights are refitted on.
    """

    remove: float | None = None
    blocks: int | None = None
    of: str = "parameters"
    units: str = "both"
    importance: str = "output"
    multiple: int = 16
    refit: bool = True
    rounds: int = 2
    samples: int = 32


@dataclass(frozen=True)
class Tuning:
    """How it is fine-tuned; see `frontends.distil_torch.Recipe`.

    Attributes:
        steps: 0 for none; None for as many as fit into `minutes`.
        minutes: of fine-tuning, judged by its first steps.
        windows, length, crop: how many clips are cut from the videos, of how many frames, and their side in
            low-resolution pixels.
    """

    steps: int | None = 0
    minutes: float | None = None
    batch: int = 4
    learning_rate: float = 2e-4
    windows: int = 48
    length: int = 4
    crop: int = 48


@dataclass(frozen=True)
class Footage:
    """Clips with their ground truth.

    Attributes:
        training: videos or folders of PNG files, or the names of sample clips.
        evaluation: to score on, likewise; never learned from.
        frames: of each of those.
        side: of their middle that is scored, in low-resolution pixels; None for all.
        degradation: makes low-resolution frames of both.
    """

    training: Sequence[str] = ()
    evaluation: Sequence[str] = ()
    frames: int = 8
    side: int | None = None
    degradation: str = "bi"


@dataclass(frozen=True)
class Stage:
    """Scores at one stage of the pruning.

    Attributes:
        name: whole, cut, refitted or fine-tuned.
        psnr, ssim: mean of luma over each clip, by clip; empty without clips.
    """

    name: str
    psnr: Mapping[str, float] = field(default_factory=dict)
    ssim: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Size:
    """What a network costs.

    Attributes:
        parameters: buffers aside.
        gmacs: 1e9 multiply-accumulates of its convolutions for a frame of `COST_SIZE`.
        ms: PyTorch eager, a frame of the time's size; None where it wasn't timed.
    """

    parameters: int
    gmacs: float
    ms: float | None = None


@dataclass(frozen=True)
class Pruned:
    """What came out.

    Attributes:
        output: the checkpoint.
        structure: what is left, in words.
        before, after: cost.
        ratio: how many times faster PyTorch eager is; None where it wasn't timed.
        stages: scores.
        steps: of fine-tuning.
        seconds: of everything; of a fine-tuning that was taken up again, since then.
    """

    output: Path
    structure: Mapping[str, str]
    before: Size
    after: Size
    ratio: float | None
    stages: tuple[Stage, ...]
    steps: int
    seconds: float


def check(cut: Cut, tuning: Tuning, footage: Footage) -> None:
    """Refuse what can't be done before anything is."""
    for kind, name, known in (
        ("cost", cut.of, COSTS),
        ("unit", cut.units, UNITS),
        ("importance", cut.importance, IMPORTANCES),
        ("degradation", footage.degradation, DEGRADATIONS),
    ):
        if name not in known:
            raise unknown_name(kind, name, known)
    if (cut.remove is None) == (cut.blocks is None):
        raise BadInputError("say how much goes: either --remove a share, or --blocks to keep")
    if cut.remove is not None and not 0 < cut.remove < 1:
        raise BadInputError(f"--remove {cut.remove:.0%}: write a share between 0 % and 100 %")
    if not footage.training and (cut.importance == "output" or tuning.steps != 0):
        raise BadInputError(
            "importance is measured and fine-tuning done on clips: give --clip, or --importance weights "
            "without --steps and --minutes"
        )
