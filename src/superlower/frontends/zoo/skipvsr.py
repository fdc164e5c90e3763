"""SkipVSR (MM 2024) as a temporal program: BasicVSR that skips residual blocks by patches.

    flow_b[t], flow_f[t] as BasicVSR's
    aligned_b[t], seen_b[t], still_b[t], choice_b[t]
              = skip_backward(x=frame[t], hb[t+1], flow_b[t], seen_b[t+1], still_b[t+1])
    hb[t]     = run_backward on windows around the patches that choice_b[t] has, hb[t+1] in the others
    aligned_f, seen_f, still_f, choice_f, hf: alike, from the frame before
    output[t] = reconstruct(x=frame[t], back=hb[t], state=hf[t])

seen is the frame that each patch's state was made of, still for how many steps it has hardly changed. Where
a sweep begins both are zeros, and every patch is run. All weights but those of the two estimators are a
published BasicVSR's; theirs come with superlower, made by examples/train_skipvsr.py for one checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from superlower.errors import BadInputError
from superlower.frontends.base import Checkpoint, ClipReference, ExportRequest
from superlower.frontends.fetch import file_sha256
from superlower.frontends.zoo.basicvsr import (
    BLOCK,
    DEFAULT_BLOCKS,
    FEATURES,
    FLOWS,
    MINIMUM_SIDE,
    MMAGIC_RULES,
    SCALE,
    BasicVsr,
)
from superlower.frontends.zoo.blueprint import Blueprint
from superlower.frontends.zoo.build import (
    clip_reference,
    count_of,
    frame_of,
    known_options,
    missing_torch,
    network_of,
    provenance,
    read_weights,
    whole_option,
)
from superlower.frontends.zoo.checkpoint import random_seed
from superlower.program.model import Edge, Equation, Frame, Program, Route, Stream, TemporalModel

if TYPE_CHECKING:
    from torch import Tensor

    from superlower.frontends.zoo.skipvsr_torch import Patches, SkipVsrNet

LIMIT = "limit"
"""Initializer of the graphs that choose: log2 of the threshold."""

SKIPS = "skipvsr.npz"
"""The weights of estimators that come with superlower."""

TRUNK_SHA256 = "trunk_sha256"
"""Name in such a file of the sha256 of the BasicVSR checkpoint that it was made for."""

MULTIPLE = 4
"""Sides of frames, so that patches of about the size asked for divide them."""

DEFAULT_THRESHOLD = 0.6
DEFAULT_PATCH = 64
DEFAULT_HALO = 4
DEFAULT_SETTLE = 2


class SkipVsr:
    """`superlower export skipvsr`. Options: `threshold`, the levels of an 8-bit picture that a patch may be
    off, as estimated, and have its residual blocks skipped, 0 for none; `settle`, steps that they run on
    after an estimate above that; `patch`, the side of a patch in pixels, about; `halo`, pixels around a patch
    that its trunk sees too; `skips`, a file made by examples/train_skipvsr.py for another checkpoint;
    `blocks` of seeded weights."""

    name: ClassVar[str] = "skipvsr"
    title: ClassVar[str] = "SkipVSR"
    paper: ClassVar[str] = "https://doi.org/10.1145/3664647"
    scale: ClassVar[int] = SCALE
    checkpoints: ClassVar[tuple[Checkpoint, ...]] = BasicVsr.checkpoints

    def missing(self) -> str | None:
        """Why it can't export here, with the install command; None if it can."""
        return missing_torch()

    def blueprint(self, request: ExportRequest) -> Blueprint:
        """Load both files' weights strictly; plan the eight graphs for the padded frame size.

        Raises:
            BadInputError: not a checkpoint, one of another architecture or one that the skips weren't made
                for; or an unknown or bad option.
            MissingSdkError: PyTorch isn't installed.
        """
        frame = _frame(request)
        network = self._network(request, frame)
        return Blueprint(
            network,
            _program(request, frame, network),
            {
                "flow": network.estimate_flow,
                "skip_backward": network.skip_backward,
                "skip_forward": network.skip_forward,
                "run_backward": network.run_backward,
                "run_forward": network.run_forward,
                "run_backward_window": network.run_backward,
                "run_forward_window": network.run_forward,
                "reconstruct": network.reconstruct,
            },
        )

    def export(self, request: ExportRequest) -> TemporalModel:
        """The blueprint's graphs, traced. Raises as `blueprint` does."""
        return self.blueprint(request).export()

    def reference(self, request: ExportRequest) -> ClipReference:
        """The network over a whole clip in PyTorch eager, fp32. Raises as `export` does."""
        return clip_reference(self._network(request, _frame(request)))

    def _network(self, request: ExportRequest, frame: Frame) -> SkipVsrNet:
        options = request.options
        known_options(self.name, options, ["threshold", "settle", "patch", "halo", "skips", "blocks"])
        asked_blocks = whole_option(self.name, options, "blocks", "residual blocks")
        settle = whole_option(self.name, options, "settle", "steps") or DEFAULT_SETTLE
        rule = (_threshold(self.name, options), settle)
        state = read_weights(request, MMAGIC_RULES)
        if random_seed(request.weights) is None:
            state |= read_skips(options.get("skips"), request)
        elif "skips" in options:
            raise BadInputError(
                f"{self.name} option skips={options['skips']}: {request.source} seeds them too"
            )
        blocks = asked_blocks or count_of(state, BLOCK, DEFAULT_BLOCKS)
        patches = _patches(self.name, options, frame)

        from superlower.frontends.zoo.skipvsr_torch import Rule, SkipVsrNet

        return network_of(
            lambda: SkipVsrNet(blocks, patches, Rule(*rule)), state, request, f"SkipVSR with {blocks} blocks"
        )


