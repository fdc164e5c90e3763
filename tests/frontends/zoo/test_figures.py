"""figures.json is what the networks are, and docs/models.md shows it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from superlower.driver.export import frontend
from superlower.errors import BadInputError
from superlower.frontends.zoo import figures
from superlower.frontends.zoo.figures import a_frame, stored, stored_of
from superlower.program import legality
from support.models import recurrent

DOCS = Path(__file__).resolve().parents[3] / "docs"
RUN = "run: python docs/generate_models.py"
QUICK = ("espcn", "egvsr", "rsdn")
"""Counted anew in every run of the tests; the others take seconds each."""

NAMES = dict.fromkeys(found.name for found in stored())


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_models", DOCS / "generate_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_architecture_is_in_the_file(generator: ModuleType) -> None:
    wanted = {name for name in generator.own() if isinstance(frontend(name), figures.Planned)}
    assert {f.name for f in stored() if not f.options} == wanted, RUN
    assert [(f.name, f.options) for f in stored() if f.options] == list(figures.VARIANTS), RUN


def test_the_page_shows_the_file(generator: ModuleType) -> None:
    assert generator.PAGE.read_text("utf-8") == generator.page(stored()), RUN
    assert generator.FIGURES.read_bytes() == generator.encoded(stored()), RUN


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_the_file_is_what_the_networks_are(generator: ModuleType, name: str) -> None:
    pytest.importorskip("torch", reason="PyTorch isn't installed")
    assert generator.figures([name]) == tuple(f for f in stored() if f.name == name), RUN


@pytest.mark.parametrize("name", QUICK)
def test_look_ahead_and_states_are_what_the_program_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting takes these two from the file, where it can: here it can't."""
    pytest.importorskip("torch", reason="PyTorch isn't installed")
    found = stored_of(name)
    monkeypatch.setattr(figures, "stored_of", lambda *_: None)
    assert figures.measure(frontend(name), {}) == found


def test_programs_in_the_file_are_legal() -> None:
    for found in stored():
        if not found.options:
            legality.verify(found.program)
        called = (legality.called_sizes(found.program, equation) for equation in found.program.equations)
        assert set(found.macs) == {graph for graphs in called for graph in graphs}


def test_a_frame_in_mid_clip_and_a_mean_over_clips() -> None:
    """A causal program's frame costs its calls; a bidirectional one's eleven frames share theirs."""
    causal = recurrent().program
    assert a_frame(causal, dict.fromkeys((e.graph for e in causal.equations), 1.0)) == len(causal.equations)
    tecogan = stored_of("tecogan")
    assert tecogan is not None
    # The first frame's warm-up and the flow it has none of are left out.
    assert tecogan.macs_a_frame == tecogan.macs["flow"] + tecogan.macs["upscale"]
    basicvsr = stored_of("basicvsr")
    assert basicvsr is not None
    each = basicvsr.macs
    total = 11 * (each["backward"] + each["forward"]) + 20 * each["flow"]
    assert basicvsr.macs_a_frame == pytest.approx(total / 11, rel=1e-12)


def test_third_parties_have_no_figures_until_exported() -> None:
    class Foreign:
        name = "foreign"

    with pytest.raises(BadInputError, match="foreign has no blueprint"):
        figures.blueprint(Foreign(), {})  # type: ignore[arg-type]


def test_figures_survive_their_file() -> None:
    assert figures.parse(msgspec.json.encode(stored())) == stored()
