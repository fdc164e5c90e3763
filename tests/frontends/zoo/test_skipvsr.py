"""SkipVSR: what it skips and what not, its export against the network, its own weights, refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch

from superlower.errors import BadInputError
from superlower.frontends.base import ZooFrontend
from superlower.frontends.fetch import file_sha256
from superlower.frontends.zoo import skipvsr
from superlower.frontends.zoo.basicvsr import BasicVsr
from superlower.frontends.zoo.basicvsr_torch import BasicVsrNet
from superlower.frontends.zoo.checkpoint import seed_parameters
from superlower.frontends.zoo.skipvsr import SkipVsr
from superlower.frontends.zoo.skipvsr_torch import EVIDENCE, Estimator, Patches, Rule, SkipVsrNet
from superlower.program import analysis, legality
from superlower.program.interpret import evaluate
from superlower.program.unroll import Element
from support.zoo import (
    PARITY,
    clip,
    keys_of,
    relative_error,
    request,
)

SMALL = {"blocks": "1"}
REACH = 3
"""Pixels that a trunk of one block sees around one: a convolution's one, and two of a block."""


MIDDLE = 4.0
"""Levels between what an unfitted estimator takes still, flat patches to be off by, and those of noise."""


def network(patches: Patches, threshold: float = 0.0, settle: int = 0) -> SkipVsrNet:
    found = SkipVsrNet(1, patches, Rule(threshold, settle))
    seed_parameters(found, 0)
    return found.eval()


def half_still(height: int, width: int, frames: int) -> list[np.ndarray]:
    """Noise on the right; on the left of it nothing, in every frame."""
    found = clip(height, width, frames)
    for frame in found:
        frame[..., : width // 2] = 0.5
    return found


def test_is_a_zoo_frontend() -> None:
    assert isinstance(SkipVsr(), ZooFrontend)


def test_all_but_the_skips_is_named_as_in_public_checkpoints(oracles: Path) -> None:
    with torch.device("meta"):
        state = SkipVsrNet(30, Patches(60, 64, 4), Rule(0.5, 2)).state_dict()
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    expected = keys_of(oracles, "basicvsr_nb30")
    assert {key: found.get(key) for key in expected} == expected
    assert all(key.startswith(("backward_skip.", "forward_skip.")) for key in found.keys() - expected)


def test_with_nothing_skipped_it_is_basicvsr() -> None:
    options = {**SMALL, "threshold": "0", "patch": "20", "halo": str(REACH)}
    frames = clip(40, 60, 4)
    found = SkipVsr().reference(request(40, 60, options=options))(frames)
    expected = BasicVsr().reference(request(40, 60, options={"blocks": "1"}))(frames)
    assert relative_error(np.concatenate(found), np.concatenate(expected)) < PARITY


@pytest.mark.parametrize(("halo", "exact"), [(REACH, True), (REACH - 1, False)])
def test_a_patch_is_as_of_the_whole_frame_where_the_halo_reaches(halo: int, exact: bool) -> None:
    made = network(Patches(8, 10, halo))
    given, skipped = torch.rand(1, 67, 32, 40), torch.rand(1, 64, 32, 40)
    choice = torch.zeros(1, 1, 4, 4, dtype=torch.int32)
    choice[0, 0, 0, 0] = choice[0, 0, 1, 2] = choice[0, 0, 3, 3] = 1
    with torch.no_grad():
        found = made._routed(made.forward_trunk, given, skipped, choice)
        whole = made.forward_trunk(given)
    chosen = choice.repeat_interleave(8, 2).repeat_interleave(10, 3).expand_as(whole) == 1
    assert torch.equal(found[~chosen], skipped[~chosen])
    error = float((found[chosen] - whole[chosen]).abs().max() / whole.std())
    assert (error < PARITY) is exact


def test_windows_of_as_many_pixels_as_the_frame_are_the_frame() -> None:
    """Two windows of 16x20 are a frame of 16x40: it is run, and patches between them still aren't taken."""
    made = network(Patches(8, 10, 5))
    given, skipped = torch.rand(1, 67, 16, 40), torch.rand(1, 64, 16, 40)
    choice = torch.zeros(1, 1, 2, 4, dtype=torch.int32)
    choice[0, 0, 0, 0] = choice[0, 0, 1, 3] = 1
    with torch.no_grad():
        found = made._routed(made.forward_trunk, given, skipped, choice)
        whole = made.forward_trunk(given)
    assert torch.equal(found[..., :8, :10], whole[..., :8, :10])
    assert torch.equal(found[..., 8:, 30:], whole[..., 8:, 30:])
    assert torch.equal(found[..., :8, 10:], skipped[..., :8, 10:])


@pytest.mark.parametrize("index", range(len(EVIDENCE)), ids=EVIDENCE)
def test_more_evidence_never_makes_a_patch_easier(index: int) -> None:
    for estimator in (Estimator(), *own_estimators()):
        less = torch.randn(1, len(EVIDENCE), 4, 4, generator=torch.Generator().manual_seed(0))
        more = less.clone()
        more[:, index] += 1
        assert bool((estimator(more) >= estimator(less)).all())


def test_evidence_is_of_its_patch() -> None:
    """A still and flat half, against one of noise: nothing changes there, and there is nothing to see."""
    frames = [torch.from_numpy(frame) for frame in half_still(32, 40, 2)]
    with torch.no_grad():
        change, peak, detail = Estimator().evidence(*frames, Patches(16, 10, 0))[0]
    assert change.shape == (2, 4)
    for evidence in (change, detail):
        assert float(evidence[:, 2:].min()) > float(evidence[:, :2].max()) + 5
    # Spots of 5x5 pixels in the still half reach into the noise by two.
    assert float(peak[:, 2:].min()) > float(peak[:, 0].max()) + 5
    # Two independent uniform values in 0..255 differ by 85 in the mean.
    assert float(2 ** change[:, 2:].mean()) == pytest.approx(85, rel=0.1)
    assert bool((peak[:, 2:] > change[:, 2:]).all())


def test_what_moves_in_a_corner_shows_in_the_peak() -> None:
    x, seen = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.5)
    x[..., 3:6, 3:6] = 1
    with torch.no_grad():
        change, peak, _ = 2 ** Estimator().evidence(x, seen, Patches(16, 16, 0))[0, :, 0, 0]
    assert float(change) == pytest.approx(127.5 * 9 / 256, rel=0.01)
    assert float(peak) == pytest.approx(127.5 * 9 / 25, rel=0.01)


