from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from superlower.backends.base import BuildOptions
from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.check.reference import reference_outputs
from superlower.driver.building import Job
from superlower.driver.chunking import LOOK_AHEAD, plan_chunks
from superlower.driver.compile import compile_bundle
from superlower.driver.export import golden_for
from superlower.driver.upscale import plan, upscale
from superlower.errors import BadInputError, OutputsDifferError
from superlower.media.clip import open_clip
from superlower.media.tensors import from_tensor, to_tensor
from superlower.program import analysis
from superlower.program.interpret import interpret
from superlower.program.model import TemporalModel
from superlower.runtime.load import open_runner
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.basicvsr import basicvsr_program
from support.clips import picture, pngs, save_folder, save_video, seconds, sizes
from support.models import bidirectional, luma_upscaler, recurrent, window

MakeBundle = Callable[[TemporalModel], Bundle]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    def make(model: TemporalModel) -> Bundle:
        job = Job(backend("onnxruntime"), target("cpu"), Precision.FP32)
        golden = golden_for(model, None, None)
        output = tmp_path / f"{model.program.name}.bundle"
        return compile_bundle(model, [job], golden, output, options=BuildOptions(threads=1)).bundle

    return make


def expected(bundle: Bundle, clip: list[np.ndarray]) -> list[np.ndarray]:
    """What should be written, by the naive interpreter over the bundle's own engines."""
    program, variant = bundle.program, bundle.pick()
    inputs = [to_tensor(rgb, program.frame) for rgb in clip]
    sessions = bundle.load(variant)
    outputs = interpret(program, inputs, lambda graph, feeds: sessions[graph].run(feeds))
    return [from_tensor(o, program.frame, rgb) for o, rgb in zip(outputs, clip, strict=True)]


@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize("megabytes", [30, 50, 100])
def test_chunks_are_the_longest_that_fit(megabytes: int, in_flight: int) -> None:
    program, limit = basicvsr_program(), megabytes * 10**6

    def peak(frames: int) -> int:
        return analysis.peak_bytes(program, frames, 64, 64, in_flight)

    cut = plan_chunks(program, 500, limit, in_flight=in_flight)
    assert cut.chunk is not None
    assert cut.look_ahead == LOOK_AHEAD
    assert cut.predicted_bytes == peak(cut.chunk + LOOK_AHEAD) <= limit < peak(cut.chunk + LOOK_AHEAD + 1)
    assert plan_chunks(program, None, limit, in_flight=in_flight) == cut, "nor is an unknown length trusted"


def test_a_clip_that_fits_is_not_cut() -> None:
    program = basicvsr_program()
    whole = analysis.peak_bytes(program, 30, 64, 64)
    assert plan_chunks(program, 30, whole).chunk is None
    assert plan_chunks(program, 30, whole).predicted_bytes == whole
    assert plan_chunks(program, 30, whole - 1).chunk is not None
    assert plan_chunks(program, 30, whole, chunk=4, look_ahead=2).chunk == 4


@pytest.mark.parametrize("model", [window, recurrent])
def test_calls_in_flight_fill_a_chunk_of_bounded_latency(model: Callable[[], TemporalModel]) -> None:
    """The runner waits for all calls where a chunk ends."""
    program = model().program
    cuts = [plan_chunks(program, 100, 10**9, in_flight=calls) for calls in (1, 4)]
    assert [cut.chunk for cut in cuts] == [1, 4]
    assert cuts[0].predicted_bytes < cuts[1].predicted_bytes
    assert plan_chunks(program, 100, 10**9, in_flight=4, chunk=2).chunk == 2
    with pytest.raises(BadInputError, match=r"a chunk of 4 frames and .* --in-flight"):
        plan_chunks(program, 100, cuts[0].predicted_bytes, in_flight=4)


@pytest.mark.parametrize("program", [basicvsr_program(), window().program, recurrent().program])
def test_too_little_memory_is_refused(program) -> None:
    with pytest.raises(BadInputError, match=r"a chunk of one frame and \d+ of look-ahead takes .* GB"):
        plan_chunks(program, 100, 1000)


