"""Checkpoints in every form in which BasicVSR is published, and the seeded weights."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch
from torch import nn

from superlower.errors import BadInputError
from superlower.frontends.zoo.basicvsr import MMAGIC_RULES
from superlower.frontends.zoo.basicvsr_torch import BasicVsrNet
from superlower.frontends.zoo.checkpoint import (
    load_strictly,
    random_seed,
    read_state,
    rename,
    seed_parameters,
)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    network = BasicVsrNet(2)
    seed_parameters(network, 3)
    return network.state_dict()


def mmagic_name(key: str) -> str:
    """A BasicSR key as mmagic's generator has it."""
    key = key.replace("backward_trunk.", "backward_resblocks.").replace(
        "forward_trunk.", "forward_resblocks."
    )
    key = key.replace("upconv1.", "upsample1.upsample_conv.").replace("upconv2.", "upsample2.upsample_conv.")
    parts = key.split(".")
    if parts[:2] == ["spynet", "basic_module"]:
        parts[4:5] = [str(int(parts[4]) // 2), "conv"]
    return "generator." + ".".join(parts)


@pytest.mark.parametrize("form", ["root", "params", "params_ema", "parallel", "mmagic", "mmagic_ema"])
def test_every_form_is_read(form: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    training = {"step_counter": torch.zeros(1), "pixel_loss.weight": torch.zeros(1)}
    mmagic = {mmagic_name(key): value for key, value in state.items()}
    averaged = {key.replace("generator.", "generator_ema."): value for key, value in mmagic.items()}
    forms: dict[str, object] = {
        "root": state,
        "params": {"params": state},
        "params_ema": {"params": other, "params_ema": state},
        "parallel": {"params": {f"module.{k}": v for k, v in state.items()}},
        "mmagic": {"meta": {"epoch": 3}, "state_dict": {**mmagic, **training}},
        "mmagic_ema": {"state_dict": {**{mmagic_name(k): v for k, v in other.items()}, **averaged}},
    }
    path = tmp_path / "weights.pth"
    torch.save(forms[form], path)
    found = read_state(path, MMAGIC_RULES)
    assert set(found) == set(state)
    assert all(torch.equal(found[key], value) for key, value in state.items())
    load_strictly(BasicVsrNet(2), found, architecture="BasicVSR", source=str(path))


def test_rules_leave_basicsr_names_alone(state: dict[str, torch.Tensor]) -> None:
    assert [rename(key, MMAGIC_RULES) for key in state] == list(state)


def test_the_message_counts_and_names_a_few(tmp_path: Path) -> None:
    network = nn.Sequential(*(nn.Linear(1, 1) for _ in range(4)))
    with pytest.raises(BadInputError) as caught:
        load_strictly(network, {"0.weight": torch.zeros(2, 1)}, architecture="Net", source="w.pth")
    assert str(caught.value) == (
        "w.pth is a checkpoint of another architecture than Net: "
        "keys 7 missing (0.bias, 1.weight, 1.bias, ...); 1 of another shape (0.weight 2x1 instead of 1x1)"
    )


@pytest.mark.parametrize(
    ("weights", "seed"),
    [("random:0", 0), ("random:17", 17), ("random:", None), ("random:-1", None), ("a.pth", None)],
)
def test_seed_of_weights(weights: str, seed: int | None) -> None:
    assert random_seed(Path(weights)) == seed


class Net(nn.Module):
    """A matrix, an offset predictor, a vector and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(64, 256, 3)
        self.conv_offset = nn.Conv2d(64, 256, 3)
        self.register_buffer("mean", torch.full((3,), 0.5))


def test_seeded_weights_depend_on_name_and_seed_alone() -> None:
    first, second, other = Net(), Net(), Net()
    seed_parameters(first, 1)
    seed_parameters(second, 1)
    seed_parameters(other, 2)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
        assert torch.equal(value, other.state_dict()[key]) == (key == "mean")
    assert torch.equal(first.mean, torch.full((3,), 0.5))
    # The deviation of n draws is within 5 / sqrt(2 n) of itself: 0.01 for 147456, 0.22 for 256.
    assert first.conv.weight.std().item() == pytest.approx(0.7 / 24, rel=0.01)
    assert first.conv_offset.weight.std().item() == pytest.approx(0.3 / 24, rel=0.01)
    assert first.conv.bias.std().item() == pytest.approx(0.02, rel=0.25)
