"""Writing videos: nothing lost of the source, nothing left of a failure."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from superlower.errors import BadInputError
from superlower.media.base import ClipFrame
from superlower.media.clip import check_sink, open_sink
from superlower.media.color import Color, output_color
from superlower.media.video_reader import VideoReader
from superlower.media.video_writer import VideoWriter


@dataclass(frozen=True)
class Facts:
    """A clip that is nothing but its facts."""

    color: Color | None = None
    path: Path = Path("nowhere")
    height: int = 16
    width: int = 16
    frames: int | None = None
    rate: Fraction = Fraction(25)
    time_base: Fraction = Fraction(1, 25)
    sample_aspect_ratio: Fraction = Fraction(1)


def twice(rgb: np.ndarray) -> np.ndarray:
    return np.repeat(np.repeat(rgb, 2, axis=0), 2, axis=1)


def upscale(source: Path, target: Path, **options: object) -> VideoReader:
    clip = VideoReader(source)
    with open_sink(target, clip, 2 * clip.height, 2 * clip.width, **options) as sink:
        for frame in clip:
            assert not target.exists() or options.get("overwrite")
            sink.write(twice(frame.rgb), frame)
    return VideoReader(target)


def write_still(path: Path, rgb: np.ndarray, clip: Facts, frames: int = 2, **options: object) -> None:
    with VideoWriter(path, clip, *rgb.shape[:2], **options) as writer:
        for index in range(frames):
            writer.write(rgb, ClipFrame(rgb, index, index, clip.time_base, 1))


def times(clip: VideoReader) -> list[tuple[Fraction, Fraction]]:
    return [(frame.pts * frame.time_base, frame.duration * frame.time_base) for frame in clip]


def packets(path: Path, kind: str) -> list[tuple[bytes, Fraction, Fraction]]:
    with av.open(str(path)) as container:
        return [
            (bytes(packet), packet.pts * packet.time_base, packet.duration * packet.time_base)
            for packet in container.demux([s for s in container.streams if s.type == kind])
            if packet.dts is not None
        ]


# --- times


@pytest.mark.parametrize("base", [Fraction(1, 90000), Fraction(1001, 30000)])
def test_irregular_times_survive_to_the_tick(make_video, tmp_path: Path, base: Fraction) -> None:
    pts = [0, 1, 7, 8, 9, 40, 41, 99]
    source = make_video("vfr.mp4", pts=pts, time_base=base, last=13)
    before, after = VideoReader(source), upscale(source, tmp_path / "out.mp4")
    assert times(after) == times(before)
    assert times(after)[-1] == (99 * base, 13 * base)


def test_matroska_to_matroska_keeps_time_base_and_pts(make_video, tmp_path: Path) -> None:
    source = make_video("vfr.mkv", pts=[0, 5, 6, 70, 71, 72, 300], time_base=Fraction(1, 1000))
    before, after = VideoReader(source), upscale(source, tmp_path / "out.mkv")
    assert after.time_base == before.time_base
    assert [frame.pts for frame in after] == [frame.pts for frame in before]


def test_two_frames_at_one_time_are_told_apart(tmp_path: Path, caplog) -> None:
    rgb = np.zeros((16, 16, 3), np.uint8)
    with VideoWriter(tmp_path / "out.mp4", Facts(), 16, 16) as writer:
        for index, pts in enumerate([0, 1, 1, 4]):
            writer.write(rgb, ClipFrame(rgb, index, pts, Fraction(1, 25), 1))
    shown = [time for time, _ in times(VideoReader(tmp_path / "out.mp4"))]
    assert shown == [Fraction(n, 25) for n in (0, 1, 2, 4)]
    assert "two frames at one time" in caplog.text


def test_pixel_aspect_is_kept(make_video, tmp_path: Path) -> None:
    source = make_video("anamorphic.mp4", aspect=Fraction(16, 11))
    assert upscale(source, tmp_path / "out.mp4").sample_aspect_ratio == Fraction(16, 11)


# --- the other streams


def test_sound_is_copied_bit_for_bit(make_video, tmp_path: Path) -> None:
    source = make_video("clip.mp4", audio=True)
    upscale(source, tmp_path / "out.mp4")
    assert len(packets(source, "audio")) >= 20
    assert packets(tmp_path / "out.mp4", "audio") == packets(source, "audio")


@pytest.fixture
def film(make_video, tmp_path: Path) -> Path:
    """Matroska with sound, subtitles, a font, chapters and tags."""
    video = make_video("video.mkv", pts=range(0, 800, 40), time_base=Fraction(1, 1000), last=40, audio=True)
    path = tmp_path / "film.mkv"
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        target.metadata["title"] = "A film"
        target.set_chapters(
            [
                {
                    "id": n,
                    "start": 400 * n,
                    "end": 400 * n + 400,
                    "time_base": Fraction(1, 1000),
                    "metadata": {},
                }
                for n in range(2)
            ]
        )
        copies = {stream: target.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        copies[source.streams.audio[0]].metadata["language"] = "fra"
        subtitles = target.add_mux_stream("subrip", time_base=Fraction(1, 1000))
        subtitles.metadata["language"] = "deu"
        target.add_attachment("font.ttf", "font/ttf", bytes(range(200)))
        for index, text in enumerate([b"Guten Tag", b"Auf Wiedersehen"]):
            packet = av.Packet(text)
            packet.stream, packet.time_base = subtitles, Fraction(1, 1000)
            packet.pts = packet.dts = 300 * index
            packet.duration = 250
            target.mux(packet)
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream]
                target.mux(packet)
    return path


def test_everything_of_a_film_is_kept(film: Path, tmp_path: Path, caplog) -> None:
    out = tmp_path / "out.mkv"
    upscale(film, out)
    assert [text for text, *_ in packets(film, "subtitle")] == [b"Guten Tag", b"Auf Wiedersehen"]
    for kind in ("audio", "subtitle"):
        assert packets(out, kind) == packets(film, kind)
    with av.open(str(film)) as before, av.open(str(out)) as after:
        assert [stream.type for stream in after.streams] == [stream.type for stream in before.streams]
        assert after.metadata["title"] == "A film"
        assert after.streams.audio[0].language == "fra"
        assert after.streams.subtitles[0].language == "deu"
        font = next(stream for stream in after.streams if stream.type == "attachment")
        assert (font.name, font.mimetype, font.data) == ("font.ttf", "font/ttf", bytes(range(200)))
        seconds = [
            [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in container.chapters()]
            for container in (before, after)
        ]
        assert seconds[0] == seconds[1] == [(0, Fraction(2, 5)), (Fraction(2, 5), Fraction(4, 5))]
    assert not caplog.records


def test_what_a_container_cannot_hold_is_left_out_aloud(film: Path, tmp_path: Path, caplog) -> None:
    upscale(film, tmp_path / "out.mp4")
    assert [bytes_ for bytes_, *_ in packets(tmp_path / "out.mp4", "audio")] == [
        bytes_ for bytes_, *_ in packets(film, "audio")
    ]
    told = [record.message for record in caplog.records]
    assert len(told) == 2
    assert any("subtitle stream" in line and "left out" in line for line in told)
    assert any("attachment stream" in line and "left out" in line for line in told)


def test_timed_text_of_an_mp4_is_copied(make_video, tmp_path: Path) -> None:
    video, path = make_video("video.mp4"), tmp_path / "text.mp4"
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0], opaque=True)
        text = target.add_mux_stream("mov_text", time_base=Fraction(1, 1000))
        for index, words in enumerate([b"one", b"two"]):
            packet = av.Packet(len(words).to_bytes(2, "big") + words)
            packet.stream, packet.time_base = text, Fraction(1, 1000)
            packet.pts = packet.dts = 100 * index
            packet.duration = 100
            target.mux(packet)
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    upscale(path, tmp_path / "out.mp4")

    def said(where: Path) -> list[tuple[bytes, Fraction, Fraction]]:
        # The muxer marks the end of each text with an empty one of its own.
        return [packet for packet in packets(where, "subtitle") if packet[0] != b"\x00\x00"]

    assert [words for words, *_ in said(path)] == [b"\x00\x03one", b"\x00\x03two"]
    assert said(tmp_path / "out.mp4") == said(path)


@pytest.mark.parametrize("count", [1, 6])
def test_a_cut_ends_with_its_last_frame(film: Path, tmp_path: Path, count: int) -> None:
    """Frames of 40 ms: of 20 of them, 6 end at 0.24 s and 10 would reach into both texts and chapters."""
    clip, out, end = VideoReader(film), tmp_path / "out.mkv", Fraction(40 * count, 1000)
    with open_sink(out, clip, 96, 128, cut=True) as sink:
        for frame in islice(clip, count):
            sink.write(twice(frame.rgb), frame)
    sound = packets(film, "audio")
    # A packet of sound that has begun is kept whole: less than 1024 samples too long.
    assert packets(out, "audio") == [packet for packet in sound if packet[1] < end]
    assert 0 < len(packets(out, "audio")) < len(sound) == 20 + 1
    assert packets(out, "subtitle") == [(b"Guten Tag", 0, min(end, Fraction(1, 4)))]
    with av.open(str(out)) as container:
        assert [(c["start"], c["end"] * c["time_base"]) for c in container.chapters()] == [(0, end)]
        # Matroska has no times below zero: all are moved by the packet that AAC starts with.
        assert container.duration / 1e6 < end + 2 * Fraction(1024, 48000) + Fraction(1, 1000)
        assert any(stream.type == "attachment" for stream in container.streams)


def test_a_cut_reaches_into_what_follows(film: Path, tmp_path: Path) -> None:
    clip, out = VideoReader(film), tmp_path / "out.mkv"
    with open_sink(out, clip, 96, 128, cut=True) as sink:
        for frame in islice(clip, 12):
            sink.write(twice(frame.rgb), frame)
    assert packets(out, "subtitle") == [
        (b"Guten Tag", 0, Fraction(1, 4)),
        (b"Auf Wiedersehen", Fraction(3, 10), Fraction(18, 100)),
    ]
    with av.open(str(out)) as container:
        ends = [c["end"] * c["time_base"] for c in container.chapters()]
    assert ends == [Fraction(2, 5), Fraction(48, 100)]


def test_a_cut_mp4_has_its_sound_and_chapters_cut(make_video, tmp_path: Path) -> None:
    plain, source = make_video("plain.mp4", audio=True), tmp_path / "clip.mp4"
    with av.open(str(plain)) as before, av.open(str(source), "w") as after:
        after.set_chapters(
            [
                {
                    "id": n,
                    "start": 100 * n,
                    "end": 100 * n + 100,
                    "time_base": Fraction(1, 1000),
                    "metadata": {},
                }
                for n in range(3)
            ]
        )
        copies = {stream: after.add_stream_from_template(stream, opaque=True) for stream in before.streams}
        for packet in before.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream]
                after.mux(packet)
    clip, out = VideoReader(source), tmp_path / "out.mp4"
    with open_sink(out, clip, 96, 128, cut=True) as sink:
        for frame in islice(clip, 4):
            sink.write(twice(frame.rgb), frame)
    end = Fraction(4, 25)
    assert packets(out, "audio") == [packet for packet in packets(source, "audio") if packet[1] < end]
    with av.open(str(out)) as container:
        found = [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in container.chapters()]
    assert found == [(0, Fraction(1, 10)), (Fraction(1, 10), end)]


# --- colour

# Kr and Kb of H.273, table 4.
MATRICES = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def ycbcr(rgb: np.ndarray, matrix: int, full: bool) -> np.ndarray:
    """H.273's equations for 8 bits, not rounded."""
    kr, kb = MATRICES[matrix]
    r, g, b = np.moveaxis(rgb / 255, -1, 0)
    y = kr * r + (1 - kr - kb) * g + kb * b
    chroma = [(b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))]
    if full:
        return np.stack([255 * y, *(128 + 255 * c for c in chroma)], axis=-1)
    return np.stack([16 + 219 * y, *(128 + 224 * c for c in chroma)], axis=-1)


