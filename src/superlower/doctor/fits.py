"""What is installed, and whether its versions fit together: distributions, and the driver below them."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ESSENTIAL: Final = ("onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy", "av")
"""Distributions that superlower can't do without and whose versions explain most."""

OPTIONAL: Final = (
    "torch",
    "onnxruntime-gpu",
    "openvino",
    "apache-tvm",
    "apache-tvm-ffi",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx-cu12",
    "tensorrt-rtx-cu13",
    "nvidia-cuda-nvrtc-cu12",
    "nvidia-cuda-nvrtc",
    "nvidia-cuda-runtime-cu12",
    "nvidia-cuda-runtime",
    "onnxsim",
    "onnx-graphsurgeon",
)
"""Distributions that backends, frontends and passes are made of."""

DRIVERS: Final = {13: 580, 12: 525, 11: 450}
"""CUDA major version -> branch of the first driver that runs programs built with it.

CUDA Compatibility guide, minor version compatibility, table 1.
"""


@dataclass(frozen=True)
class Conflict:
    """Two installed things that don't fit together.

    Attributes:
        what: the one to change, with its version.
        why: who needs what instead, as a clause.
        command: that mends it.
    """

    what: str
    why: str
    command: str

    @property
    def line(self) -> str:
        """In one line."""
        return f"{self.what} is here, and {self.why}: {self.command}"


def installed(names: Iterable[str] = (*ESSENTIAL, *OPTIONAL)) -> dict[str, str]:
    """Distribution -> version of those that are here."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def requirements(name: str) -> Sequence[str]:
    """What a distribution says it requires, extras included; nothing if it isn't here."""
    try:
        return importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:
        return ()


def conflicts(
    versions: Mapping[str, str], required: Callable[[str], Sequence[str]] = requirements
) -> list[Conflict]:
    """Distributions that are here in another version than superlower or one another require.

    An extra's requirement counts where what it names is here: `superlower[tvm]` pins TVM for whoever has TVM.
    The first conflict a distribution is in is told.

    Args:
        versions: of the distributions looked at.
        required: their requirements.
    """
    found: dict[str, Conflict] = {}
    by_name = {canonicalize_name(name): (name, version) for name, version in versions.items()}
    for owner in ("superlower", *versions):
        for text in required(owner):
            needs = _read(text)
            if needs is None or (name := canonicalize_name(needs.name)) not in by_name or name in found:
                continue
            what, version = by_name[name]
            if not _fits(needs, version):
                extra = _extra(text)
                by = f"{owner}[{extra}]" if extra else owner
                why = f"{by} needs {needs.specifier}"
                found[name] = Conflict(f"{what} {version}", why, f"pip install '{what}{needs.specifier}'")
    return list(found.values())


def driver_conflict(driver: str, cuda: int, what: str) -> Conflict | None:
    """The conflict of a driver too old to run what a CUDA version built; None if there is none, or no driver.

    Args:
        driver: its version ("570.86.15"), "" for none.
        cuda: CUDA's major version.
        what: is built with it, as "TVM's wheel".
    """
    branch = re.match(r"\d+", driver)
    if branch is None or cuda not in DRIVERS or int(branch[0]) >= DRIVERS[cuda]:
        return None
    return Conflict(
        f"NVIDIA driver {driver}",
        f"{what} is built with CUDA {cuda}, which starts with driver {DRIVERS[cuda]}",
        f"install driver {DRIVERS[cuda]} or later",
    )


def cuda_major(distribution: str) -> int | None:
    """CUDA major version a distribution is built with, as its name says it ("tensorrt-rtx-cu12")."""
    match = re.search(r"-cu(\d+)$", distribution)
    return int(match[1]) if match else None


def read_driver(text: str) -> str:
    """The driver's version from the text of /proc/driver/nvidia/version; "" if there is none."""
    match = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", text)
    return match[1] if match else ""


def _read(text: str) -> Requirement | None:
    try:
        needs = Requirement(text)
    except InvalidRequirement:
        return None
    extra = _extra(text)
    return needs if needs.marker is None or needs.marker.evaluate({"extra": extra}) else None


def _extra(text: str) -> str:
    match = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", text)
    return match[1] if match else ""


def _fits(needs: Requirement, version: str) -> bool:
    try:
        return needs.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True
