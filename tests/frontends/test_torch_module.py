"""Any module as a temporal model: what is derived, that it computes the same, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superlower import ir
from superlower.errors import BadInputError, UnsupportedOperatorError
from superlower.frontends.torch_export import export_module
from superlower.frontends.torch_module import Step, from_module, from_steps
from superlower.program.interpret import interpret
from superlower.program.model import Edge

ROUNDING = 1e-5  # fp32, one convolution of 54 products on values around 1: 54 * 2^-24 = 3e-6


class Upscaler(nn.Module):
    """Sub-pixel convolution, three times larger."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 9 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[1, C, H, W] -> [1, C, 3H, 3W]."""
        return F.pixel_shuffle(self.conv(x), 3)


class Recurrent(nn.Module):
    """A frame, the frame before and a state, to the next state and a frame of twice the size."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3 + 3 + 4, 4, 3, padding=1)
        self.up = nn.Conv2d(4, 12, 3, padding=1)

    def forward(self, x: Tensor, before: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """[1, 3, H, W] twice and [1, 4, H, W] -> [1, 4, H, W], [1, 3, 2H, 2W]."""
        state = torch.tanh(self.mix(torch.cat((x, before, state), dim=1)))
        return state, F.pixel_shuffle(self.up(state), 2)


def recurrent_step(module: nn.Module) -> Step:
    frame = torch.zeros(1, 3, 10, 14)
    return Step(
        name="step",
        module=module,
        examples={"x": frame, "before": frame, "state": torch.zeros(1, 4, 10, 14)},
        reads={"x": "frame[t]", "before": "frame[t-1]", "state": "hidden[t-1]"},
        writes={"state_next": "hidden", "sr": "output"},
    )


def clip(frames: int, channels: int, height: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.random((1, channels, height, width), dtype=np.float32) for _ in range(frames)]


@pytest.mark.parametrize(("channels", "color"), [(3, "rgb"), (1, "y")])
def test_a_per_frame_module(channels: int, color: str, caller) -> None:
    module = Upscaler(channels)
    model = from_module(module, torch.zeros(1, channels, 12, 20), name="upscaler")
    frame = model.program.frame
    assert (frame.height, frame.width, frame.channels, frame.color, frame.scale) == (
        12,
        20,
        channels,
        color,
        3,
    )
    assert model.program.streams["output"].shape == (1, channels, "3*H", "3*W")
    frames = clip(2, channels, 12, 20)
    found = interpret(model.program, frames, caller(model))
    for output, given in zip(found, frames, strict=True):
        with torch.no_grad():
            assert np.abs(output - module(torch.from_numpy(given)).numpy()).max() < ROUNDING


@pytest.mark.parametrize("edge", [Edge.REPLICATE, Edge.ZEROS])
def test_a_recurrent_module(edge: Edge, caller) -> None:
    module = Recurrent().eval()
    model = from_steps([recurrent_step(module)], edges={"frame": edge})
    assert model.program.streams["hidden"].shape == (1, 4, "H", "W")
    assert model.program.streams["hidden"].edge is Edge.ZEROS
    frames = clip(4, 3, 10, 14)
    found = interpret(model.program, frames, caller(model))
    state = torch.zeros(1, 4, 10, 14)
    before = torch.from_numpy(frames[0]) * (edge is Edge.REPLICATE)
    for output, given in zip(found, frames, strict=True):
        x = torch.from_numpy(given)
        with torch.no_grad():
            state, expected = module(x, before, state)
        before = x
        assert np.abs(output - expected.numpy()).max() < ROUNDING


def test_one_tensor_for_two_inputs_stays_two_inputs() -> None:
    """torch.export would tie inputs that are one tensor object, and wire both to one."""
    step = recurrent_step(Recurrent())
    graph = from_steps([step]).graphs["step"]
    assert list(ir.io_shapes(graph)[0]) == ["x", "before", "state"]
    assert all(value.uses() for value in graph.graph.inputs)


def test_value_names_never_clash() -> None:
    """A graph whose inner value the exporter calls as an input is to be called."""
    graph = export_module(Upscaler(), {"conv2d": torch.zeros(1, 3, 8, 8)}, ["val_0"], name="clash")
    names = [v.name for v in graph.graph.inputs] + [v.name for node in graph.graph for v in node.outputs]
    names += list(graph.graph.initializers)
    assert len(set(names)) == len(names)
    assert ir.io_shapes(graph) == ({"conv2d": (1, 3, 8, 8)}, {"val_0": (1, 3, 24, 24)})


def test_training_mode_is_given_back() -> None:
    module = nn.Sequential(Upscaler(), nn.Dropout(0.9)).train()
    model = from_module(module, torch.zeros(1, 3, 8, 8))
    assert "Dropout" not in {node.op_type for node in model.graphs["upscale"].graph}
    assert module.training


class Branching(nn.Module):
    """Takes its way by the values of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Not traceable."""
        return x if x.sum() > 0 else -x


class Exotic(nn.Module):
    """An operator that ONNX lacks."""

    def forward(self, x: Tensor) -> Tensor:
        """Bessel function of the first kind."""
        return torch.special.bessel_j0(x)


class Cropping(nn.Module):
    """Changes the frame's proportions."""

    def forward(self, x: Tensor) -> Tensor:
        """[1, C, H, W] -> [1, C, 2H, W - 2]."""
        return torch.cat((x, x), dim=2)[..., 2:]


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (Branching(), BadInputError, "can't be exported by torch.onnx"),
        (Exotic(), UnsupportedOperatorError, "without an ONNX form.*bessel_j0"),
        (Cropping(), BadInputError, "14x10 becomes 12x20, which is no whole scale"),
        (nn.Conv2d(3, 1, 1), BadInputError, "3 channels go in and 1 come out"),
        (nn.Flatten(), BadInputError, "output is 1x420, not one frame"),
    ],
)
def test_what_can_not_be_is_one_clear_line(module: nn.Module, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        from_module(module, torch.zeros(1, 3, 10, 14), name="mine")
    assert "\n" not in str(caught.value)


def test_wiring_that_does_not_fit_is_refused() -> None:
    step = recurrent_step(Recurrent())
    with pytest.raises(BadInputError, match="give both for every input"):
        from_steps([Step(step.name, step.module, step.examples, {"x": "frame[t]"}, step.writes)])
    with pytest.raises(BadInputError, match="has 2 outputs but 1 names"):
        from_steps([Step(step.name, step.module, step.examples, step.reads, {"sr": "output"})])
    writes = {"state_next": "hidden", "sr": "picture"}
    with pytest.raises(BadInputError, match="no step of model writes 'output'"):
        from_steps([Step(step.name, step.module, step.examples, step.reads, writes)])
    with pytest.raises(BadInputError, match="share a name"):
        from_steps([step, step])
    reads = {**step.reads, "state": "hidden[t]"}
    with pytest.raises(BadInputError, match="cyc"):
        from_steps([Step(step.name, step.module, step.examples, reads, step.writes)])