def colours() -> np.ndarray:
    """Every corner and many insides of the RGB cube: uint8 [64, 64, 3]."""
    levels = np.linspace(0, 255, 16).astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full", [False, True])
def test_colour_by_the_tag(tmp_path: Path, matrix: int, full: bool) -> None:
    rgb, path = colours(), tmp_path / "out.mkv"
    color = Color(matrix, full)
    write_still(path, rgb, Facts(color), pixel_format="yuv444p", options={"qp": "0"})
    clip = VideoReader(path)
    assert clip.color == color
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(channel_last=True)
    # Rounding is half a level, swscale's fixed point less than another.
    exact = ycbcr(rgb, matrix, full)
    assert np.abs(stored - np.clip(exact, 0, 255)).max() <= 1.5
    # Such an error of e levels in luma and chroma is at most e * (255/219 + 255/224 * 2 (1 - Kb)) in blue.
    kr, kb = MATRICES[matrix]
    luma, chroma = (1, 1) if full else (255 / 219, 255 / 224)
    bound = 1.5 * (luma + chroma * 2 * (1 - min(kr, kb))) + 1.5
    difference = np.abs(next(iter(clip)).rgb.astype(int) - rgb)
    assert difference.max() <= bound
    assert difference.mean() < 1
    # The bound means something: any other matrix is farther off.
    for other in set(MATRICES) - {matrix}:
        assert np.abs(ycbcr(rgb, other, full) - exact).max() > 2 * 1.5


