"""The page: whole, escaped, loading nothing, and saying what the data say."""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import fields, replace
from math import inf, nan

import pytest

from superlower.backends.base import NodeSupport, Support
from superlower.errors import BadInputError
from superlower.report import html
from superlower.report.data import BeforeAfter, CoverageTable, EngineRow, Report, Timing
from superlower.report.html import render, write
from support.report import Page, png, record, variant_check

HOSTILE = "<script>alert('x')</script>\"' onload=\"y\" {{ 7 * 7 }} &amp; </style>"
BARE = Report(title="Compile report", model="basicvsr", machine="here")
SECTIONS = [
    "model",
    "pictures",
    "checks",
    "losses",
    "timings",
    "coverage",
    "passes",
    "engines",
    "notes",
    "versions",
]


@pytest.fixture
def page(full_report) -> Page:
    return Page(render(full_report))


def test_sections_and_their_links(page):
    assert [s["id"] for s in page.all("section")] == SECTIONS
    assert [a["href"] for a in page.all("a") if a["href"].startswith("#")] == [
        f"#{name}" for name in SECTIONS
    ]


def test_an_empty_report_is_a_page_without_sections():
    page = Page(render(BARE))
    assert page.all("section") == []
    assert "basicvsr" in page.text


@pytest.mark.parametrize(
    "name", [f.name for f in fields(Report) if f.name not in {"title", "model", "machine"}]
)
def test_every_part_can_stand_alone(full_report, name):
    alone = replace(BARE, **{name: getattr(full_report, name)})
    page = Page(render(alone))
    ids = [s["id"] for s in page.all("section")]
    assert len(ids) == (name not in {"created", "tolerance_reasons"})
    assert [a["href"] for a in page.all("a") if a["href"].startswith("#")] == [f"#{id}" for id in ids]


