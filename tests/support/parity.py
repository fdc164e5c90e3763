"""The parity files: seeded networks as graphs, the calls that make a file's sequence, and what must come out.

Five files hold what no program can be given: a step with a state that isn't zeros (FRVSR, TecoGAN, EGVSR),
structure and detail that don't sum to frames (RSDN), a network that isn't quite the product's (VESPCN's port,
SOF-VSR of ACCV with corners not aligned). Their graphs are called as the files' authors called the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from superlower.frontends.base import ZooFrontend
from superlower.frontends.zoo.basicvsr import BasicVsr
from superlower.frontends.zoo.basicvsrpp import BasicVsrPlusPlus
from superlower.frontends.zoo.edvr import EdvrL, EdvrM
from superlower.frontends.zoo.egvsr import Egvsr
from superlower.frontends.zoo.espcn import Espcn
from superlower.frontends.zoo.frvsr import FrameRecurrent, Frvsr
from superlower.frontends.zoo.iconvsr import IconVsr
from superlower.frontends.zoo.rsdn import FEATURES, PICTURE, Rsdn
from superlower.frontends.zoo.sofvsr import SofVsr, SofVsrAccv
from superlower.frontends.zoo.tecogan import TecoGan
from superlower.frontends.zoo.vespcn import Vespcn
from superlower.program.interpret import CallGraph, interpret
from superlower.program.model import TemporalModel
from support.zoo import THROUGH_ONNX, Array, keys_of, recipe, relative_error, request

if TYPE_CHECKING:
    from torch import nn

Arrays = Mapping[str, Array]

FRAME_ITSELF = THROUGH_ONNX / 10
"""Seeded, nearly all of some networks' output is the frame itself, enlarged; the rest is some thousandths."""


@dataclass(frozen=True)
class Parity:
    """A parity file.

    Attributes:
        model: the graphs, with the recipe's weights; its program is only run where the file fits one.
        run: makes the sequence with a function that calls a graph.
        expected: what the published code made of it, as many arrays as `run` gives.
        tolerance: of the standard deviation of what is expected.
    """

    model: TemporalModel
    run: Callable[[CallGraph], list[Array]]
    expected: list[Array]
    tolerance: float = THROUGH_ONNX

    def error(self, call: CallGraph) -> float:
        """Largest difference, in deviations of what was expected."""
        found = self.run(call)
        return max(relative_error(a, b) for a, b in zip(found, self.expected, strict=True))


def _program(
    model: TemporalModel,
    frames: Sequence[Array],
    expected: Array,
    part: tuple[slice, ...] = (),
    tolerance: float = THROUGH_ONNX,
) -> Parity:
    """The program over a clip; `part` of its outputs [T, C, sH, sW] is expected."""

    def run(call: CallGraph) -> list[Array]:
        return [np.concatenate(interpret(model.program, frames, call))[part]]

    return Parity(model, run, [expected], tolerance)


def _basicvsr(arrays: Arrays, _: Path, __: Path) -> Parity:
    frames = arrays["in0"][0][:, None]
    return _program(BasicVsr().export(request(*frames.shape[3:])), frames, arrays["out0"][0])


def _iconvsr(arrays: Arrays, _: Path, __: Path) -> Parity:
    """Sides that four doesn't divide: mirrored beyond, as the runner does."""
    given = arrays["in0"][0]
    height, width = given.shape[2:]
    model = IconVsr().export(request(height, width))
    bottom, right = (
        padded - side for padded, side in zip(model.program.frame.padded, (height, width), strict=True)
    )
    frames = np.pad(given, ((0, 0), (0, 0), (0, bottom), (0, right)), mode="reflect")[:, None]
    return _program(model, frames, arrays["out0"][0], np.s_[:, :, : 4 * height, : 4 * width])


