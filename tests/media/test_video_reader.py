"""Reading videos: times, orientation, and every way a file can be wrong."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from superlower.errors import BadInputError
from superlower.media.clip import open_clip
from superlower.media.video_reader import VideoReader

# Read back through 4:2:0, moving colours stray; another frame of the scene is some 60 levels away on average.
NEAR = 12


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "avi", "ts"])
def test_frames_come_in_order_of_time(make_video, scene, suffix: str) -> None:
    """With B-frames, so that files hold them in another order."""
    clip = VideoReader(make_video(f"clip.{suffix}"))
    frames = list(clip)
    assert (clip.height, clip.width) == (48, 64)
    assert clip.rate == 25
    assert [frame.index for frame in frames] == list(range(8))
    times = [frame.pts * frame.time_base for frame in frames]
    assert [time - times[0] for time in times] == [Fraction(n, 25) for n in range(8)]
    for index, frame in enumerate(frames):
        assert mean_difference(frame.rgb, scene(index)) < NEAR < mean_difference(frame.rgb, scene(index + 1))


def test_a_clip_can_be_read_again(make_video) -> None:
    with open_clip(make_video("clip.mp4")) as clip:
        first, again = list(clip), list(clip)
    assert clip.frames == len(first) == len(again) == 8
    assert all((a.rgb == b.rgb).all() for a, b in zip(first, again, strict=True))


def test_irregular_times_are_read_exactly(make_video) -> None:
    pts = [0, 3003, 3004, 10007, 10010, 55555]
    frames = list(VideoReader(make_video("vfr.mp4", pts=pts, time_base=Fraction(1, 90000))))
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(p, 90000) for p in pts]
    assert [frame.duration for frame in frames[:-1]] == np.diff(pts).tolist()


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 1), (180, 2), (-90, 3)])
def test_rotation_is_applied(make_video, degrees: int, turns: int) -> None:
    aspect = Fraction(4, 3)
    plain = VideoReader(make_video("plain.mp4", aspect=aspect))
    turned = VideoReader(make_video("turned.mp4", rotation=degrees, aspect=aspect))
    expected = [np.rot90(frame.rgb, turns) for frame in plain]
    assert (turned.height, turned.width) == expected[0].shape[:2]
    assert turned.sample_aspect_ratio == (1 / aspect if turns % 2 else aspect)
    for frame, upright in zip(turned, expected, strict=True):
        np.testing.assert_array_equal(frame.rgb, upright)


def test_other_angles_are_ignored_aloud(make_video, caplog) -> None:
    clip = VideoReader(make_video("tilted.mp4", rotation=30))
    assert (clip.height, clip.width) == (48, 64)
    assert "angle" in caplog.text


@pytest.mark.parametrize("name", ["a:b.mp4", "http:x.mkv", "two words %d.mp4"])
def test_any_file_name_is_a_file_name(make_video, tmp_path: Path, name: str) -> None:
    path = make_video("clip" + Path(name).suffix).rename(tmp_path / name)
    assert len(list(VideoReader(path))) == 8


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_cut_file_is_told(make_video, suffix: str, part: float) -> None:
    options = {"movflags": "faststart"} if suffix == "mp4" else {}
    path = make_video(f"cut.{suffix}", pts=range(30), container_options=options)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(BadInputError, match=r"cut\.\w+ (is cut|is damaged)"):
        list(VideoReader(path))
    assert 0 < len(list(VideoReader(path, allow_damaged=True))) <= 30


def test_an_mp4_without_its_index_is_told(make_video) -> None:
    path = make_video("clip.mp4")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadInputError, match="is no video that FFmpeg can read"):
        VideoReader(path)


def test_damage_in_the_middle_is_told(make_video) -> None:
    path = make_video("hurt.mp4", pts=range(30))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        entry = container.streams.video[0].index_entries[14]
    data[entry.pos : entry.pos + entry.size] = bytes(entry.size)
    path.write_bytes(data)
    with pytest.raises(BadInputError, match=r"hurt\.mp4 (can't be decoded after|is damaged at|is cut or)"):
        list(VideoReader(path))
    assert len(list(VideoReader(path, allow_damaged=True))) >= 14


def test_frames_that_change_size_are_told(make_video) -> None:
    first = make_video("a.h264", pts=range(3), size=(48, 64))
    second = make_video("b.h264", pts=range(3), size=(64, 48))
    first.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(BadInputError, match="frame 3 is 48x64 where those before are 64x48"):
        list(VideoReader(first))


def test_frames_without_times_get_them_by_the_rate(make_video) -> None:
    frames = list(VideoReader(make_video("raw.h264")))
    steps = {b.pts - a.pts for a, b in pairwise(frames)}
    assert [step * frames[0].time_base for step in steps] == [Fraction(1, 25)]


def test_files_that_are_no_videos(make_video, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Nothing here moves.\n" * 50)
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "none.avi"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = 48, 64
        container.start_encoding()
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000)
        block = av.AudioFrame.from_ndarray(np.zeros((1, 3200), np.int16), format="s16", layout="stereo")
        block.sample_rate = 8000
        container.mux(sound.encode(block))
    for name, reason in {
        "missing.mp4": "can't open .*No such file",
        "notes.txt": "has no video stream|is no video",
        "noise.mp4": "is no video that FFmpeg can read",
        "empty.mp4": "is no video that FFmpeg can read",
        "sound.wav": "has no video stream",
        "none.avi": "holds no video frames",
    }.items():
        with pytest.raises(BadInputError, match=reason) as caught:
            open_clip(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("codec", "full"), [("mjpeg", True), ("libx264", False)])
def test_flat_colour_of_full_range_and_of_ten_bits(tmp_path: Path, caplog, codec: str, full: bool) -> None:
    path = tmp_path / "flat.mkv"
    colour = np.array([200, 60, 30])
    luma = colour @ [0.299, 0.587, 0.114] / 255
    chroma = np.array([(colour[2] / 255 - luma) / 1.772, (colour[0] / 255 - luma) / 1.402])
    pixel_format, size = ("yuvj420p", 1) if full else ("yuv420p10le", 2)
    levels = [255 * luma, *(128 + 255 * chroma)] if full else [64 + 876 * luma, *(512 + 896 * chroma)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"qmin": "1", "qmax": "1", "crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, pixel_format
        stored = av.VideoFrame(64, 64, pixel_format)
        for plane, level in zip(stored.planes, levels, strict=True):
            plane.update(round(level).to_bytes(size, "little") * (plane.buffer_size // size))
        container.mux(stream.encode(stored))
        container.mux(stream.encode(None))
    clip = VideoReader(path)
    assert clip.color is not None
    assert clip.color.full == full
    # Half a level of luma, half of chroma times 1.772 (fewer in ten bits), and half a level at the end.
    assert np.abs(next(iter(clip)).rgb.astype(int) - colour).max() <= 0.5 * (1 + 1.772) + 0.5
    assert ("more than 8 bits" in caplog.text) == (not full)
