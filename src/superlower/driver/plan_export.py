"""Which tile to export an architecture for, so that videos are upscaled within a limit of memory."""

from __future__ import annotations

from collections.abc import Mapping

from superlower.driver.export import frontend
from superlower.driver.memory import legalized
from superlower.driver.memory_plan import Plan, Request, plan_memory
from superlower.driver.progress import Progress, Silent
from superlower.errors import MissingSdkError
from superlower.frontends.base import ExportRequest
from superlower.frontends.weights import fetch_weights

PROBE = 64
"""Height and width in pixels of the export that memory is told from."""


def plan_export(
    name: str,
    weights: str | None,
    size: tuple[int, int],
    limit: int,
    backend: str,
    *,
    sha256: str | None = None,
    options: Mapping[str, str] | None = None,
    overlap: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Export an architecture small, and plan from its graphs.

    Args:
        name, weights, sha256, options: as of `driver.export.export`.
        size: height and width of the videos.
        limit, backend, overlap: as of `memory_plan.Request`.

    Raises:
        BadInputError: not a checkpoint, or nothing fits.
    """
    progress = progress or Silent()
    architecture = frontend(name)
    if (reason := architecture.missing()) is not None:
        raise MissingSdkError(reason)
    fetched = fetch_weights(weights, architecture, sha256=sha256)
    progress.stage("planning memory")
    height, width = (min(side, PROBE) for side in size)
    request = ExportRequest(
        weights=fetched.path, height=height, width=width, options=options or {}, source=fetched.source
    )
    model = legalized(architecture.export(request), backend)
    return plan_memory(Request(model, backend, size, limit, overlap=overlap))