def mmagic_checkpoint(oracles: Path, folder: Path) -> Path:
    """BasicVSR++'s reference weights in a file as mmagic writes them, by whose names they are seeded."""
    import torch

    from superlower.frontends.zoo.basicvsrpp_torch import BasicVsrPlusPlusNet

    with torch.device("cpu"):
        spynet = BasicVsrPlusPlusNet(1).spynet
    buffers = {"spynet.mean": spynet.mean, "spynet.std": spynet.std}
    state = {
        f"generator.{name}": buffers[name] if name in buffers else torch.from_numpy(recipe(name, shape))
        for name, shape in keys_of(oracles, "basicvsrpp_c64n7").items()
    }
    state["generator.step_counter"] = torch.zeros(1)
    path = folder / "weights.pth"
    torch.save({"state_dict": state}, path)
    return path


def _basicvsrpp(arrays: Arrays, oracles: Path, folder: Path) -> Parity:
    frames = arrays["in0"][0][:, None]
    asked = request(*frames.shape[3:], mmagic_checkpoint(oracles, folder))
    return _program(BasicVsrPlusPlus().export(asked), frames, arrays["out0"][0], tolerance=FRAME_ITSELF)


def _window(
    frontend: ZooFrontend, tolerance: float = THROUGH_ONNX, **options: str
) -> Callable[[Arrays, Path, Path], Parity]:
    """A clip as long as the window, whose middle frame is expected."""

    def parity(arrays: Arrays, _: Path, __: Path) -> Parity:
        frames = arrays["in0"][0][:, None]
        middle = len(frames) // 2
        model = frontend.export(request(*frames.shape[3:], options=options))
        return _program(model, frames, arrays["out0"], np.s_[middle : middle + 1], tolerance)

    return parity


def _espcn(arrays: Arrays, _: Path, __: Path) -> Parity:
    frames = arrays["in0"][None]
    return _program(Espcn().export(request(*frames.shape[3:])), frames, arrays["out0"])


def _recurrent_step(
    frontend: FrameRecurrent, degradation: str, tolerance: float = THROUGH_ONNX
) -> Callable[[Arrays, Path, Path], Parity]:
    """A frame, the one before it, and a last output that no clip makes."""

    def parity(arrays: Arrays, _: Path, __: Path) -> Parity:
        x, before, previous = (arrays[f"in{i}"] for i in range(3))
        options = {"degradation": degradation, "warmup": "0"}
        model = frontend.export(request(*x.shape[2:], options=options))

        def run(call: CallGraph) -> list[Array]:
            flow = call("flow", {"ref": x, "sup": before})["flow"]
            return [call("upscale", {"x": x, "flow": flow, "previous": previous})["output"]]

        return Parity(model, run, [arrays["out0"]], tolerance)

    return parity


def _one_call(
    model: TemporalModel, network: nn.Module, method: Callable[..., object], feeds: Arrays, expected: Array
) -> Parity:
    """A single call of a method, under the program's graph name, in place of the program's own graph."""
    import torch

    from superlower.frontends.torch_export import export_module
    from superlower.frontends.zoo.checkpoint import seed_parameters
    from superlower.frontends.zoo.layers_torch import Method

    seed_parameters(network.eval(), 0)
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    graph = export_module(Method(network, method), tensors, ["output"], name="upscale")
    return Parity(
        TemporalModel(model.program, {"upscale": graph}),
        lambda call: [call("upscale", feeds)["output"]],
        [expected],
    )


def _vespcn(arrays: Arrays, _: Path, __: Path) -> Parity:
    """The published port: unpadded convolutions, and the frame after in both places."""
    from superlower.frontends.zoo.vespcn_torch import VespcnNet

    _, x, following = arrays["in0"][:, None]
    network = VespcnNet(padded=False)
    feeds = {"previous": following, "x": x, "following": following}
    product = Vespcn().export(request(*x.shape[2:]))
    return _one_call(product, network, network.upscale, feeds, arrays["out0"])


def _sofvsr_accv(arrays: Arrays, _: Path, __: Path) -> Parity:
    """The reference's sampler doesn't align corners, as today's default has it: the product's does."""
    from superlower.frontends.zoo.sofvsr_accv_torch import SofVsrAccvNet

    window = arrays["in0"][0]
    network = SofVsrAccvNet(align_corners=False)
    feeds = {f"x{i}": frame[None, None] for i, frame in enumerate(window)}
    product = SofVsrAccv().export(request(*window.shape[1:]))
    return _one_call(product, network, network.upscale, feeds, arrays["out0"])