def test_ids_are_unique_and_what_is_referred_to_is_there(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in attributes.get("aria-labelledby", "").split():
            assert name in ids


def test_nothing_is_loaded(full_report):
    text = render(full_report)
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "source"}
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert not {"srcset", "poster", "background", "action", "formaction"} & attributes.keys()
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|\bimport\(", text)
    assert page.all("script") == [{}]
    (policy,) = (m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_paper_is_the_only_address(full_report):
    text = render(full_report)
    outside = [a["href"] for a in Page(text).all("a") if not a["href"].startswith("#")]
    assert outside == ["https://arxiv.org/abs/2012.02181"]
    assert set(re.findall(r"https?://[^\s\"<]+", text)) == set(outside)


@pytest.mark.parametrize("paper", ["javascript:alert(1)", "http://x", "Chan et al., CVPR 2021"])
def test_a_paper_that_is_no_address_is_text(paper):
    page = Page(render(replace(BARE, provenance={"paper": paper})))
    assert [a for a in page.all("a") if not a["href"].startswith("#")] == []
    assert paper in page.text


def test_every_text_is_escaped(full_report):
    h = HOSTILE
    hostile = Report(
        title=h,
        model=h,
        machine=h,
        created=h,
        summary={h: h},
        provenance={h: h, "paper": "https://" + h, "sha256": h},
        versions={h: h},
        checks=[
            replace(variant_check(), variant=h, backend=h, target=h, precision=h, reference=h),
            replace(variant_check(), passed=None, skipped=h, max_abs=(), psnr_db=()),
        ],
        tolerance_reasons={h: h},
        failures={h: h},
        passes={
            h: [
                record(h, graph=h, rewritten=(h,), refused=(h,), reason=h, options={h: h}),
                record(h, graph=h),
            ]
        },
        coverage=[
            CoverageTable(h, h, h, h, [NodeSupport(h, h, support, h) for support in Support]),
        ],
        timings=[Timing(h, 1.0, 1.0, h)],
        engines=[EngineRow(h, h, h, h, 1, sdk={h: h}, facts={h: h}, note=h)],
        pictures=replace(full_report.pictures, before_caption=h, after_caption=h, note=h),
        notes=[h],
    )
    text = render(hostile)
    page = Page(text)
    assert text.count("alert(") == text.count("&lt;script&gt;alert(") > 40
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    # Every place shows the text just as it was given.
    assert page.text.count(HOSTILE) > 30
    assert "49" not in [t for _, t in page.texts]


def test_pictures_slider_and_alternative_texts(page, full_report):
    before, after = page.all("img")
    shown = [b64decode(img["src"].partition("base64,")[2]) for img in (before, after)]
    assert shown == [full_report.pictures.before, full_report.pictures.after]
    assert [(img["width"], img["height"]) for img in (before, after)] == [("8", "6")] * 2
    assert "bicubic" in before["alt"]
    assert "BasicVSR, OpenVINO fp32" in after["alt"]
    (slider,) = page.all("input")
    assert (slider["type"], slider["min"], slider["max"]) == ("range", "0", "100")
    assert "label" in [tag for tag, _ in page.tags]
    assert "frame 3" in page.text


def test_tables_say_what_their_headers_head(page):
    assert len(page.all("table")) == 9
    assert {th.get("scope") for th in page.all("th")} == {"col", "row", "rowgroup"}
    regions = [d for d in page.all("div") if d.get("class") == "scroll"]
    assert len(regions) == len(page.all("table")) + len([s for s in page.all("svg") if "role" in s])
    assert all(d["tabindex"] == "0" and d["aria-label"] for d in regions)


def test_numbers_on_the_page_are_the_data(page, full_report):
    values = page.numbers()
    for check in full_report.checks:
        for error in check.max_abs:
            assert repr(error) in values
    (checked, exact, _) = full_report.checks
    for number in (max(checked.max_abs), checked.tolerance, min(checked.psnr_db), checked.growth):
        assert repr(number) in values
    for timing in full_report.timings:
        assert {repr(timing.milliseconds), repr(timing.ratio)} <= set(values)
    assert {"2.5e-07", "1e-05", "19000000", "17203200", "1.5"} <= set(values)
    assert exact.psnr_db == (inf, inf, inf)
    assert "identical" in page.text


def test_verdicts_reasons_and_what_was_left_out(page):
    for told in (
        "2 of 2",
        "1 not runnable here",
        "1 variant could not be built",
        "no NVIDIA driver",
        "it left its tolerance",
        "a quarter of an 8-bit step",
        "5 1 0 1 7",  # native, rewritten, fallback, unsupported, nodes
        "the parser has no plug-ins",
        "lower-grid-sample",
        "12 → 5 Mul −7",  # noqa: RUF001
        "warp_3: read twice",
        "Nothing to do: convert-opset",
        "79 half, 9 float",
        "built without a GPU; not run here",
        "openvino-cpu-fp32 1.31×",  # noqa: RUF001
        "Test processor, 2 cores",
        "Measured with the machine at rest.",
        "onnx 1.23.2",
    ):
        assert told in page.text, told


def test_a_variant_over_its_tolerance_is_said_first():
    failed = variant_check(passed=False, max_abs=(1e-6, 0.5, 1e-6))
    page = Page(render(replace(BARE, checks=[variant_check("tvm-cpu-fp32"), failed], failures={"x": "y"})))
    assert "1 of 2 variants left its tolerance. 1 variant could not be built." in page.text
    assert page.text.count("fail ") == 1


@pytest.mark.parametrize("value", [nan, inf, 0.0, 5e-324, 1.7e308])
def test_numbers_of_every_kind_have_a_page(value):
    check = variant_check(max_abs=(value, 1e-6), psnr_db=(value, inf), growth=value, passed=False)
    page = Page(
        render(replace(BARE, checks=[check], timings=[Timing("a", value, value), Timing("b", 1.0, None)]))
    )
    assert page.numbers().count(repr(value)) >= 3
    drawn = [c for _, a in page.tags for name in ("cx", "cy", "x1", "y1", "d") if (c := a.get(name))]
    assert not any(re.search(r"nan|inf", c) for c in drawn)


def test_clips_of_unequal_length_share_a_table():
    checks = [variant_check(), variant_check("tvm-cpu-fp32", max_abs=(1e-4,), psnr_db=(80.0,))]
    page = Page(render(replace(BARE, checks=checks)))
    # Two frames of the shorter clip are not there.
    assert len([s for s in page.all("span") if s.get("class") == "absent"]) == 2


def test_pictures_must_be_png_of_one_size():
    with pytest.raises(BadInputError, match="no PNG"):
        BeforeAfter(b"\xff\xd8\xff\xe0 a JPEG's beginning", png(4, 4, 0), "a", "b")
    with pytest.raises(BadInputError, match="8x6 and 16x12"):
        BeforeAfter(png(8, 6, 0), png(16, 12, 0), "a", "b")


def test_write_leaves_one_file(full_report, tmp_path):
    path = tmp_path / "new" / "report.html"
    write(full_report, path)
    assert path.read_text("utf-8") == render(full_report)
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(full_report, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def interrupted(report: Report) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(html, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(full_report, path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.html", "old")]