def test_a_chunk_of_the_users_own_must_fit_too() -> None:
    with pytest.raises(
        BadInputError, match=r"a chunk of 90 frames and 15 of look-ahead takes .* --max-memory"
    ):
        plan_chunks(basicvsr_program(), 100, 40 * 10**6, chunk=90)


@pytest.mark.parametrize("model", [window, recurrent])
def test_bounded_latency_is_exact_whatever_the_chunks(
    model: Callable[[], TemporalModel], make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle(model())
    clip = [picture(t, 16, 16) for t in range(7)]
    source = save_folder(tmp_path / "in", 7)
    wanted = expected(bundle, clip)
    for chunk in (None, 1, 3, 7, 20):
        output = tmp_path / f"out{chunk}"
        done = upscale(bundle, bundle.pick(), source, output, chunk=chunk)
        assert done.frames == 7
        assert done.peak_bytes <= done.chunking.predicted_bytes
        assert [p.name for p in sorted(output.iterdir())] == [f"f{t}.png" for t in range(7)]
        assert all(map(np.array_equal, pngs(output), wanted))


def test_a_backward_sweep_is_exact_in_one_go_and_near_it_in_chunks(
    make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle(bidirectional())
    source = save_folder(tmp_path / "in", 9)
    wanted = expected(bundle, [picture(t, 16, 16) for t in range(9)])
    whole = upscale(bundle, bundle.pick(), source, tmp_path / "whole")
    assert whole.chunking.chunk is None
    assert whole.peak_bytes <= whole.chunking.predicted_bytes
    assert all(map(np.array_equal, pngs(tmp_path / "whole"), wanted))
    errors = []
    for ahead in (0, 2, 8):
        output = tmp_path / f"chunks{ahead}"
        cut = upscale(bundle, bundle.pick(), source, output, chunk=2, look_ahead=ahead)
        assert cut.peak_bytes <= cut.chunking.predicted_bytes
        found = pngs(output)
        errors.append(max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(found, wanted, strict=True)))
    # Looking ahead to the clip's end is the whole clip.
    assert errors[0] >= errors[1] >= errors[2] == 0
    assert errors[0] > 0


def test_memory_keeps_to_its_bound(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(bidirectional())
    source = save_folder(tmp_path / "in", 40)
    limit = analysis.peak_bytes(bundle.program, 24, 16, 16)
    done = upscale(bundle, bundle.pick(), source, tmp_path / "out", max_bytes=limit)
    assert done.chunking.chunk is not None
    assert done.peak_bytes <= done.chunking.predicted_bytes <= limit
    assert len(pngs(tmp_path / "out")) == 40


class Counted(Bundle):
    """A bundle whose sessions note how many of their calls wait at once."""

    most = 0

    def load(self, variant):
        return {name: self.counting(session) for name, session in super().load(variant).items()}

    def counting(self, session):
        waiting: set[Future] = set()
        submit = session.submit

        def note(feeds):
            waiting.difference_update([future for future in waiting if future.done()])
            future: Future = Future()
            waiting.add(future)
            Counted.most = max(Counted.most, len(waiting))
            # Done when asked for, as slow as an engine can be.
            real = submit(feeds)
            future.result = lambda timeout=None: (future.cancel(), real.result(timeout))[1]
            return future

        session.submit = note
        return session


def test_calls_of_a_stream_are_in_flight_together(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(window())
    source = save_folder(tmp_path / "in", 8)
    monkeypatch.setattr(Counted, "most", 0)
    counted = Counted(bundle.folder, bundle.manifest)
    done = upscale(counted, bundle.pick(), source, tmp_path / "out", in_flight=3)
    assert Counted.most == 3
    assert done.peak_bytes <= done.chunking.predicted_bytes
    wanted = expected(bundle, [picture(t, 16, 16) for t in range(8)])
    assert all(map(np.array_equal, pngs(tmp_path / "out"), wanted))


@pytest.mark.parametrize("model", [window, recurrent, bidirectional])
@pytest.mark.parametrize("in_flight", [2, 3, 7])
def test_memory_of_calls_in_flight_is_foreseen(
    model: Callable[[], TemporalModel], in_flight: int, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle(model())
    source = save_folder(tmp_path / "in", 30)
    done = upscale(bundle, bundle.pick(), source, tmp_path / "out", in_flight=in_flight)
    assert done.peak_bytes <= done.chunking.predicted_bytes


def test_several_calls_at_once_change_nothing(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(bidirectional())
    source = save_folder(tmp_path / "in", 6)
    done = upscale(bundle, bundle.pick(), source, tmp_path / "out", in_flight=3)
    assert done.peak_bytes <= done.chunking.predicted_bytes
    wanted = expected(bundle, [picture(t, 16, 16) for t in range(6)])
    assert all(map(np.array_equal, pngs(tmp_path / "out"), wanted))


def test_a_video_keeps_its_frames_and_their_times(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(window())
    source = save_video(tmp_path / "in.mp4", 11)
    done = upscale(bundle, bundle.pick(), source, tmp_path / "out.mp4")
    assert done.frames == 11
    times = seconds(source)
    assert len({b - a for a, b in pairwise(times)}) == 2, "the clip is irregular"
    assert seconds(tmp_path / "out.mp4") == times
    assert sizes(tmp_path / "out.mp4") == {(32, 32)}


def test_a_limit_of_frames(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(window())
    source = save_video(tmp_path / "in.mp4", 9)
    upscale(bundle, bundle.pick(), source, tmp_path / "out.mp4", limit=4)
    assert seconds(tmp_path / "out.mp4") == seconds(source)[:4]
    # The fourth frame is the clip's last: its neighbour is its own replica, not the fifth.
    upscale(bundle, bundle.pick(), save_folder(tmp_path / "pngs", 9), tmp_path / "out", limit=4)
    wanted = expected(bundle, [picture(t, 16, 16) for t in range(4)])
    assert all(map(np.array_equal, pngs(tmp_path / "out"), wanted))


def test_a_limit_ends_the_sound_too(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """A whole run copies every packet, one of 4 frames those that begin before its end at 0.1 s."""
    bundle, source = make_bundle(window()), save_video(tmp_path / "in.mkv", 9, sound=50)

    def sound(path: Path) -> list[tuple[Fraction, bytes]]:
        with av.open(str(path)) as container:
            return [
                (packet.pts * packet.time_base, bytes(packet))
                for packet in container.demux(audio=0)
                if packet.dts is not None
            ]

    for limit, name in ((None, "whole.mkv"), (4, "cut.mkv")):
        upscale(bundle, bundle.pick(), source, tmp_path / name, limit=limit)
    assert len(sound(source)) == 50
    assert sound(tmp_path / "whole.mkv") == sound(source)
    assert sound(tmp_path / "cut.mkv") == sound(source)[:5]


def test_padding_is_cropped_from_the_output(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """A 13x18 frame goes in padded to 16x20 and comes out as 26x36, as if computed on the padded picture."""
    bundle = make_bundle(window(13, 18, multiple=4))
    source = save_folder(tmp_path / "in", 3, 13, 18)
    upscale(bundle, bundle.pick(), source, tmp_path / "out")
    found = pngs(tmp_path / "out")
    assert {f.shape for f in found} == {(26, 36, 3)}
    padded = [np.pad(picture(t, 13, 18), ((0, 3), (0, 2), (0, 0)), mode="edge") for t in range(3)]
    tensors = [(p.transpose(2, 0, 1)[None] / 255).astype(np.float32) for p in padded]
    with open_runner(bundle, bundle.pick()) as runner:
        outputs = list(runner.run(tensors, total=3))
    for image, output in zip(found, outputs, strict=True):
        wanted = np.rint(np.clip(output[0, :, :26, :36], 0, 1).transpose(1, 2, 0) * 255)
        assert np.array_equal(image, wanted)


def test_another_size_says_what_to_do(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(window())
    source = save_video(tmp_path / "in.mp4", 3, 12, 32)
    message = r"is 12x32 \(HxW\), the bundle upscales 16x16: export and compile with --size 12x32"
    with pytest.raises(BadInputError, match=message):
        upscale(bundle, bundle.pick(), source, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_an_output_that_is_no_number_writes_nothing(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(recurrent())
    source = save_folder(tmp_path / "in", 3)

    class Broken:
        """A session whose third output isn't a number."""

        calls = 0

        def __init__(self, real) -> None:
            self.real = real

        def run(self, feeds):
            outputs = self.real.run(feeds)
            Broken.calls += 1
            if Broken.calls == 3:
                outputs["picture"][0, 0, 5, 5] = np.nan
            return outputs

        def reset(self) -> None: ...

        def close(self) -> None:
            self.real.close()

    class Faulty(Bundle):
        def load(self, variant):
            return {name: Broken(session) for name, session in super().load(variant).items()}

    faulty = Faulty(bundle.folder, bundle.manifest)
    with pytest.raises(OutputsDifferError, match="NaN or infinity"):
        upscale(faulty, bundle.pick(), source, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "recurrent.bundle"]


@pytest.mark.parametrize("output", ["out", "out.mp4"])
def test_the_output_is_checked_before_engines_are_loaded(
    output: str, make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(window())
    source = save_folder(tmp_path / "in", 2)
    (tmp_path / output).mkdir() if output == "out" else (tmp_path / output).write_text("precious")
    if output == "out":
        (tmp_path / output / "f0.png").write_text("precious")
    loaded = []
    monkeypatch.setattr(Bundle, "load", lambda *_: loaded.append(1))
    for run in (
        lambda: upscale(bundle, bundle.pick(), source, tmp_path / output),
        lambda: plan(bundle, bundle.pick(), source, tmp_path / output),
    ):
        with pytest.raises(BadInputError, match=r"exists|isn't empty"):
            run()
    assert loaded == []


def test_a_plan_is_what_is_then_done(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(bidirectional())
    source = save_folder(tmp_path / "in", 6)
    before = sorted(tmp_path.rglob("*"))
    planned = plan(bundle, bundle.pick(), source, tmp_path / "out", limit=5, chunk=2)
    assert sorted(tmp_path.rglob("*")) == before
    assert upscale(bundle, bundle.pick(), source, tmp_path / "out", limit=5, chunk=2).chunking == planned
    with pytest.raises(BadInputError, match="the bundle upscales 16x16"):
        plan(bundle, bundle.pick(), save_folder(tmp_path / "small", 1, 12, 24), tmp_path / "more")


def deep_folder(folder: Path) -> Path:
    """Two frames of 16 bits a colour, of the values of 8."""
    source = save_folder(folder, 2)
    for index, file in enumerate(sorted(source.iterdir())):
        codec = av.CodecContext.create("png", "w")
        codec.height, codec.width, codec.pix_fmt, codec.time_base = 16, 16, "rgb48be", 1
        deep = picture(index, 16, 16).astype(np.uint16) * 257
        frame = av.VideoFrame.from_ndarray(deep, format="rgb48le").reformat(format="rgb48be")
        file.write_bytes(b"".join(bytes(p) for p in [*codec.encode(frame), *codec.encode(None)]))
    return source


def test_sixteen_bits_go_into_a_video_as_eight(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(window())
    for name, source in (
        ("deep", deep_folder(tmp_path / "deep")),
        ("plain", save_folder(tmp_path / "plain", 2)),
    ):
        upscale(bundle, bundle.pick(), source, tmp_path / f"{name}.mkv", codec="ffv1")
    deep, plain = (list(open_clip(tmp_path / f"{name}.mkv")) for name in ("deep", "plain"))
    assert len(deep) == 2
    assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(deep, plain, strict=True))


def test_sixteen_bits_stay_sixteen(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(window())
    source = deep_folder(tmp_path / "in")
    upscale(bundle, bundle.pick(), source, tmp_path / "out")
    found = pngs(tmp_path / "out")
    assert {f.dtype for f in found} == {np.dtype(np.uint16)}
    wanted = expected(bundle, [picture(t, 16, 16) for t in range(2)])
    for image, eight in zip(found, wanted, strict=True):
        assert np.abs(image / 257 - eight).max() <= 0.5 + 1 / 257
    with Image.open(sorted((tmp_path / "out").iterdir())[0]) as file:
        assert file.size == (32, 32)


@pytest.mark.parametrize(("make", "overlap"), [(window, 3), (luma_upscaler, 2)])
def test_a_larger_clip_is_upscaled_in_tiles_without_seams(
    make: Callable[[int, int], TemporalModel], overlap: int, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """The overlap is the reach of what is bounded, so tiles are the frame in one piece, in every pixel."""
    bundle, whole = make_bundle(make(16, 16)), make(26, 37)
    clip = [picture(t, 26, 37) for t in range(5)]
    source = save_folder(tmp_path / "in", 5, height=26, width=37)
    feeds = [to_tensor(rgb, whole.program.frame) for rgb in clip]
    wanted = [
        from_tensor(o, whole.program.frame, rgb)
        for o, rgb in zip(reference_outputs(whole, feeds), clip, strict=True)
    ]
    done = upscale(bundle, bundle.pick(), source, tmp_path / "out")
    assert done.frames == 5
    assert done.chunking.tile_overlap == overlap
    assert done.chunking.tiles > 1
    assert done.peak_bytes <= done.chunking.predicted_bytes
    for found, want in zip(pngs(tmp_path / "out"), wanted, strict=True):
        # Rounding to a level of 255 may go either way where sums are added in another order.
        assert np.abs(found.astype(int) - want).max() <= 1
        assert np.mean(found != want) < 0.01


@pytest.mark.parametrize("chunk", [None, 3])
def test_tiles_of_a_model_with_states_are_the_programs_runs_over_the_crops(
    chunk: int | None, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle(bidirectional())
    clip = [picture(t, 16, 28) for t in range(7)]
    source = save_folder(tmp_path / "in", 7, width=28)
    done = upscale(bundle, bundle.pick(), source, tmp_path / "out", tile_overlap=2, chunk=chunk, look_ahead=9)
    assert (done.chunking.tiles, done.chunking.tile_overlap) == (2, 2)
    assert done.chunking.tile_pixels == 32 / 28
    assert done.peak_bytes <= done.chunking.predicted_bytes
    halves = slice(0, 16), slice(12, 28)
    left, right = (expected(bundle, [rgb[:, half] for rgb in clip]) for half in halves)
    for found, a, b in zip(pngs(tmp_path / "out"), left, right, strict=True):
        assert np.array_equal(found, np.concatenate([a[:, :28], b[:, 4:]], axis=1))


def test_more_overlap_leaves_less_of_a_seam(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle, whole = make_bundle(recurrent()), recurrent(16, 32)
    clip = [picture(t, 16, 32) for t in range(6)]
    source = save_folder(tmp_path / "in", 6, width=32)
    wanted = reference_outputs(whole, [to_tensor(rgb, whole.program.frame) for rgb in clip])
    frames = [from_tensor(o, whole.program.frame, rgb) for o, rgb in zip(wanted, clip, strict=True)]
    errors = []
    for overlap in (0, 2, 6):
        output = tmp_path / f"out{overlap}"
        upscale(bundle, bundle.pick(), source, output, tile_overlap=overlap)
        errors.append(
            np.mean([(a.astype(float) - b) ** 2 for a, b in zip(pngs(output), frames, strict=True)])
        )
    assert errors[0] > errors[1] > errors[2]


def test_tiles_that_an_overlap_uses_up_are_refused(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(recurrent())
    source = save_folder(tmp_path / "in", 2, width=40)
    with pytest.raises(BadInputError, match=r"tiles of 16 pixels keep nothing of 32 .* --tile-overlap"):
        upscale(bundle, bundle.pick(), source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