def test_a_higher_threshold_skips_more() -> None:
    x, seen = (torch.from_numpy(frame) for frame in half_still(40, 60, 2))
    hidden, flow = torch.rand(1, 64, 40, 60), torch.zeros(1, 2, 40, 60)
    still = torch.full((1, 1, 4, 6), 5.0)
    run = []
    for threshold in (0.0, MIDDLE, 1e6):
        made = network(Patches(10, 10, 2), threshold, settle=5)
        with torch.no_grad():
            aligned, now, count, choice = made.skip_forward(x, hidden, flow, seen, still)
        # Positions up to 60 pixels, rounded a few times at 2^-24, between values that differ by up to 1.
        assert float((aligned - hidden).abs().max()) < 1e-4
        assert (choice.dtype, choice.shape) == (torch.int32, (1, 1, 4, 6))
        ran = choice.repeat_interleave(10, 2).repeat_interleave(10, 3).expand_as(x) == 1
        assert torch.equal(now, torch.where(ran, x, seen))
        assert torch.equal(count, torch.where(choice == 1, 0.0, 6.0))
        run.append(int(choice.sum()))
    assert run == [24, 12, 0]


def test_a_patch_is_run_until_it_has_settled_and_again_when_it_has_drifted() -> None:
    """A still frame, then one that brightens a little from frame to frame."""
    patches, settle = Patches(16, 16, 0), 2
    made = network(patches, 1.0, settle)
    zeros = torch.zeros(1, 64, 16, 16), torch.zeros(1, 2, 16, 16)
    seen, still = torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 1, 1)
    # By the change alone, in levels.
    made.forward_skip.weight.copy_(torch.tensor([1.0, 0.0, 0.0]))
    levels = [100.0] * 6 + [100.4, 100.8, 101.2, 101.2, 101.2, 101.2]
    chosen = []
    with torch.no_grad():
        for level in levels:
            x = torch.full((1, 3, 16, 16), level / 255)
            _, seen, still, choice = made.skip_forward(x, *zeros, seen, still)
            chosen.append(int(choice))
    # The first frame is far from nothing, two more settle it. At last it is 1.2 levels from what was seen.
    assert chosen == [1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0]


