"""Convolutions in bfloat16 while learning, where the CPU has tiles for it (Intel AMX).

Imports torch: import it inside methods only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def has_tiles() -> bool:
    """Whether this CPU multiplies bfloat16 in AMX tiles: without them it is slower than float32."""
    return bool(torch.cpu._is_amx_tile_supported())


@contextmanager
def fast_convolutions() -> Iterator[None]:
    """While the block runs, on a CPU with tiles, convolutions compute in bfloat16 and accumulate in float32.

    Weights stay in float32, as their gradients do, and so do warps: autocast leaves grid_sample alone.
    Elsewhere nothing changes. Flows are to be estimated outside: a bfloat16 has 8 bits, and a coordinate of
    320 pixels needs more. Weights may change inside, for no copies of them are kept.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_tiles(), cache_enabled=False):
        yield