@pytest.mark.parametrize(
    ("source", "size", "expected"),
    [
        (None, (480, 640), Color(6)),
        (None, (720, 960), Color(1)),
        (Color(6, tagged=False), (1920, 2880), Color(1)),
        (Color(6, full=True, tagged=False), (480, 1280), Color(1, full=True)),
        (
            Color(6, full=True, primaries=6, transfer=6),
            (1920, 2880),
            Color(6, full=True, primaries=6, transfer=6),
        ),
        (Color(9, primaries=9, transfer=16), (480, 640), Color(9, primaries=9, transfer=16)),
    ],
)
def test_which_matrix_is_written(source: Color | None, size: tuple[int, int], expected: Color) -> None:
    assert output_color(source, *size) == expected


def test_an_untagged_small_video_becomes_a_tagged_large_one_of_the_same_colours(tmp_path: Path) -> None:
    """BT.601 by its size in, BT.709 by its size out: flat colours come through, whatever the matrix."""
    small = tmp_path / "small.mp4"
    with av.open(str(small), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = 180, 16, "yuv444p"
        flat = np.empty((180, 16, 3), np.uint8)
        flat[:] = np.rint(ycbcr(np.array([200, 60, 30]), 6, False))
        frame = av.VideoFrame.from_ndarray(flat, format="yuv444p", channel_last=True)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = VideoReader(small)
    assert clip.color == Color(6, tagged=False)
    large = tmp_path / "large.mp4"
    with VideoWriter(large, clip, 720, 64, options={"qp": "0"}) as writer:
        for frame in clip:
            writer.write(np.repeat(np.repeat(frame.rgb, 4, axis=0), 4, axis=1), frame)
    result = VideoReader(large)
    assert result.color == Color(1)
    # Two conversions there and back, each within the bound of the test above (about 6).
    assert np.abs(next(iter(result)).rgb.astype(int) - [200, 60, 30]).max() <= 6
    with av.open(str(large)) as container:
        planes = next(container.decode(video=0)).to_ndarray(format="yuv444p", channel_last=True)
    assert np.abs(planes[300, 30] - ycbcr(np.array([200, 60, 30]), 1, False)).max() <= 4


def test_lossless_is_lossless(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (31, 45, 3), dtype=np.uint8)
    write_still(tmp_path / "out.mkv", rgb, Facts(), codec="ffv1")
    for frame in VideoReader(tmp_path / "out.mkv"):
        np.testing.assert_array_equal(frame.rgb, rgb)


# --- what can't be written


def test_odd_sides_are_written_without_subsampling(tmp_path: Path, caplog) -> None:
    rgb = colours()[:33, :35]
    write_still(tmp_path / "out.mp4", rgb, Facts())
    clip = VideoReader(tmp_path / "out.mp4")
    assert (clip.height, clip.width) == (33, 35)
    assert "yuv444p" in caplog.text
    with pytest.raises(BadInputError, match="needs even sides"):
        write_still(tmp_path / "no.mp4", rgb, Facts(), pixel_format="yuv420p")


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("out.mp4", {"codec": "libx266"}, "no encoder 'libx266'"),
        ("out.webm", {}, "can't put libx264 video into"),
        ("out.avi", {}, "can't hold the times of frames"),
        ("out.jpg", {}, "can't hold the times of frames|can't put"),
        ("out.nonsense", {}, "no video container"),
        ("missing/out.mp4", {}, "there is no folder"),
        ("out.mp4", {"codec": "aac"}, "--codec aac: that encodes audio, not video"),
        ("out.mp4", {"pixel_format": "nope"}, "--pixel-format nope: FFmpeg knows no such format"),
        ("out.mp4", {"pixel_format": "pal8"}, "--pixel-format pal8: libx264 takes yuv420p, "),
        ("out.mp4", {"crf": 52}, r"--crf 52: libx264 takes 0 \(best\) to 51"),
        ("out.mkv", {"codec": "libsvtav1", "crf": -1}, r"--crf -1: libsvtav1 takes 0 \(best\) to 63"),
        (
            "out.mp4",
            {"options": {"profile": "nonsense"}},
            "--codec libx264 doesn't start with --set profile=nonsense: invalid profile: nonsense",
        ),
        (
            "out.mkv",
            {"codec": "libsvtav1", "options": {"preset": "slow"}},
            "--codec libsvtav1 doesn't start with --set preset=slow: Invalid argument",
        ),
        ("out.mp4", {"options": {"prefix": "slow"}}, "--set prefix=slow: libx264 has no such option"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, name: str, options: dict[str, object], reason: str) -> None:
    with pytest.raises(BadInputError, match=reason) as caught:
        write_still(tmp_path / name, np.zeros((16, 16, 3), np.uint8), Facts(), **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("out.mp4", {"codec": "libx266"}),
        ("out.avi", {}),
        ("out.nonsense", {}),
        ("out.png", {}),
        ("missing/out.mp4", {}),
        ("missing/out", {}),
        ("taken.mp4", {}),
        ("taken", {}),
        ("out.mp4", {"pixel_format": "nope"}),
        ("out.mp4", {"crf": 9999}),
    ],
)
def test_what_can_be_refused_before_is(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    """`check_sink` says what `open_sink` would, and neither leaves anything."""
    (tmp_path / "taken.mp4").write_bytes(b"mine")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "0.png").write_bytes(b"mine")
    before = sorted(tmp_path.rglob("*"))
    said = []
    for ask in (check_sink, open_sink):
        with pytest.raises(BadInputError) as caught:
            ask(tmp_path / name, Facts(), 16, 16, **options)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["out.mp4", "out", "taken.mp4"])