def test_program_equals_the_network_whether_windows_run_or_the_whole_frame(caller) -> None:
    """A fourth of the frame moves, which windows make, then all of it, which the whole frame's form does."""
    options = {**SMALL, "threshold": str(MIDDLE), "settle": "1", "patch": "10", "halo": str(REACH)}
    asked = request(40, 60, options=options)
    model = SkipVsr().export(asked)
    legality.verify(model.program)
    legality.verify_graphs(model)
    facts = analysis.analyze(model.program)
    assert facts.latency is None
    states = {name for name, stream in facts.streams.items() if stream.state}
    assert states == {f"{name}{d}" for name in ("h", "seen_", "still_") for d in "bf"}

    still = np.full((1, 3, 40, 60), 0.5, np.float32)
    frames = [still.copy() for _ in range(3)] + clip(40, 60, 1)
    frames[1][..., :20, 30:] = clip(20, 30, 1)[0]
    calls: Counter[str] = Counter()
    run = caller(model)

    def counted(name: str, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        calls[name] += 1
        return run(name, feeds)

    known = evaluate(model.program, frames, counted)
    found = np.concatenate([known[Element("output", t)] for t in range(4)])
    assert relative_error(found, np.concatenate(SkipVsr().reference(asked)(frames))) < PARITY
    # Sweeps begin with all 24 patches. Six move in frame 1, windows of 6 * 16^2 pixels in a frame of 40 * 60,
    # and settle one step further; backward, all settle in frame 2. Of what is flat little is ever expected.
    assert [int(known[Element("choice_f", t)].sum()) for t in range(4)] == [24, 6, 6, 24]
    assert [int(known[Element("choice_b", t)].sum()) for t in range(4)] == [6, 6, 24, 24]
    ran = {name: count for name, count in calls.items() if name.startswith("run_")}
    assert ran == {"run_backward": 2, "run_backward_window": 12, "run_forward": 2, "run_forward_window": 12}


@pytest.mark.parametrize(
    ("size", "asked", "patches"),
    [
        ((180, 320), 64, (60, 64)),
        ((144, 176), 48, (48, 44)),
        ((20, 41), 1000, (36, 44)),
        ((181, 320), 64, (46, 64)),
    ],
)
def test_patches_divide_the_frame_and_are_about_what_was_asked(
    size: tuple[int, int], asked: int, patches: tuple[int, int]
) -> None:
    given = request(*size, options={**SMALL, "patch": str(asked)})
    frame = skipvsr._frame(given)
    found = SkipVsr()._network(given, frame).patches
    assert (found.height, found.width) == patches
    assert [side % patch for side, patch in zip(frame.padded, patches, strict=True)] == [0, 0]


def own_file() -> Path:
    with resources.as_file(resources.files("superlower.frontends.zoo") / skipvsr.SKIPS) as path:
        return path


def own_estimators() -> list[Estimator]:
    found = []
    with np.load(own_file()) as stored:
        for direction in ("backward", "forward"):
            estimator = Estimator()
            for name in ("weight", "bias"):
                getattr(estimator, name).copy_(torch.from_numpy(stored[f"{direction}_skip.{name}"]))
            found.append(estimator)
    return found


def test_the_weights_it_comes_with_are_small_and_for_its_checkpoint() -> None:
    path = own_file()
    assert path.stat().st_size < 3e3
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    assert str(arrays.pop(skipvsr.TRUNK_SHA256)) == SkipVsr.checkpoints[0].sha256
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values())
    for estimator in own_estimators():
        assert bool((estimator.weight >= 0).all())
        assert float(estimator.weight.sum()) > 0


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    trunk = BasicVsrNet(1)
    seed_parameters(trunk, 0)
    path = tmp_path / "weights.pth"
    torch.save({"params": trunk.state_dict()}, path)
    return path


def save_skips(path: Path, made_for: str, leave_out: str = "no name") -> Path:
    state = network(Patches(8, 8, 0)).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in state.items() if "_skip." in name}
    arrays.pop(leave_out, None)
    np.savez(path, **arrays, **{skipvsr.TRUNK_SHA256: np.array(made_for)})
    return path


def test_both_files_are_what_runs(checkpoint: Path, tmp_path: Path) -> None:
    skips = save_skips(tmp_path / "skips.npz", file_sha256(checkpoint))
    options = {"patch": "20", "threshold": "2"}
    frames = clip(40, 40, 3)
    found = SkipVsr().reference(request(40, 40, checkpoint, {**options, "skips": str(skips)}))(frames)
    seeded = SkipVsr().reference(request(40, 40, options={**options, **SMALL}))(frames)
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(seeded))


def test_weights_that_do_not_go_together_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    other = save_skips(tmp_path / "other.npz", "0" * 64)
    partial = save_skips(tmp_path / "part.npz", file_sha256(checkpoint), "forward_skip.bias")
    text = tmp_path / "text.npz"
    text.write_text("hello")
    for options, message in (
        ({}, r"skips that come with superlower are made for 2a29.*make some for it"),
        ({"skips": str(other)}, r"other\.npz is made for 0{64}, and .* has sha256"),
        ({"skips": str(partial)}, r"1 missing \(forward_skip\.bias\)"),
        ({"skips": str(text)}, r"text\.npz \(option skips\) is not a \.npz file"),
        ({"skips": str(tmp_path / "absent.npz")}, r"no such file: .*absent\.npz"),
    ):
        with pytest.raises(BadInputError, match=message) as caught:
            SkipVsr().export(request(64, 64, checkpoint, options))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"treshold": "1"}, "did you mean threshold"),
        ({"threshold": "some"}, "threshold=some is not a number of levels, 0 or more"),
        ({"threshold": "-1"}, "threshold=-1 is not a number of levels"),
        ({"threshold": "nan"}, "threshold=nan is not"),
        ({"threshold": "inf"}, "threshold=inf is not"),
        ({"settle": "0"}, "settle=0 is not a whole number of steps"),
        ({"patch": "0"}, "patch=0 is not a whole number of pixels"),
        ({"halo": "-1"}, "halo=-1 is not a whole number of pixels"),
        ({"skips": "x.npz"}, "random:0 seeds them too"),
    ],
)
def test_bad_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        SkipVsr().export(request(64, 64, options={**SMALL, **options}))
