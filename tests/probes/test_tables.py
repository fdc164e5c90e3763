"""Tables: written, read, and asked about nodes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import onnx_ir as ir
import pytest

from superlower.errors import BadInputError
from superlower.probes.cases import cases
from superlower.probes.tables import Result, Table, Verdict, ask, read, write


def table(*results: Result) -> Table:
    return Table(
        backend="some",
        target="cpu",
        sdk={"some": "1.2"},
        source="probed",
        superlower="0.1.0",
        machine="a CPU",
        results=results,
    )


def result(name: str, verdict: Verdict, **given: object) -> Result:
    case = next(case for case in cases() if case.name == name)
    kept: dict[str, object] = {"large": case.large, "corner": case.corner, **given}
    return Result(case=name, key=str(case.key()), verdict=verdict, **kept)  # type: ignore[arg-type]


def node(name: str) -> tuple[ir.Node, int]:
    """The probed node of a case, and its opset."""
    case = next(case for case in cases() if case.name == name)
    model = case.model()
    return next(n for n in model.graph if n.op_type == case.op), model.opset_imports[""]


def test_written_tables_read_the_same_a_line_a_result(tmp_path: Path) -> None:
    made = table(
        result("GridSample/linear-zeros/20/fp32", Verdict.RIGHT, error=1e-7, tolerance=1e-5),
        result("GridSample/nearest-ties-zeros/20/fp32", Verdict.WRONG, error=float("inf")),
    )
    write(made, tmp_path / "some-cpu.json")
    assert len((tmp_path / "some-cpu.json").read_text().splitlines()) == 4
    again = read(tmp_path / "some-cpu.json")
    assert again.results[0] == made.results[0]
    assert again.results[1].corner


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="can't read the probe table"):
        read(tmp_path / "none.json")
    write(msgspec.structs.replace(table(), format=2), tmp_path / "newer.json")
    with pytest.raises(BadInputError, match=r"newer\.json is a probe table of format 2, not 1"):
        read(tmp_path / "newer.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(BadInputError, match="is no probe table of format 1"):
        read(tmp_path / "bad.json")


def test_the_probe_of_just_this_setting_answers() -> None:
    asked = table(
        result("GridSample/linear-zeros/20/fp32", Verdict.RIGHT),
        result("GridSample/linear-border/20/fp32", Verdict.REFUSED, detail="no border"),
    )
    answer = ask(asked, *node("GridSample/linear-border/20/fp32"))
    assert (answer.verdict, answer.exact, answer.detail) == (Verdict.REFUSED, True, "no border")


def test_of_probes_with_one_key_the_worst_answers() -> None:
    asked = table(
        result("Resize/nearest-half_pixel/19/fp32", Verdict.RIGHT),
        result("Resize/nearest-half_pixel-half/19/fp32", Verdict.WRONG, error=0.5),
        result("Resize/nearest-half_pixel-x3/19/fp32", Verdict.RIGHT),
    )
    assert ask(asked, *node("Resize/nearest-half_pixel/19/fp32")).verdict is Verdict.WRONG


def test_wide_frames_and_corners_do_not_answer() -> None:
    asked = table(
        result("GridSample/nearest-zeros/20/fp32", Verdict.RIGHT),
        result("GridSample/nearest-ties-zeros/20/fp32", Verdict.WRONG, error=0.5),
        result("GridSample/bilinear-zeros/16/fp16", Verdict.RIGHT),
        result("GridSample/warp-bilinear-zeros/16/fp16/4k", Verdict.WRONG, error=0.5),
        result("QuantizeLinear/uint8-middle/19/fp32", Verdict.RIGHT),
        result("QuantizeLinear/uint8-middle-halves/19/fp32", Verdict.WRONG, error=1.0),
    )
    for case in asked.results[::2]:
        answer = ask(asked, *node(case.case))
        assert (answer.verdict, answer.exact) == (Verdict.RIGHT, True), case.case


def test_the_nearest_setting_answers_for_one_that_was_not_probed_and_types_weigh_most() -> None:
    asked = table(
        result("GridSample/linear-zeros/20/fp32", Verdict.RIGHT),
        result("GridSample/nearest-reflection-corners/20/fp16", Verdict.REFUSED, detail="no half"),
    )
    answer = ask(asked, *node("GridSample/linear-zeros/20/fp16"))
    assert (answer.verdict, answer.exact) == (Verdict.REFUSED, False)
    assert answer.detail == "no half (GridSample/nearest-reflection-corners/20/fp16 was probed)"
    assert ask(asked, *node("Conv/plain/19/fp32")).verdict is None
