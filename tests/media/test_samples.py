"""The table of sample clips."""

from __future__ import annotations

import re

from superlower.media.samples import SAMPLES


def test_every_clip_names_a_file_in_a_pinned_release_and_its_hash() -> None:
    assert {"carphone", "bikes"} <= set(SAMPLES)
    for sample in SAMPLES.values():
        assert re.fullmatch(r"pypi:[\w-]+==[\d.]+/[\w/]+\.mp4", sample.location)
        assert re.fullmatch(r"[0-9a-f]{64}", sample.sha256)
    assert len({sample.sha256 for sample in SAMPLES.values()}) == len(SAMPLES)