def read_skips(option: str | None, request: ExportRequest) -> dict[str, Tensor]:
    """The weights of estimators in float32, by our names.

    Args:
        option: a file by examples/train_skipvsr.py; None for that which comes with superlower.
        request: its weights are what the file must have been made for.

    Raises:
        BadInputError: no such file, not one of ours, or made for another checkpoint.
    """
    import torch

    with resources.as_file(resources.files(__package__) / SKIPS) as own:
        path = own if option is None else Path(option).expanduser()
        if not path.is_file():
            raise BadInputError(f"no such file: {path} (option skips)")
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (OSError, ValueError) as error:
            raise BadInputError(
                f"{path} (option skips) is not a .npz file of plain arrays: {error}"
            ) from error
    made_for = str(arrays.pop(TRUNK_SHA256, "no checkpoint"))
    found = file_sha256(request.weights)
    if made_for != found:
        what = "the skips that come with superlower are" if option is None else f"{path} is"
        raise BadInputError(
            f"{what} made for {made_for}, and {request.source} has sha256 {found}: "
            f"make some for it with examples/train_skipvsr.py and name the file with --set skips=FILE"
        )
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}


def _frame(request: ExportRequest) -> Frame:
    return frame_of(request, scale=SCALE, minimum=MINIMUM_SIDE, multiple=MULTIPLE)


def _threshold(model: str, options: Mapping[str, str]) -> float:
    text = options.get("threshold", str(DEFAULT_THRESHOLD))
    try:
        threshold = float(text)
    except ValueError:
        threshold = math.nan
    if not 0 <= threshold < math.inf:
        raise BadInputError(f"{model} option threshold={text} is not a number of levels, 0 or more")
    return threshold


def _patches(model: str, options: Mapping[str, str], frame: Frame) -> Patches:
    """Patches whose sides are those divisors of the frame's that are nearest to what was asked for."""
    from superlower.frontends.zoo.skipvsr_torch import Patches

    asked = whole_option(model, options, "patch", "pixels") or DEFAULT_PATCH
    halo = whole_option(model, options, "halo", "pixels", least=0)
    high, wide = (_divisor(side, asked) for side in frame.padded)
    return Patches(high, wide, DEFAULT_HALO if halo is None else halo)


def _divisor(side: int, near: int) -> int:
    return min((n for n in range(1, side + 1) if side % n == 0), key=lambda n: abs(math.log(n / near)))


def _program(request: ExportRequest, frame: Frame, network: SkipVsrNet) -> Program:
    height, width = frame.padded
    patches = network.patches
    rows, columns = height // patches.height, width // patches.width
    streams = {
        "frame": Stream(shape=(1, 3, "H", "W"), edge=Edge.REPLICATE),
        "output": Stream(shape=(1, 3, f"{SCALE}*H", f"{SCALE}*W")),
    }
    for d in "bf":
        streams |= {
            f"flow_{d}": Stream(shape=(1, 2, "H", "W")),
            f"aligned_{d}": Stream(shape=(1, FEATURES, "H", "W")),
            f"seen_{d}": Stream(shape=(1, 3, "H", "W")),
            f"still_{d}": Stream(shape=(1, 1, rows, columns)),
            f"choice_{d}": Stream(shape=(1, 1, rows, columns), dtype="int32"),
            f"h{d}": Stream(shape=(1, FEATURES, "H", "W")),
        }
    last = Equation(
        name="reconstruct",
        graph="reconstruct",
        inputs={"x": "frame[t]", "back": "hb[t]", "state": "hf[t]"},
        outputs={"output": "output"},
    )
    return Program(
        name=SkipVsr.name,
        frame=frame,
        streams=streams,
        equations=(
            *FLOWS,
            *_propagation("backward", "b", "+", patches),
            *_propagation("forward", "f", "-", patches),
            last,
        ),
        provenance=provenance(
            SkipVsr.name,
            SkipVsr.paper,
            request,
            blocks=network.widths.blocks,
            threshold=network.rule.threshold,
            settle=network.rule.settle,
        ),
    )


def _propagation(sweep: str, d: str, side: str, patches: Patches) -> tuple[Equation, ...]:
    """A sweep's equations: what is to run, and running it."""
    return (
        Equation(
            name=f"skip_{sweep}",
            graph=f"skip_{sweep}",
            inputs={
                "x": "frame[t]",
                "hidden": f"h{d}[t{side}1]",
                "flow": f"flow_{d}[t]",
                "seen": f"seen_{d}[t{side}1]",
                "still": f"still_{d}[t{side}1]",
            },
            outputs={
                "aligned": f"aligned_{d}",
                "seen_next": f"seen_{d}",
                "still_next": f"still_{d}",
                "choice": f"choice_{d}",
            },
        ),
        Equation(
            name=sweep,
            graph=f"run_{sweep}",
            inputs={"x": "frame[t]", "aligned": f"aligned_{d}[t]"},
            outputs={"state": f"h{d}"},
            route=Route(
                choice=f"choice_{d}[t]",
                graphs=(f"run_{sweep}_window",),
                patch=(patches.height, patches.width),
                halo=patches.halo,
                otherwise={"state": f"h{d}[t{side}1]"},
            ),
        ),
    )