def test_what_can_be_written_passes_and_nothing_is_made(tmp_path: Path, name: str) -> None:
    (tmp_path / "taken.mp4").write_bytes(b"mine")
    check_sink(tmp_path / name, Facts(), 16, 16, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.mp4"]


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_frames_are_decoded_when_they_are_there(
    count: int, codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libx265 takes a short clip's times of decoding from memory that it never wrote."""
    written: list[tuple[int, int]] = []
    mux = VideoWriter._mux

    def noted(self: VideoWriter, packets: list[av.Packet]) -> None:
        written.extend((packet.dts, packet.pts) for packet in packets)
        mux(self, packets)

    monkeypatch.setattr(VideoWriter, "_mux", noted)
    write_still(tmp_path / "out.mp4", colours(), Facts(), count, codec=codec)
    decoded, shown = zip(*written, strict=True)
    assert list(decoded) == sorted(set(decoded))
    assert all(-count <= early <= late for early, late in written)
    assert sorted(shown) == list(range(count))


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_encoders_say_nothing_on_stderr(codec: str, tmp_path: Path, capfd) -> None:
    write_still(tmp_path / "out.mkv", colours(), Facts(), codec=codec)
    assert capfd.readouterr() == ("", "")
    assert len(list(VideoReader(tmp_path / "out.mkv"))) == 2


def test_two_writers_of_one_name_keep_apart(tmp_path: Path) -> None:
    rgb = colours()
    with (
        VideoWriter(tmp_path / "out.mp4", Facts(), 64, 64) as first,
        VideoWriter(tmp_path / "out.mp4", Facts(), 64, 64) as second,
    ):
        for writer, count in ((first, 3), (second, 2)):
            for index in range(count):
                writer.write(rgb, ClipFrame(rgb, index, index, Fraction(1, 25), 1))
    # The second is done first, so that the first has the last word.
    assert len(list(VideoReader(tmp_path / "out.mp4"))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    rgb = np.zeros((16, 16, 3), np.uint8)
    with (
        pytest.raises(BadInputError, match="takes uint8 frames of 16x32"),
        VideoWriter(tmp_path / "out.mp4", Facts(), 32, 16) as writer,
    ):
        writer.write(rgb, ClipFrame(rgb, 0, 0, Fraction(1, 25)))
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_the_user_is_overwritten_unasked(make_video, tmp_path: Path) -> None:
    source = make_video("clip.mp4")
    target = tmp_path / "out.mp4"
    target.write_bytes(b"mine")
    with pytest.raises(BadInputError, match="exists"):
        upscale(source, target)
    with pytest.raises(BadInputError, match="is the source"):
        upscale(source, source, overwrite=True)
    with pytest.raises(ZeroDivisionError), VideoWriter(target, VideoReader(source), 96, 128, overwrite=True):
        _ = 1 // 0
    assert target.read_bytes() == b"mine"
    assert len(list(upscale(source, target, overwrite=True))) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]


# --- what is left of a failure


@pytest.mark.parametrize("frames", [0, 1, 5])
def test_ctrl_c_leaves_nothing(make_video, tmp_path: Path, frames: int) -> None:
    source = make_video("clip.mp4", audio=True)
    clip = VideoReader(source)
    seen = []

    def run() -> None:
        with VideoWriter(tmp_path / "out.mp4", clip, 96, 128, options={"tune": "zerolatency"}) as writer:
            seen.extend(path.name for path in tmp_path.iterdir())
            for frame in clip:
                if frame.index == frames:
                    signal.raise_signal(signal.SIGINT)
                writer.write(twice(frame.rgb), frame)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert any(name.startswith(".out.mp4.partial-") for name in seen)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


FULL_DISK = """
    import resource, sys
    from fractions import Fraction
    from pathlib import Path
    import numpy as np
    from superlower.errors import BadInputError
    from superlower.media.base import ClipFrame
    from superlower.media.clip import open_clip, open_sink

    # A limit on the size of files stands in for a full disk: the write fails with EFBIG in place of ENOSPC.
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    clip = open_clip(sys.argv[1])
    noise = np.random.default_rng(0)
    try:
        with open_sink(sys.argv[2], clip, 256, 256, crf=1) as sink:
            for index in range(40):
                rgb = noise.integers(0, 256, (256, 256, 3), dtype=np.uint8)
                sink.write(rgb, ClipFrame(rgb, index, index * 512, clip.time_base, 512))
    except BadInputError as error:
        sys.exit(str(error))
"""


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv"])
def test_a_full_disk_is_told_and_leaves_nothing(make_video, tmp_path: Path, target: str) -> None:
    source = make_video("clip.mp4", audio=True)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), source, tmp_path / target],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(f"disk full while writing {tmp_path / target}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_no_space_left_is_told_as_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full answers every write with ENOSPC, as a disk would."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "0")
    (tmp_path / ".out.mkv.partial-0").symlink_to("/dev/full")
    with pytest.raises(BadInputError, match=r"disk full while writing .*out\.mkv: No space left on device"):
        write_still(tmp_path / "out.mkv", colours(), Facts())
    assert list(tmp_path.iterdir()) == []
