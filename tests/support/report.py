"""A strict reader of HTML pages, and parts of reports."""

from __future__ import annotations

import io
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from superlower.bundle.manifest import PassRecord
from superlower.check.crosscheck import VariantCheck

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """A strict reading of HTML: what is opened must be closed in order, ids are unique."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.data: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"doubled attribute in <{tag}>"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of order at {self.getpos()}"

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        """What a reader sees, without styles and scripts."""
        return " ".join(" ".join(t for tag, t in self.texts if tag not in {"style", "script"}).split())

    def numbers(self) -> list[str]:
        """The exact values of all numbers."""
        return [attributes["value"] for attributes in self.all("data")]


def png(width: int, height: int, level: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


def variant_check(name: str = "openvino-cpu-fp32", **changes: object) -> VariantCheck:
    backend, target, precision = name.split("-")
    check = VariantCheck(
        name,
        backend,
        target,
        precision,
        passed=True,
        tolerance=1e-3,
        reference="PyTorch eager",
        max_abs=(1.25e-6, 2.5e-6, 3.75e-6),
        psnr_db=(121.25, 118.5, 115.75),
        growth=3.0,
    )
    return replace(check, **changes)


def record(name: str, **changes: object) -> PassRecord:
    fields = {"graph": "step", "nodes_before": {"Conv": 3, "Mul": 9}, "nodes_after": {"Conv": 3, "Mul": 2}}
    return PassRecord(name=name, **{**fields, **changes})
