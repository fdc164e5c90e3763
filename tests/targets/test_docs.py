"""docs/targets.md is what the catalog says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_the_catalog():
    spec = importlib.util.spec_from_file_location("generate_targets", DOCS / "generate_targets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "targets.md").read_text("utf-8") == module.page(), "run: python docs/generate_targets.py"
