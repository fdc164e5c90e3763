"""From a plan on disk to a session: what TensorRT's products share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from superlower.backends.base import Artifact
from superlower.backends.tensorrt import builder
from superlower.backends.tensorrt.cuda import Context
from superlower.backends.tensorrt.network import Sdk
from superlower.backends.tensorrt.session import Contexts, EngineSession
from superlower.errors import BadInputError


@cache
def runtime_sdk(name: str) -> Sdk:
    """The SDK, once a process: it takes the first logger it is given and ignores every later one."""
    return Sdk(name, echo=False, record=False)


def plan_file(artifact: Artifact, folder: Path) -> Path:
    """Where an engine's plan lies.

    Raises:
        BadInputError: it isn't there.
    """
    path = folder / artifact.files.get("engine", builder.PLAN)
    if not path.is_file():
        raise BadInputError(f"no such engine: {path}; compile it again")
    return path


def open_session(
    path: Path,
    device: Context,
    sdk: Sdk,
    reader: str,
    contexts: Callable[[bytes], Contexts],
    artifact: Artifact,
) -> EngineSession:
    """Deserialize a plan on a device and make its execution contexts.

    Args:
        path: of the plan.
        device: becomes the session's own; released if the plan can't be opened.
        reader: SDK and version, for messages.
        contexts: from the plan's content.
        artifact: its settings and mode say how many calls may be in flight.

    Raises:
        BadInputError: it is no plan that the SDK reads.
        MissingSdkError: not enough memory on the device.
    """
    try:
        device.enter()
        plan = path.read_bytes()
        sdk.clear()
        # The runtime must outlive its engines: `runtime_sdk` keeps it for the process.
        engine = sdk.runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BadInputError(
                f"{path} is no engine that {reader} can read: {sdk.first_error()[:300]}; compile it again"
            )
    except BaseException:
        device.close()
        raise
    lanes = int(artifact.settings.get("lanes", 2 if artifact.mode == "throughput" else 1))
    return EngineSession(device, engine, contexts(plan), lanes, artifact.stateful)
