"""LPIPS (Zhang et al., "The Unreasonable Effectiveness of Deep Features", CVPR 2018) by its authors' library.

Version 0.1, AlexNet: the distance that papers on video super-resolution give, and tLP is made of.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from superlower.errors import BadInputError, MissingSdkError
from superlower.metrics.psnr import Image

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "alexnet-owt-7be5be79.pth"
_URL = f"https://download.pytorch.org/models/{WEIGHTS}"
_LEAST = 64
_MODULES = ("torch", "torchvision", "lpips")

Distance = Callable[[Image, Image], float]


def missing_lpips() -> str | None:
    """Why LPIPS can't be measured here, and what to do; None if it can. Nothing is downloaded unasked."""
    absent = [name for name in _MODULES if find_spec(name) is None]
    if absent:
        return f"{', '.join(absent)} isn't installed: pip install 'superlower[lpips]'"
    folder = _torch_home() / "hub" / "checkpoints"
    if not (folder / WEIGHTS).is_file():
        return f"AlexNet's weights (233 MB) aren't in {folder}: download {_URL} to there"
    return None


@cache
def lpips_distance() -> Distance:
    """LPIPS of two uint8 [H, W, 3] frames: 0 for identical ones, about 1 at most.

    The function raises BadInputError for frames under 64x64, of which AlexNet's last features are empty.

    Raises:
        MissingSdkError: the library or its weights aren't here.
    """
    if (reason := missing_lpips()) is not None:
        raise MissingSdkError(f"LPIPS can't be measured: {reason}")

    import lpips
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, of how lpips 0.1.4 asks for the weights
        network = lpips.LPIPS(net="alex", verbose=False).eval()

    def distance(a: Image, b: Image) -> float:
        if min(a.shape[:2]) < _LEAST or a.shape != b.shape:
            raise BadInputError(
                f"LPIPS takes two frames of one size, {_LEAST}x{_LEAST} or more, not {list(a.shape)} "
                f"and {list(b.shape)}"
            )
        with torch.no_grad():
            return float(network(_tensor(a), _tensor(b)))

    return distance


def _tensor(frame: Image) -> Tensor:
    """[1, 3, H, W] in -1..1."""
    import torch

    scaled = np.ascontiguousarray(frame.transpose(2, 0, 1)[None], np.float32) / 127.5 - 1
    return torch.from_numpy(scaled)


def _torch_home() -> Path:
    """Where PyTorch keeps downloads, as torch.hub finds it; known without importing torch."""
    cache_home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache_home}/torch")).expanduser()
