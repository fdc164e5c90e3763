"""The stages of a pruning: score, cut, refit, fine-tune, measure, write."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from superlower.driver.progress import Progress
from superlower.driver.prune_request import COST_SIZE, Cut, Footage, Size, Stage, Tuning
from superlower.driver.speed import Contender, race
from superlower.driver.windows import read_clip, read_windows
from superlower.errors import BadInputError
from superlower.frontends.base import ExportRequest
from superlower.metrics.clip import clip_quality

if TYPE_CHECKING:
    from torch import Tensor

    from superlower.frontends.distil_torch import Windows
    from superlower.frontends.prunable_torch import PrunableNet
    from superlower.frontends.pruning_torch import Plan

SAVE_EVERY = 10
"""Steps between two savings of a fine-tuning."""

TRIAL_STEPS = 2
"""Steps that tell how many fit into the minutes."""

TIMED_FRAMES = 4
TIMED_ROUNDS = 3


@runtime_checkable
class PrunableFrontend(Protocol):
    """An architecture whose network can be pruned."""

    def network(self, request: ExportRequest) -> PrunableNet:
        """In evaluation mode, with the weights asked for."""
        ...


@dataclass(frozen=True)
class Scored:
    """A clip to score on, with the flows that no pruning changes."""

    name: str
    truth: Sequence[NDArray[np.uint8]]
    low: Sequence[Tensor]
    flows: tuple[list[Tensor], ...]

    @classmethod
    def read(cls, network: PrunableNet, name: str, footage: Footage, progress: Progress) -> Scored:
        import torch

        from superlower.frontends.distil_torch import frames_of

        low, truth = read_clip(name, footage.frames, footage.side, footage.degradation, progress)
        frames = frames_of(np.stack(low)[None])
        with torch.no_grad():
            return cls(Path(name).name, truth, frames, network.flows(frames))


@dataclass(frozen=True)
class Work:
    """What every stage needs."""

    frontend: PrunableFrontend
    request: ExportRequest
    output: Path
    progress: Progress
    seed: int

    @property
    def tuning_path(self) -> Path:
        """Where a fine-tuning is saved."""
        return self.output.with_name(f"{self.output.name}.tuning")

    def saved(self, settings: str) -> dict[str, Any] | None:
        """The fine-tuning to go on with, if there is one."""
        from superlower.frontends.distil_torch import load

        if not self.tuning_path.exists():
            return None
        state = load(self.tuning_path)
        if state.get("settings") != settings:
            raise BadInputError(
                f"{self.tuning_path} is of a pruning with other options: give the same to go on with it, "
                f"or remove it to begin anew"
            )
        self.progress.stage(f"going on after step {state['step']}")
        return state

    def windows(self, footage: Footage, tuning: Tuning) -> Windows | None:
        """What is learned from, and what importance is measured on."""
        if not footage.training:
            return None
        return read_windows(
            footage.training,
            tuning.windows,
            tuning.length,
            tuning.crop,
            footage.degradation,
            self.seed,
            self.progress,
        )

    def score(self, name: str, network: PrunableNet, clips: Sequence[Scored]) -> Stage:
        """PSNR and SSIM on every clip."""
        import torch

        self.progress.stage(f"scoring: {name}", len(clips))
        psnr, ssim = {}, {}
        for clip in clips:
            with torch.no_grad():
                outputs = network.unroll(clip.low, clip.flows).outputs
            pixels = ((y[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy() for y in outputs)
            found = clip_quality(pixels, clip.truth)
            psnr[clip.name], ssim[clip.name] = found.mean_psnr, found.mean_ssim
            self.progress.advance(clip.name)
        return Stage(name, psnr, ssim)

    def cut(
        self, whole: PrunableNet, cut: Cut, windows: Windows | None, batch: int
    ) -> tuple[Plan, PrunableNet]:
        """What stays, and the network of that."""
        from superlower.frontends import pruning_torch

        if cut.importance == "weights":
            slopes = pruning_torch.weight_norms(whole)
        else:
            assert windows is not None
            slopes = pruning_torch.output_slopes(
                whole, self._counted("measuring importance", windows.batches(batch, cut.samples)), self.seed
            )
        try:
            if cut.blocks is not None:
                plan = pruning_torch.keep_blocks(whole, slopes, cut.blocks)
            else:
                costs = pruning_torch.pixel_costs(whole, *COST_SIZE)
                if cut.of == "parameters":
                    costs = dict.fromkeys(costs, 1.0)
                assert cut.remove is not None
                plan = pruning_torch.make_plan(
                    whole, slopes, costs, cut.remove, units=cut.units, multiple=cut.multiple
                )
        except ValueError as error:
            raise BadInputError(f"this cut can't be made: {error}") from error
        return plan, self.network(pruning_torch.prune_state(whole.state_dict(), whole.layout, plan))

    def _counted(self, title: str, items: Sequence[list[Tensor]]) -> Iterator[list[Tensor]]:
        self.progress.stage(title, len(items))
        for item in items:
            yield item
            self.progress.advance()

    def refit(
        self, pruned: PrunableNet, whole: PrunableNet, plan: Plan, cut: Cut, windows: Windows, batch: int
    ) -> None:
        """Least squares, on the windows that importance was measured on."""
        from superlower.frontends.refit_torch import refit

        layout = whole.layout
        self.progress.stage("refitting", cut.rounds * (len(layout.rows) + len(layout.readers)))
        batches = windows.batches(batch, cut.samples)
        refit(pruned, whole, plan, batches, self.seed, rounds=cut.rounds, passed=self.progress.advance)

    def fine_tune(
        self,
        pruned: PrunableNet,
        whole: PrunableNet,
        windows: Windows,
        tuning: Tuning,
        settings: str,
        stages: Sequence[Stage],
        saved: Mapping[str, Any] | None,
    ) -> int:
        """Distil; the steps it has taken in all."""
        from superlower.frontends.distil_torch import Distillation, Recipe, save

        def distillation(network: PrunableNet, steps: int) -> Distillation:
            recipe = Recipe(steps, tuning.batch, tuning.learning_rate, seed=self.seed)
            return Distillation(network, whole, windows, recipe)

        if saved is not None:
            steps = int(saved["steps"])
        elif tuning.steps is not None:
            steps = tuning.steps
        else:
            assert tuning.minutes is not None
            trial = distillation(copy.deepcopy(pruned), TRIAL_STEPS)
            began = time.monotonic()
            for _ in range(TRIAL_STEPS):
                trial.take_step()
            steps = max(1, round(60 * tuning.minutes * TRIAL_STEPS / (time.monotonic() - began)))
        learning = distillation(pruned, steps)
        if saved is not None:
            learning.restore(saved)
        self.progress.stage("fine-tuning", steps - learning.step)
        facts = {"settings": settings, "steps": steps, "stages": msgspec.json.encode(stages).decode()}
        while learning.step < steps:
            loss = learning.take_step()
            self.progress.advance(f"loss {loss:.5f}")
            if learning.step % SAVE_EVERY == 0:
                save(facts | learning.state(), self.tuning_path)
        learning.close()
        return steps

    def sizes(
        self, whole: PrunableNet, pruned: PrunableNet, time_size: tuple[int, int] | None
    ) -> tuple[Size, Size, float | None]:
        """What both networks cost, and how many times faster the second is."""
        import torch

        from superlower.frontends.pruning_torch import products

        networks = {"whole": whole, "pruned": pruned}
        ms: dict[str, float] = {}
        ratio = None
        if time_size is not None:
            clip = torch.rand(TIMED_FRAMES, 3, *time_size, generator=torch.Generator().manual_seed(self.seed))
            contenders = {name: Contender(lambda n=n: _run(n, clip)) for name, n in networks.items()}  # type: ignore[misc]
            rows = race(contenders, TIMED_FRAMES, rounds=TIMED_ROUNDS, progress=self.progress)
            ms = {row.name: row.ms for row in rows}
            ratio = rows[1].ratio
        before, after = (
            Size(sum(p.numel() for p in n.parameters()), products(n, *COST_SIZE) / 1e9, ms.get(name))
            for name, n in networks.items()
        )
        return before, after, ratio

    def network(self, state: Mapping[str, Tensor]) -> PrunableNet:
        """The network of a pruned state dict, loaded as its checkpoint will be."""
        from superlower.frontends.distil_torch import save

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "pruned.pth")
            save({"params": dict(state)}, path)
            options = {name: v for name, v in self.request.options.items() if name != "blocks"}
            return self.frontend.network(replace(self.request, weights=path, options=options))

    def write(self, pruned: PrunableNet) -> None:
        """The checkpoint; what was saved on the way is no longer needed."""
        from superlower.frontends.distil_torch import save

        save({"params": pruned.state_dict()}, self.output)
        self.tuning_path.unlink(missing_ok=True)


def _run(network: PrunableNet, clip: Tensor) -> None:
    import torch

    with torch.no_grad():
        network(clip)
