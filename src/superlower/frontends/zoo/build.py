"""What every architecture's frontend does alike: options, weights into a network, graphs out of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from superlower.errors import BadInputError, MissingSdkError, unknown_name
from superlower.frontends.base import ClipReference, ExportRequest
from superlower.frontends.fetch import file_sha256
from superlower.frontends.zoo.checkpoint import Rule, load_strictly, random_seed, read_state, seed_parameters
from superlower.program.model import Edge, Frame

if TYPE_CHECKING:
    from torch import Tensor, nn

    Network = TypeVar("Network", bound=nn.Module)


def missing_torch() -> str | None:
    """Why no network can be made here, with the install command; None if one can."""
    return None if find_spec("torch") else "PyTorch isn't installed: pip install 'superlower[torch]'"


def known_options(model: str, options: Mapping[str, str], names: Sequence[str]) -> None:
    """Refuse every option but `names`.

    Raises:
        BadInputError: an unknown option, with near matches.
    """
    for name in options:
        if name in names:
            continue
        if not names:
            raise BadInputError(f"{model} has no options: leave {name} out")
        raise unknown_name(f"option of {model}", name, names)


def whole_option(model: str, options: Mapping[str, str], name: str, what: str, least: int = 1) -> int | None:
    """A whole number of at least `least`; None where the option isn't given.

    Args:
        what: the option counts, for the message ("residual blocks").

    Raises:
        BadInputError: anything else.
    """
    text = options.get(name)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        at_least = f", {least} or more" if least > 1 else ""
        raise BadInputError(f"{model} option {name}={text} is not a whole number of {what}{at_least}")
    return int(text)


def require_middle(model: str, name: str, frames: int) -> None:
    """Refuse windows without a middle frame, which is the one that is upscaled.

    Args:
        name: of the option that says how many frames a window has.

    Raises:
        BadInputError: an even number.
    """
    if frames % 2 == 0:
        raise BadInputError(f"{model} option {name}={frames} has no middle: make it odd")


def choice_option(model: str, options: Mapping[str, str], name: str, choices: Iterable[str]) -> str | None:
    """One of `choices`; None where the option isn't given.

    Raises:
        BadInputError: anything else.
    """
    text = options.get(name)
    if text is not None and text not in choices:
        raise BadInputError(f"{model} option {name}={text} is none of {', '.join(choices)}")
    return text


def frame_of(
    request: ExportRequest,
    *,
    scale: int,
    channels: int = 3,
    multiple: int = 1,
    minimum: int = 1,
    reflect: bool = False,
) -> Frame:
    """The frame contract of a network that takes RGB (or luma, if one channel) in 0..1.

    Args:
        reflect: pad by reflection, not by repeating the edge.

    Raises:
        BadInputError: no pixels.
    """
    height, width = request.height, request.width
    if height < 1 or width < 1:
        raise BadInputError(f"a frame of {width}x{height} pixels has nothing to upscale")
    return Frame(
        height=height,
        width=width,
        channels=channels,
        color="rgb" if channels == 3 else "y",
        scale=scale,
        multiple=multiple,
        minimum=minimum,
        padding=Edge.REFLECT if reflect else Edge.REPLICATE,
    )


def read_weights(request: ExportRequest, rules: Sequence[Rule] = ()) -> dict[str, Tensor]:
    """The checkpoint's tensors by our names; none for seeded weights.

    Raises:
        BadInputError: not a PyTorch checkpoint of plain tensors.
        MissingSdkError: PyTorch isn't installed.
    """
    reason = missing_torch()
    if reason:
        raise MissingSdkError(reason)
    return read_state(request.weights, rules) if random_seed(request.weights) is None else {}


def count_of(state: Mapping[str, Tensor], pattern: str, default: int) -> int:
    """How many modules of a numbered row a checkpoint has: one more than the largest number that group 1 of
    `pattern` finds at the start of a name; `default` where it finds none."""
    found = [int(match[1]) for key in state if (match := re.match(pattern, key))]
    return max(found, default=default - 1) + 1


def network_of(
    make: Callable[[], Network], state: Mapping[str, Tensor], request: ExportRequest, architecture: str
) -> Network:
    """A network in evaluation mode, with the checkpoint's weights or seeded ones.

    Args:
        make: the network with any weights; torch's random state is left as it was.
        state: what `read_weights` gave.
        architecture: for messages ("BasicVSR with 30 blocks").

    Raises:
        BadInputError: a checkpoint of another architecture (the keys that differ are named).
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        network = make().eval()
    seed = random_seed(request.weights)
    if seed is None:
        load_strictly(network, state, architecture=architecture, source=request.source)
    else:
        seed_parameters(network, seed)
    return network


def provenance(name: str, paper: str, request: ExportRequest, **choices: object) -> dict[str, str]:
    """Where a program came from; `choices` are what the architecture's options came to."""
    import torch

    found = {
        "architecture": name,
        **{key: str(value) for key, value in choices.items()},
        "paper": paper,
        "weights": request.source,
        "exporter": f"torch.onnx {torch.__version__}",
    }
    if random_seed(request.weights) is None:
        found["weights_sha256"] = file_sha256(request.weights)
    return found


def clip_reference(network: nn.Module) -> ClipReference:
    """The network over whole clips, in PyTorch eager: it takes [T, C, H, W] and makes [T, C, sH, sW]."""
    import torch

    def run(frames: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        with torch.no_grad():
            output = network(torch.from_numpy(np.concatenate(list(frames))))
        return [output[t : t + 1].numpy() for t in range(len(frames))]

    return run
