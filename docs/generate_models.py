"""Write figures.json and the tables of docs/models.md from the networks: `python docs/generate_models.py`.

Takes half a minute. `page()` and `figures()` are what tests hold the files to.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from superlower import plugins
from superlower.driver.export import frontend
from superlower.frontends.zoo import figures as zoo
from superlower.frontends.zoo.figures import Figures

PAGE = Path(__file__).with_name("models.md")
FIGURES = Path(zoo.__file__).with_name("figures.json")
BEGIN = "<!-- Written by docs/generate_models.py: from here -->\n"
END = "<!-- to here -->\n"


def own() -> list[str]:
    """The names of superlower's own architectures."""
    return [
        name for name, point in plugins.table("frontend").items() if point.value.startswith("superlower.")
    ]


def figures(names: Iterable[str]) -> tuple[Figures, ...]:
    """The figures of these architectures, counted anew, with their variants."""
    wanted = [(name, options) for name in names for options in _variants(name)]
    return tuple(zoo.measure(frontend(name), options) for name, options in wanted)


def _variants(name: str) -> list[dict[str, str]]:
    return [{}, *(dict(options) for other, options in zoo.VARIANTS if other == name)]


def table(known: Iterable[Figures]) -> str:
    """The table of parameters and costs."""
    head = ["name", "options", "parameters", "GMACs a frame", "look-ahead", "states"]
    rows = [
        [
            f"`{f.name}`",
            ", ".join(f"`{key}={value}`" for key, value in f.options.items()),
            f"{f.parameters:,}",
            f"{f.macs_a_frame / 1e9:.1f}",
            "whole clip" if f.look_ahead is None else str(f.look_ahead),
            ", ".join(f"`{state}`" for state in f.states),
        ]
        for f in known
    ]
    lines = [head, ["---", "---", "---:", "---:", "---:", "---"], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(known: Iterable[Figures]) -> str:
    """The text of docs/models.md, its table anew."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table(known)}{END}{after}"


def encoded(known: tuple[Figures, ...]) -> bytes:
    """The text of figures.json: an entry a line."""
    return b"[\n" + b",\n".join(msgspec.json.encode(entry) for entry in known) + b"\n]\n"


if __name__ == "__main__":
    found = figures(sys.argv[1:] or own())
    if sys.argv[1:]:
        # Only these anew.
        kept = {f.name: [g for g in zoo.stored() if g.name == f.name] for f in zoo.stored()}
        kept |= {f.name: [g for g in found if g.name == f.name] for f in found}
        found = tuple(f for name in sorted(kept) for f in kept[name])
    FIGURES.write_bytes(encoded(found))
    PAGE.write_text(page(found), "utf-8")
