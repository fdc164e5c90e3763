"""docs/known-bugs.md is what its generator makes of the rules."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from superlower.doctor.rules import rules

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date_and_has_every_rule() -> None:
    spec = importlib.util.spec_from_file_location("generate_known_bugs", DOCS / "generate_known_bugs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (DOCS / "known-bugs.md").read_text("utf-8")
    assert text == module.page(), "run: python docs/generate_known_bugs.py"
    assert [line for line in text.splitlines() if line.startswith("### ")] == [
        f"### {rule.id}" for _, found in module._sections() for rule in found
    ]
    assert {rule.id for _, found in module._sections() for rule in found} == {rule.id for rule in rules()}
