"""Checkpoints into networks: found, renamed by rule, and loaded strictly."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from superlower.errors import BadInputError
from superlower.frontends.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn

Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]
"""A pattern for the start of a key, and what replaces it."""

_CONTAINERS = ("params_ema", "params", "state_dict")
_PREFIXES = ("generator_ema.", "generator.", "module.")
_RANDOM = re.compile(r"random:([0-9]+)")
_SHOWN = 3


def random_seed(weights: Path) -> int | None:
    """SEED where the weights are `random:SEED`, else None."""
    match = _RANDOM.fullmatch(str(weights))
    return int(match[1]) if match else None


def seed_parameters(network: nn.Module, seed: int) -> None:
    """Set every parameter from its name and `seed` alone; buffers keep their defaults.

    A parameter is normal with deviation 0.7 / sqrt(fan_in) (0.3 / sqrt(fan_in) for offset predictors, 0.02
    for vectors), drawn by NumPy's default generator from crc32(name) xor seed: residual networks then keep
    their activations in range, however deep.
    """
    import torch

    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.is_meta:  # shapes are all it has
                continue
            shape = tuple(parameter.shape)
            gain = 0.3 if "offset" in name else 0.7
            deviation = 0.02 if len(shape) < 2 else gain / np.sqrt(np.prod(shape[1:]))
            draw = np.random.default_rng(zlib.crc32(name.encode()) ^ seed).standard_normal(shape) * deviation
            parameter.copy_(torch.from_numpy(draw.astype(np.float32)))


def read_state(path: Path, rules: Sequence[Rule] = ()) -> dict[str, Tensor]:
    """The tensors of a PyTorch checkpoint by the names `rules` give them; nothing in the file is executed.

    The state dict may be the root or under `params_ema`, `params` or `state_dict`. If some names start with
    `generator_ema.`, `generator.` or `module.`, those are taken, without it; the rest (losses, counters) is
    left.

    Raises:
        BadInputError: no such file, not a PyTorch checkpoint, or no tensors in it.
    """
    import torch

    if not path.is_file():
        raise BadInputError(f"no such checkpoint: {path}")
    try:
        with quiet():
            root = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BadInputError(
            f"{path} is not a PyTorch checkpoint of plain tensors: {_first_line(error)}"
        ) from error
    while isinstance(root, Mapping) and (inner := next((c for c in _CONTAINERS if c in root), None)):
        root = root[inner]
    if not isinstance(root, Mapping):
        raise BadInputError(f"{path} holds a {type(root).__name__}, not a state dict")
    state = {str(key): value for key, value in root.items() if isinstance(value, torch.Tensor)}
    for prefix in _PREFIXES:
        inside = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
        state = inside or state
    if not state:
        raise BadInputError(f"{path} holds no tensors under {', '.join(_CONTAINERS)} or at its root")
    return {rename(key, rules): value for key, value in state.items()}


def rename(key: str, rules: Sequence[Rule]) -> str:
    """The key after every rule, in order."""
    for pattern, replacement in rules:
        key = pattern.sub(replacement, key, count=1)
    return key


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], *, architecture: str, source: str) -> None:
    """Load `state` into `network`, every key and shape equal.

    Raises:
        BadInputError: keys or shapes differ; the message counts them and names the first few of each kind.
    """
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    reshaped = [
        f"{key} {_shape(state[key])} instead of {_shape(tensor)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    found = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    faults = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in found if keys]
    if faults:
        raise BadInputError(
            f"{source} is a checkpoint of another architecture than {architecture}: keys {'; '.join(faults)}"
        )
    network.load_state_dict(dict(state), strict=True)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
