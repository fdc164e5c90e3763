"""Pruning: what goes together, what it is worth, what is left of a network, and how that learns."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")

import torch
import torch.nn.functional as F

from superlower.errors import BadInputError
from superlower.frontends import distil_torch, pruning_torch
from superlower.frontends.distil_torch import Distillation, Recipe, Windows
from superlower.frontends.prunable_torch import Channels, Layout, PrunableNet, Row, Unrolled, widths_of
from superlower.frontends.pruning_torch import Plan, groups, prune_state
from superlower.frontends.refit_torch import refit
from superlower.frontends.zoo.basicvsr_torch import BasicVsrNet, Widths
from superlower.frontends.zoo.checkpoint import seed_parameters
from superlower.frontends.zoo.egvsr import Egvsr
from superlower.frontends.zoo.frvsr_torch import FrameRecurrentNet
from superlower.frontends.zoo.layers_torch import ResidualBlock, conv3x3, leaky
from superlower.frontends.zoo.mstgan_torch import MstGanNet
from superlower.frontends.zoo.tecogan import TecoGan
from support.zoo import request

Network = TypeVar("Network", bound=PrunableNet)

SIDE = 40
# As in test_basicvsr: the same fp32 sums in another order, over the layers of a few frames.
ROUNDING = 1e-4


class Toy(PrunableNet):
    """A recurrent network with a row of blocks and a pixel shuffle, small enough to be run many times."""

    layout = Layout(
        rows=(Row("row", "conv1", "conv2"),),
        channels=(Channels("up", "last", filters=4),),
        readers=("up",),
        frozen=("first.",),
    )

    def __init__(self, inner: Sequence[int] = (8, 8, 8), shuffled: int = 6) -> None:
        super().__init__()
        self.first = conv3x3(3 + 8, 8)
        self.row = torch.nn.Sequential(*(ResidualBlock(8, width) for width in inner))
        self.up = conv3x3(8, 4 * shuffled)
        self.last = conv3x3(shuffled, 3)

    @property
    def structure(self) -> dict[str, str]:
        return {"blocks": str(len(self.row))}

    def flows(self, frames: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], ...]:
        return ()

    def unroll(self, frames: Sequence[torch.Tensor], flows: tuple[list[torch.Tensor], ...]) -> Unrolled:
        hidden = frames[0].new_zeros(len(frames[0]), 8, *frames[0].shape[2:])
        outputs, states = [], []
        for x in frames:
            hidden = self.row(leaky(self.first(torch.cat((x, hidden), dim=1))))
            states.append(hidden)
            outputs.append(self.last(leaky(F.pixel_shuffle(self.up(hidden), 2))))
        return Unrolled(outputs, states)


def toy(state: dict[str, torch.Tensor] | None = None) -> Toy:
    """Seeded, or of a pruned state."""
    if state is None:
        return seeded(Toy())
    network = Toy(widths_of(state, Toy.layout.rows[0]), len(state["last.weight"][0]))
    network.load_state_dict(state)
    return network.eval()


def seeded(network: Network) -> Network:
    seed_parameters(network, 3)
    return network.eval()


def basicvsr() -> PrunableNet:
    return seeded(BasicVsrNet(2))


def frvsr() -> PrunableNet:
    return seeded(FrameRecurrentNet(2, bicubic=False, warm_up=0))


def mstgan() -> PrunableNet:
    return seeded(MstGanNet(blocks=2))


def of_state(state: dict[str, torch.Tensor]) -> PrunableNet:
    """What a pruned state is of: loading it refuses all else."""
    network: PrunableNet
    if "srnet.conv_in.0.weight" in state:
        inner = widths_of(state, FrameRecurrentNet.layout.rows[0])
        network = FrameRecurrentNet(inner, bicubic=False, warm_up=0)
    elif "boost.fuse.0.weight" in state:
        network = MstGanNet(
            blocks=len(widths_of(state, Row("pyramid.blocks", "conv1", "conv2"))), pruned=state
        )
    else:
        network = BasicVsrNet(Widths.found(state))
    network.load_state_dict(state)
    return network.eval()


def clip(count: int = 1, frames: int = 3, side: int = SIDE) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(7)
    return [torch.rand(count, 3, side, side, generator=draw) for _ in range(frames)]


def run(network: PrunableNet, frames: list[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(network.unroll(frames, network.flows(frames)).outputs)


@pytest.mark.parametrize(("make", "side"), [(basicvsr, SIDE), (frvsr, SIDE), (mstgan, 8)])
def test_channels_that_nothing_reads_go_without_a_trace(make, side: int) -> None:
    network, frames = make(), clip(side=side)
    kept = {}
    with torch.no_grad():
        for group in groups(network):
            weight = network.get_submodule(group.consumer).weight
            gone = {1, weight.shape[1] - 2}
            weight[:, sorted(gone)] = 0
            kept[group.producer] = tuple(i for i in range(weight.shape[1]) if i not in gone)
    state = prune_state(network.state_dict(), network.layout, Plan(channels=kept))
    for group in groups(network):
        made, read = state[f"{group.producer}.weight"], state[f"{group.consumer}.weight"]
        assert len(made) == group.filters * read.shape[1]
        assert read.shape[1] == len(kept[group.producer])
    pruned = of_state(state)
    assert (run(pruned, frames) - run(network, frames)).abs().max() < ROUNDING
    # The neighbours of those channels are not for nothing: another choice shows.
    others = {name: tuple(i for i in range(len(c) + 2) if i not in (2, 3)) for name, c in kept.items()}
    pruned.load_state_dict(prune_state(network.state_dict(), network.layout, Plan(channels=others)))
    assert (run(pruned, frames) - run(network, frames)).abs().max() > 30 * ROUNDING


def test_a_block_that_adds_nothing_goes_without_a_trace() -> None:
    network, frames = basicvsr(), clip()
    with torch.no_grad():
        for parameter in network.get_submodule("forward_trunk.main.2.0.conv2").parameters():
            parameter.zero_()
    plan = Plan(blocks={"forward_trunk.main.2": (1,)})
    pruned = of_state(prune_state(network.state_dict(), network.layout, plan))
    assert pruned.structure["blocks"] == "2 backward, 1 forward"
    # The same operations on the same numbers, less the sum with zero.
    assert torch.equal(run(pruned, frames), run(network, frames))


def test_slopes_foretell_the_change_of_the_output() -> None:
    network, frames = toy(), clip(count=200, side=8)
    name, consumer = "row.0.conv1", "row.0.conv2"
    with torch.no_grad():  # Little enough for first order to hold, through ReLUs and the recurrence.
        network.get_submodule(consumer).weight[:, :3] *= 0.01
        network.get_submodule(consumer).weight[:, 3] = 0
    slopes = pruning_torch.output_slopes(network, [frames])
    assert slopes[name].shape == (200, 8)
    assert slopes[name][:, 3].abs().max() == 0
    gates = {group.producer: torch.ones_like(slopes[group.producer]) for group in groups(network)}
    whole = run(network, frames)
    gates[name][:, :3] = 0
    with pruning_torch.gated(network, gates):
        measured = (run(network, frames) - whole).square().sum() / 200
    estimated = slopes[name][:, :3].sum(1).square().mean()
    # A mean of 200 squares of nearly normal numbers deviates by sqrt(2 / 200), a tenth: three of those.
    assert estimated / measured == pytest.approx(1, abs=0.3)
    assert measured > 0


@pytest.mark.parametrize("units", ["both", "channels", "blocks"])
def test_a_plan_takes_as_much_as_asked_and_hardly_more(units: str) -> None:
    network = toy()
    ones = dict.fromkeys(pruning_torch.pixel_costs(network, 8, 8), 1.0)
    plan = pruning_torch.make_plan(
        network, pruning_torch.weight_norms(network), ones, 0.2, units=units, multiple=4
    )
    pruned = toy(prune_state(network.state_dict(), network.layout, plan))
    before, after = (sum(p.numel() for p in n.parameters() if p.dim() > 1) for n in (network, pruned))
    # A lot is a block at most, two convolutions of 8 x 8 x 9 weights.
    assert 0.8 * before - 2 * 576 < after <= 0.8 * before
    inner = widths_of(pruned.state_dict(), network.layout.rows[0])
    assert all(width % 4 == 0 for width in inner)
    assert len(inner) == 3 or units != "channels"
    assert set(inner) == {8} or units != "blocks"


def test_costs_of_products_are_those_that_docs_give() -> None:
    assert pruning_torch.products(BasicVsrNet(30), 180, 320) / 1e9 == pytest.approx(373.5, abs=0.1)


@pytest.mark.parametrize(
    ("blocks", "parameters"),
    [(10, 2_589_093), (7, 2_367_525), (5, 2_219_813), (3, 2_072_101), (1, 1_924_389)],
)
def test_blocks_of_tecogan_are_kept_by_worth(blocks: int, parameters: int) -> None:
    network = TecoGan().network(request(64, 64))
    with torch.no_grad():  # The middle ones are worth least.
        for i in (3, 4, 5, 6):
            network.get_submodule(f"srnet.resblocks.{i}.conv.2").weight.mul_(1e-3)
    plan = pruning_torch.keep_blocks(network, pruning_torch.weight_norms(network), blocks)
    state = prune_state(network.state_dict(), network.layout, plan)
    pruned = FrameRecurrentNet(blocks, bicubic=True, warm_up=0)
    pruned.load_state_dict(state)
    assert sum(p.numel() for p in pruned.parameters()) == parameters
    if blocks in (5, 3):
        assert not {3, 4, 5, 6} & set(plan.blocks["srnet.resblocks"])


def test_more_than_there_is_cannot_go() -> None:
    network = toy()
    ones = dict.fromkeys(pruning_torch.pixel_costs(network, 8, 8), 1.0)
    with pytest.raises(ValueError, match=r"at most [0-9.]+% can be removed"):
        pruning_torch.make_plan(network, pruning_torch.weight_norms(network), ones, 0.9)
    with pytest.raises(ValueError, match="has 3 blocks"):
        pruning_torch.keep_blocks(network, pruning_torch.weight_norms(network), 4)


def test_a_refit_makes_up_for_what_went() -> None:
    network, batches = toy(), [clip(count=8, side=16)]
    with (
        torch.no_grad()
    ):  # The removed block adds little: what would be left without it can't be made up for.
        network.get_submodule("row.1.conv2").weight.mul_(0.3)
    plan = Plan({"row": (0, 2)}, {"row.0.conv1": (0, 1, 3, 4, 6, 7), "up": (0, 1, 2, 4, 5)})
    pruned = toy(prune_state(network.state_dict(), network.layout, plan))
    wanted = run(network, batches[0])
    cut = (run(pruned, batches[0]) - wanted).square().mean()
    refit(pruned, network, plan, batches)
    # Two thirds of the channels say most of what all said.
    assert (run(pruned, batches[0]) - wanted).square().mean() < 0.5 * cut


def test_a_refit_of_nothing_changes_nothing() -> None:
    network, frames = toy(), clip(side=16)
    same = copy.deepcopy(network)
    refit(same, network, Plan(), [frames])
    assert (run(same, frames) - run(network, frames)).abs().max() < ROUNDING


def windows() -> Windows:
    draw = np.random.default_rng(0)
    return Windows(
        draw.integers(0, 256, (4, 2, 8, 8, 3), dtype=np.uint8),
        draw.integers(0, 256, (4, 2, 16, 16, 3), dtype=np.uint8),
    )


def test_fine_tuning_taken_up_again_is_the_same(tmp_path: Path) -> None:
    teacher, recipe = toy(), Recipe(steps=4, batch=2)
    student = Toy((8,))
    seed_parameters(student, 5)
    before = copy.deepcopy(student.state_dict())
    at_once = Distillation(copy.deepcopy(student), teacher, windows(), recipe)
    losses = [at_once.take_step() for _ in range(4)]
    first = Distillation(copy.deepcopy(student), teacher, windows(), recipe)
    for _ in range(2):
        first.take_step()
    distil_torch.save(first.state(), tmp_path / "state")
    saved = distil_torch.load(tmp_path / "state")
    student.load_state_dict(saved["params"])
    then = Distillation(student, teacher, windows(), recipe)
    then.restore(saved)
    assert [then.take_step() for _ in range(2)] == losses[2:]
    assert all(
        torch.equal(a, b) for a, b in zip(student.parameters(), at_once.pruned.parameters(), strict=True)
    )
    assert len(set(losses)) == 4
    for name, parameter in at_once.pruned.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("first."), name


def test_what_is_no_saved_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("hello")
    with pytest.raises(BadInputError, match="state is no saved fine-tuning: remove it"):
        distil_torch.load(path)


def test_a_pruned_checkpoint_exports_to_smaller_graphs(tmp_path: Path, caller) -> None:
    from superlower.driver.flops import graph_macs
    from superlower.frontends.zoo.basicvsr import BasicVsr
    from support.zoo import assert_program_equals_network

    network = basicvsr()
    plan = Plan(
        {"backward_trunk.main.2": (1,)},
        {"forward_trunk.main.2.0.conv1": tuple(range(32)), "upconv1": tuple(range(48)), "conv_hr": (0, 5)},
    )
    path = tmp_path / "pruned.pth"
    distil_torch.save({"params": prune_state(network.state_dict(), network.layout, plan)}, path)
    model = assert_program_equals_network(BasicVsr(), request(SIDE, SIDE, path), 2, caller, shorter=())
    assert model.program.provenance["blocks"] == "1 backward, 2 forward"
    assert model.program.provenance["widths"].startswith("backward 64; forward 32 64; fusion 64; upconv1 48")
    weights = {n: tuple(v.shape) for n, v in model.graphs["forward"].graph.initializers.items()}
    assert weights["forward_trunk.main.2.0.conv1.weight"] == (32, 64, 3, 3)
    assert weights["conv_last.weight"] == (3, 2, 3, 3)
    pixels, block = SIDE * SIDE, 2 * 9 * 64 * 64
    macs = graph_macs(model)
    assert macs["backward"] == pixels * (9 * 67 * 64 + block)
    tail = 9 * (64 * 192 + 4 * 48 * 256 + 16 * (64 * 2 + 2 * 3))
    assert macs["forward"] == pixels * (9 * 67 * 64 + 1.5 * block + 128 * 64 + tail)


@pytest.mark.slow
def test_mstgan_loses_two_fifths_and_exports(tmp_path: Path, caller) -> None:
    """As its paper's did, mostly of its backbone; what is left is a checkpoint like any other."""
    from superlower.frontends.zoo.mstgan import MstGan
    from support.zoo import assert_program_equals_network

    network = seeded(MstGanNet())
    ones = dict.fromkeys(pruning_torch.pixel_costs(network, 12, 16), 1.0)
    plan = pruning_torch.make_plan(network, pruning_torch.weight_norms(network), ones, 0.4)
    path = tmp_path / "pruned.pth"
    distil_torch.save({"params": prune_state(network.state_dict(), network.layout, plan)}, path)
    pruned = MstGan().network(request(12, 16, path))
    assert sum(p.numel() for p in pruned.parameters()) == pytest.approx(17e6, abs=0.5e6)
    model = assert_program_equals_network(MstGan(), request(12, 16, path), 2, caller, shorter=())
    assert model.program.provenance["blocks"] == pruned.structure["blocks"]
    weights = {n: tuple(v.shape) for n, v in model.graphs["upscale"].graph.initializers.items()}
    narrower = [name for name in pruned.widths if name.startswith("backbone.stages.3.")]
    assert narrower
    for name in narrower:
        width = pruned.widths[name]
        assert width % 16 == 0
        assert f"{name} {width}" in model.program.provenance["widths"]
        block, layer = name.rsplit(".conv", 1)
        assert weights[f"{block}.conv{int(layer) + 1}.weight"][1] == width


def test_egvsr_is_pruned_alike() -> None:
    network = Egvsr().network(request(64, 64, options={"blocks": "2"}))
    assert [group.producer for group in groups(network)] == [f"srnet.resblocks.{i}.conv.0" for i in (0, 1)]


def test_the_learning_rate_rises_and_falls() -> None:
    """A run of a few steps hardly moves: Adam's first ones go by the rate, whatever the gradients are."""
    long = [Recipe(steps=1000, learning_rate=1.0).rate(step) for step in range(1000)]
    assert long[0] == pytest.approx(0.02)
    assert long[:50] == sorted(long[:50])
    assert max(long) == pytest.approx(1, abs=0.01)
    assert long[50:] == sorted(long[50:], reverse=True)
    assert long[-1] < 1e-5
    assert max(Recipe(steps=8, learning_rate=1.0).rate(step) for step in range(8)) < 0.1
