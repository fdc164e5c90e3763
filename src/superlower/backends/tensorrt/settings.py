"""What `--set tensorrt.KEY=VALUE` takes, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from superlower.errors import BadInputError, unknown_name

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""Input -> least, usual and largest shape."""

LEVELS = ("none", "ampere_plus", "same_compute_capability")
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "tf32": ("on", "off"),
    "version_compatible": ("on", "off"),
    "hardware_compatibility": LEVELS,
    "optimization_level": tuple("012345"),
    "lanes": tuple("12345678"),
}
_NAMES = (*_CHOICES, "profile")


@dataclass(frozen=True)
class Settings:
    """TensorRT's settings. Their meaning: `superlower.backends.tensorrt.classic.TensorRt`."""

    tf32: bool = False
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    optimization_level: int | None = None
    profile: Profile = field(default_factory=dict)

    @classmethod
    def read(cls, texts: Mapping[str, str]) -> Settings:
        """Settings as the command line has them.

        Raises:
            BadInputError: an unknown setting, or a value it doesn't take.
        """
        for key, value in texts.items():
            if key not in _NAMES:
                raise unknown_name("tensorrt setting", key, _NAMES)
            if key in _CHOICES and value not in _CHOICES[key]:
                raise BadInputError(
                    f"tensorrt setting {key}={value}: write one of {', '.join(_CHOICES[key])}"
                )
        level = texts.get("optimization_level")
        return cls(
            tf32=texts.get("tf32") == "on",
            version_compatible=texts.get("version_compatible") == "on",
            hardware_compatibility=texts.get("hardware_compatibility", "none"),
            optimization_level=None if level is None else int(level),
            profile=_profile(texts.get("profile", "")),
        )


def _profile(text: str) -> Profile:
    found = {}
    for part in filter(None, text.split(",")):
        name, *shapes = part.rsplit(":", 3)
        if len(shapes) != 3 or not all(re.fullmatch(r"\d+(x\d+)*", shape) for shape in shapes):
            raise BadInputError(
                f"tensorrt setting profile={part}: write INPUT:MIN:OPT:MAX, as in "
                "frame:1x3x90x160:1x3x180x320:1x3x360x640, and a comma between inputs"
            )
        least, usual, most = (tuple(int(size) for size in shape.split("x")) for shape in shapes)
        if len(least) != len(most) or not all(
            a <= b <= c for a, b, c in zip(least, usual, most, strict=False)
        ):
            raise BadInputError(
                f"tensorrt setting profile={part}: the shapes must grow from MIN over OPT to MAX"
            )
        found[name] = (least, usual, most)
    return found


def check_profile(profile: Profile, inputs: Mapping[str, Shape]) -> None:
    """Compare a profile with a graph's inputs, in which -1 stands for a symbolic size.

    Raises:
        BadInputError: an input of symbolic size is left out, or a shape doesn't fit its input.
    """
    for name in profile:
        if name not in inputs:
            raise unknown_name("input in tensorrt.profile", name, inputs)
    for name, shape in inputs.items():
        if -1 in shape and name not in profile:
            raise BadInputError(
                f"input '{name}' has a symbolic size: export at one size, or give its range with --set "
                f"tensorrt.profile={name}:MIN:OPT:MAX"
            )
        for given in profile.get(name, ()):
            if len(given) != len(shape) or any(
                have not in (-1, size) for have, size in zip(shape, given, strict=True)
            ):
                wanted = "x".join("?" if size < 0 else str(size) for size in shape)
                raise BadInputError(
                    f"tensorrt.profile has {'x'.join(map(str, given))} for input '{name}', which is {wanted}"
                )
