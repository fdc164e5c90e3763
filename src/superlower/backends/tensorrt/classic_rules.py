"""What classic TensorRT's hardware compatibility levels start with."""

from __future__ import annotations

from typing import Final

LEVELS: Final = {"ampere_plus": 80, "same_compute_capability": 75}
"""First architecture that has a hardware compatibility level: the bindings' own documentation, 11.4."""
