"""superlower models: without PyTorch from the file, with it at any size and beside what was published."""

from __future__ import annotations

import pytest

from support.command import fresh, superlower

NO_TORCH = ("torch",)


def test_the_list_tells_costs_without_torch() -> None:
    outcome = fresh("models", "--json", absent=NO_TORCH)
    assert outcome.code == 0, outcome.stderr
    by_name = {entry["name"]: entry for entry in outcome.json}
    basicvsr = by_name["basicvsr"]
    assert basicvsr["parameters"] == 6291311
    assert basicvsr["gflops_a_frame"] == pytest.approx(2 * 373.5, abs=0.11)
    assert basicvsr["look_ahead"] == "whole clip"
    assert basicvsr["states"] == ["hb", "hf"]
    assert [c["name"] for c in basicvsr["checkpoints"]] == ["vimeo90k-bi", "vimeo90k-bd", "reds4"]
    assert by_name["edvr-m"]["look_ahead"] == 2
    assert by_name["edvr-m"]["states"] == []
    assert by_name["rsdn"]["states"] == ["h", "d", "s"]
    assert all(entry["parameters"] > 0 for entry in outcome.json)


def test_one_in_detail() -> None:
    outcome = superlower("models", "tecogan")
    assert outcome.code == 0, outcome.stderr
    shown = " ".join(outcome.stderr.split())  # a terminal wraps it anywhere
    assert "output[t] = upscale(x=frame[t], flow=flow[t], previous=output[t-1]) when t > 0" in shown
    assert "2,589,093 parameters; 127.3 GFLOPs (63.6 GMACs) a frame; look-ahead: 5 frames" in shown
    assert "`degradation`, bi or bd" in shown
    found = superlower("models", "tecogan", "--json").json
    assert [e["graph"] for e in found["program"]["equations"]][-1] == "upscale"
    # The last output and the next, with the two frames, the flow and what is being given: at least.
    assert found["peak_bytes"]["bytes"] >= 2 * 3 * 720 * 1280 * 4
    assert found["missing"] is None or "superlower[torch]" in found["missing"]


def test_another_size_and_other_options_are_counted() -> None:
    pytest.importorskip("torch", reason="PyTorch isn't installed")
    whole = superlower("models", "espcn", "--json").json
    quarter = superlower("models", "espcn", "--size", "90x160", "--json").json
    assert quarter["gflops_a_frame"] == pytest.approx(whole["gflops_a_frame"] / 4, rel=1e-9)
    assert (quarter["height"], quarter["width"]) == (90, 160)
    fewer = superlower("models", "tecogan", "--set", "blocks=1", "--json").json
    assert fewer["parameters"] == 1924389
    assert fewer["options"] == {"blocks": "1"}


@pytest.mark.parametrize("arguments", [("--flops",), ("--size", "90x160"), ("espcn", "--set", "tail=resize")])
def test_counting_without_torch_is_one_line_and_exit_6(arguments: tuple[str, ...]) -> None:
    outcome = fresh("models", *arguments, "--json", absent=NO_TORCH)
    assert outcome.code == 6
    assert outcome.stdout == ""
    assert "pip install 'superlower[torch]'" in outcome.verdict


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonesuch",), "unknown model 'nonesuch'"),
        (("--set", "blocks=1"), "--set is for one model"),
        (("--flops", "--size", "90x160"), "--flops compares at the sizes that were published"),
        (("--size", "90"), "--size 90: write HEIGHTxWIDTH"),
        (("basicvsr", "--set", "blocks=x"), "blocks=x is not a whole number"),
    ],
)
def test_refusals(arguments: tuple[str, ...], message: str) -> None:
    outcome = superlower("models", *arguments)
    assert outcome.code == 2
    assert message in outcome.error
    assert outcome.stdout == ""


@pytest.mark.slow  # builds ten networks
def test_published_costs_beside_ours() -> None:
    pytest.importorskip("torch", reason="PyTorch isn't installed")
    outcome = superlower("models", "--flops", "--json")
    assert outcome.code == 0, outcome.stderr
    rows = {row["what"]: row for row in outcome.json}
    for name in ("edvr-l", "vespcn channels=1", "sofvsr-accv", "tecogan degradation=bi"):
        assert abs(rows[name]["difference"]) < 1e-5
        assert rows[name]["rule"]
    assert abs(rows["basicvsr"]["difference"]) < 0.5 / 338
    share = rows["egvsr as a share of vespcn"]
    assert (share["unit"], share["published"]) == ("share", 0.2957)
    assert share["computed"] == pytest.approx(1.0666, abs=0.0001)
