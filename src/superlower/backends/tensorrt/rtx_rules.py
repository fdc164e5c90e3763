"""Which architectures TensorRT-RTX 1.7.1.116 builds for: measured by building.

What it doesn't build for which of them stands among the known-bugs rules (superlower/doctor/rules). Its own
support matrix (https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html)
has the same SM numbers but 80: plans for it are built, running one is not supported by NVIDIA.
"""

from __future__ import annotations

from typing import Final

ARCHITECTURES: Final = (75, 80, 86, 89, 120, 121)
"""SM numbers for which set_compute_capability returns True."""

BUILD_ONLY: Final = frozenset({80})
"""SM numbers built for, but absent from the support matrix."""
