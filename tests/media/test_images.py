"""Folders of PNG files, in and out."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from superlower.errors import BadInputError
from superlower.media.base import ClipFrame
from superlower.media.clip import open_clip, open_sink
from superlower.media.images import FolderReader, FolderWriter, natural_key, read_png, write_png


def noise(dtype: type = np.uint8, seed: int = 0, size: tuple[int, int] = (9, 13)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (*size, 3), dtype=dtype)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "frames"
    path.mkdir()
    for number in (1, 2, 10, 9):
        Image.fromarray(noise(seed=number)).save(path / f"f{number}.png")
    (path / "notes.txt").write_text("not a frame")
    return path


def copy(source: Path, target: Path, **options: object) -> None:
    with open_clip(source) as clip, open_sink(target, clip, clip.height, clip.width, **options) as sink:
        for frame in clip:
            sink.write(frame.rgb, frame)


def test_frames_come_in_natural_order(folder: Path) -> None:
    clip = open_clip(folder, rate=Fraction(30000, 1001))
    frames = list(clip)
    assert (clip.height, clip.width, clip.frames) == (9, 13, 4)
    assert [frame.name for frame in frames] == ["f1.png", "f2.png", "f9.png", "f10.png"]
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(1001, 30000) * n for n in range(4)]
    np.testing.assert_array_equal(frames[3].rgb, noise(seed=10))
    assert len(list(clip)) == 4


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_is_the_numbers_order(numbers: list[int]) -> None:
    names = [f"frame_{number}.png" for number in numbers]
    assert sorted(names, key=natural_key) == [f"frame_{number}.png" for number in sorted(numbers)]


def test_leading_zeros_do_not_confuse_names() -> None:
    names = ["a2.png", "a02.png", "a1b10.png", "a1b9.png", "B1.png"]
    assert sorted(names, key=natural_key) == ["a1b9.png", "a1b10.png", "a02.png", "a2.png", "B1.png"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_keeps_every_bit(tmp_path: Path, dtype: type) -> None:
    rgb = noise(dtype)
    write_png(tmp_path / "x.png", rgb)
    back = read_png(tmp_path / "x.png")
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, rgb)


def test_gray_and_palette_become_rgb(tmp_path: Path) -> None:
    gray = noise()[..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_png(tmp_path / "gray.png"), np.repeat(gray[..., None], 3, axis=2))
    deep = noise(np.uint16)[..., 0]
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_png(tmp_path / "deep.png"), np.repeat(deep[..., None], 3, axis=2))
    few = Image.fromarray(noise()).quantize(16)
    few.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_png(tmp_path / "palette.png"), np.asarray(few.convert("RGB")))


def test_a_folder_is_copied_name_for_name(folder: Path, tmp_path: Path) -> None:
    copy(folder, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "f1.png",
        "f10.png",
        "f2.png",
        "f9.png",
    ]
    np.testing.assert_array_equal(read_png(tmp_path / "out" / "f9.png"), noise(seed=9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "out"]
    # As open as any new folder, not closed to others as temporary ones are.
    assert (tmp_path / "out").stat().st_mode == folder.stat().st_mode


def test_a_video_becomes_numbered_files_and_back(make_video, tmp_path: Path) -> None:
    source = make_video("clip.mp4")
    copy(source, tmp_path / "frames")
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == [f"{n:08d}.png" for n in range(1, 9)]
    copy(tmp_path / "frames", tmp_path / "back.mkv", codec="ffv1")
    pairs = zip(open_clip(source), open_clip(tmp_path / "back.mkv"), strict=True)
    for before, after in pairs:
        np.testing.assert_array_equal(after.rgb, before.rgb)


def test_nothing_of_the_user_is_lost(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "keep.txt").write_text("mine")
    (target / "f1.png").write_text("old")
    with pytest.raises(BadInputError, match="isn't empty"):
        copy(folder, target)
    with pytest.raises(BadInputError, match="is the source"):
        copy(folder, folder, overwrite=True)
    with pytest.raises(BadInputError, match="is a file"):
        FolderWriter(target / "keep.txt", FolderReader(folder), 9, 13)
    assert (target / "f1.png").read_text() == "old"
    copy(folder, target, overwrite=True)
    assert (target / "keep.txt").read_text() == "mine"
    np.testing.assert_array_equal(read_png(target / "f1.png"), noise(seed=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "out"]


def test_an_empty_folder_may_be_written_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    copy(folder, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_stop_leaves_nothing(folder: Path, tmp_path: Path, error: type[BaseException]) -> None:
    clip = FolderReader(folder)

    def run() -> None:
        with FolderWriter(tmp_path / "out", clip, 9, 13) as writer:
            for frame in clip:
                writer.write(frame.rgb, frame)
            raise error

    with pytest.raises(error):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]


def test_refusals(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match=r"holds no \.png files"):
        open_clip(tmp_path / "empty")
    with pytest.raises(BadInputError, match="there is no folder"):
        FolderReader(tmp_path / "missing")
    with pytest.raises(BadInputError, match="names one image"):
        open_sink(tmp_path / "out.png", FolderReader(folder), 9, 13)
    clip = FolderReader(folder)
    with (
        pytest.raises(BadInputError, match="takes frames of"),
        FolderWriter(tmp_path / "out", clip, 18, 26) as sink,
    ):
        sink.write(noise(), ClipFrame(noise(), 0, 0, Fraction(1)))
    Image.fromarray(noise(size=(13, 9))).save(folder / "f11.png")
    with pytest.raises(BadInputError, match=r"f11\.png is 9x13 where f1\.png is 13x9"):
        list(FolderReader(folder))
    Image.fromarray(noise()).convert("RGBA").save(folder / "f0.png")
    with pytest.raises(BadInputError, match=r"f0\.png is partly transparent"):
        FolderReader(folder)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_cut_or_false_png_is_told(tmp_path: Path, dtype: type) -> None:
    write_png(tmp_path / "cut.png", noise(dtype))
    whole = (tmp_path / "cut.png").read_bytes()
    for data in (whole[: len(whole) // 2], whole[:20], b"text", b""):
        (tmp_path / "cut.png").write_bytes(data)
        with pytest.raises(BadInputError, match=r"can't read .*cut\.png: it is no whole PNG image"):
            read_png(tmp_path / "cut.png")


FULL_DISK = """
    import resource, sys
    import numpy as np
    from superlower.errors import BadInputError
    from superlower.media.clip import open_clip, open_sink

    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
    clip = open_clip(sys.argv[1])
    rgb = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=sys.argv[3])
    try:
        with open_sink(sys.argv[2], clip, 90, 130) as sink:
            for frame in clip:
                sink.write(rgb, frame)
    except BadInputError as error:
        sys.exit(str(error))
"""


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_full_disk_is_told_and_leaves_nothing(folder: Path, tmp_path: Path, dtype: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), folder, tmp_path / "out", dtype],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"disk full while writing {tmp_path / 'out'}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["frames"]