def _rsdn(arrays: Arrays, _: Path, __: Path) -> Parity:
    """Frames and unrelated halves of them, step by step, the states as the engine makes them."""
    import torch

    from superlower.frontends.torch_export import export_module
    from superlower.frontends.zoo.layers_torch import Method

    frames, details, structures = (arrays[f"in{i}"][0] for i in range(3))
    size = frames.shape[2:]
    states = {
        "hidden": np.zeros((1, FEATURES, *size), np.float32),
        "detail": np.zeros((1, PICTURE, *size), np.float32),
        "structure": np.zeros((1, PICTURE, *size), np.float32),
    }

    def inputs(t: int) -> dict[str, Array]:
        pair = [t - 1 if t else 1, t]
        halves = {"details": details, "structures": structures}
        return {
            "x": frames[t : t + 1],
            **{name: half[pair].reshape(1, -1, *size) for name, half in halves.items()},
        }

    network = Rsdn()._network(request(*size))
    examples = {name: torch.from_numpy(array) for name, array in (inputs(0) | states).items()}
    made = [f"{name}_next" for name in states]
    graph = export_module(Method(network, network.advance), examples, [*made, "output"], name="advance")

    def run(call: CallGraph) -> list[Array]:
        last, rows = states, []
        for t in range(len(frames)):
            outputs = call("advance", inputs(t) | last)
            last = {name: outputs[f"{name}_next"] for name in states}
            pictures = (_unfolded(last[name]) for name in ("detail", "structure"))
            rows.append((outputs["output"], *pictures))
        return [np.concatenate(row) for row in zip(*rows, strict=True)]

    program = Rsdn().export(request(*size)).program
    return Parity(TemporalModel(program, {"advance": graph}), run, [arrays[f"out{i}"][0] for i in range(3)])


def _unfolded(x: Array) -> Array:
    """A pixel shuffle by 4: [1, 48, H, W] -> [1, 3, 4H, 4W]."""
    _, _, height, width = x.shape
    return (
        x.reshape(1, 3, 4, 4, height, width).transpose(0, 1, 4, 2, 5, 3).reshape(1, 3, 4 * height, 4 * width)
    )


PARITIES: dict[str, Callable[[Arrays, Path, Path], Parity]] = {
    "basicvsr_nb30": _basicvsr,
    "basicvsrpp_c64n7": _basicvsrpp,
    "edvr_l_woTSA_c128b4": _window(EdvrL(), FRAME_ITSELF, blocks="4", tsa="no"),
    "edvr_m": _window(EdvrM(), FRAME_ITSELF),
    "egvsr_nb10_BD_step": _recurrent_step(Egvsr(), "bd"),
    "espcn_x4": _espcn,
    "iconvsr_pad2_nb30": _iconvsr,
    "rsdn9_128": _rsdn,
    "sofvsr_accv_x4_ac_false": _sofvsr_accv,
    "sofvsr_tip_x2_ac_true": _window(SofVsr(), scale="2"),
    "sofvsr_tip_x3_ac_true": _window(SofVsr(), scale="3"),
    "sofvsr_tip_x4_ac_true": _window(SofVsr(), scale="4"),
    "tecogan_frvsr_nb10_BD_step": _recurrent_step(TecoGan(), "bd", FRAME_ITSELF),
    "tecogan_frvsr_nb10_BI_step": _recurrent_step(Frvsr(), "bi", FRAME_ITSELF),
    "vespcn_c3_x4_egvsrport_valid_nn": _vespcn,
}
"""By the file's name: from its arrays, the oracles' folder and a folder to write in."""


def parity(oracles: Path, name: str, folder: Path) -> Parity:
    """A file's network, read and exported.

    Args:
        oracles: holds the file.
        name: in `PARITIES`.
        folder: an empty one, to write weights in.
    """
    with np.load(oracles / "parity" / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return PARITIES[name](arrays, oracles, folder)
