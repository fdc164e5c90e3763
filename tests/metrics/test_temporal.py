"""What changes between frames: flow, flicker, and perceptual distance, each against what must come out."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from superlower.errors import BadInputError, MissingSdkError
from superlower.metrics import perceptual, scorers
from superlower.metrics.clip import clip_quality
from superlower.metrics.flow import optical_flow, tof
from superlower.metrics.perceptual import WEIGHTS, lpips_distance, missing_lpips
from superlower.metrics.psnr import luma
from superlower.metrics.scorers import METRICS

Clip = list[np.ndarray]


def texture(height: int = 160, width: int = 192) -> np.ndarray:
    """uint8 grey noise without what is finer than some ten pixels: flow can follow it."""
    rng = np.random.default_rng(3)
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    smooth = np.fft.irfft2(spectrum * np.exp(-((x**2 + y**2) / (2 * 0.05**2))), s=(height, width))
    levels = 128 + 50 * smooth / smooth.std()
    return np.repeat(np.clip(np.rint(levels), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def moving(dx: int, dy: int, count: int = 3) -> Clip:
    return [np.roll(texture(), (t * dy, t * dx), axis=(0, 1)) for t in range(count)]


def still(count: int = 3) -> Clip:
    return [texture()] * count


class TestFlow:
    @pytest.fixture(autouse=True)
    def _opencv(self) -> None:
        pytest.importorskip("cv2", reason="OpenCV isn't installed: pip install 'superlower[metrics]'")

    def test_the_flow_of_a_translation(self) -> None:
        """x then y, from where a pixel was to where it is. Away from the edges, over which the picture
        wraps, a twentieth of a pixel is what quadratic fits to whole levels leave."""
        flow = optical_flow(*moving(3, -2, 2))
        inside = flow[32:-32, 32:-32]
        assert inside[..., 0].mean() == pytest.approx(3, abs=0.05)
        assert inside[..., 1].mean() == pytest.approx(-2, abs=0.05)

    @pytest.mark.parametrize(
        ("ours", "length"),
        [
            (still(), 5.0),  # off by the whole motion
            (moving(4, 3), 0.0),
            (moving(-4, -3), 10.0),  # and by twice that
            (moving(4, 0), 3.0),
        ],
        ids=["still", "alike", "backwards", "sideways"],
    )
    def test_tof_is_how_far_the_motion_is_off(self, ours: Clip, length: float) -> None:
        """The truth moves by (4, 3), so 5 pixels. Two flows' errors of a twentieth of a pixel, as above, and
        some more where motions are larger: 2 % of it."""
        quality = clip_quality(ours, moving(4, 3), metrics=["tof"], border=32)
        assert len(quality.scores["tof"]) == 2
        assert quality.mean("tof") == pytest.approx(length, abs=0.1 + 0.02 * length)

    def test_the_border_is_of_the_flow(self) -> None:
        """Frames are whole when flow is estimated: what enters at an edge is seen coming."""
        ours, truth = moving(2, 1, 2), still(2)
        flows = optical_flow(*ours), optical_flow(*truth)
        assert clip_quality(ours, truth, metrics=["tof"], border=20).mean("tof") == tof(*flows, border=20)


def test_tof_of_flows_by_hand() -> None:
    a, b = np.zeros((4, 5, 2)), np.zeros((4, 5, 2))
    a[..., 0], b[..., 1] = 3, 4
    assert tof(a, b) == pytest.approx(5)
    a[0], b[0] = 0, 0
    assert tof(a, b) == pytest.approx(5 * 3 / 4)
    assert tof(a, b, border=1) == pytest.approx(5)


class TestFlicker:
    def test_an_error_that_stays_does_not_flicker(self) -> None:
        truth = [texture() // 2 + 10 * t for t in range(3)]
        quality = clip_quality([f + 5 for f in truth], truth, metrics=["flicker"])
        assert quality.mean("flicker") < 1e-12  # lumas of 255 in double

    def test_an_error_that_comes_and_goes_counts_each_time(self) -> None:
        """Six levels of grey are 6 * 219/255 of luma."""
        truth = [texture() // 2] * 4
        ours = [f + np.uint8(6 * (t % 2)) for t, f in enumerate(truth)]
        found = clip_quality(ours, truth, metrics=["flicker"]).scores["flicker"]
        assert found == pytest.approx([6 * 219 / 255] * 3, abs=1e-9)

    def test_it_is_the_difference_of_frame_to_frame_changes(self) -> None:
        rng = np.random.default_rng(0)
        ours, truth = (list(rng.integers(0, 256, (3, 16, 20, 3), dtype=np.uint8)) for _ in range(2))
        y, g = (np.stack([luma(f) for f in clip]) for clip in (ours, truth))
        wanted = np.abs(np.diff(y, axis=0) - np.diff(g, axis=0))[:, 2:-2, 2:-2].mean((1, 2))
        found = clip_quality(ours, truth, metrics=["flicker"], border=2).scores["flicker"]
        assert found == pytest.approx(wanted.tolist(), rel=1e-12)

    def test_a_single_frame_has_none(self) -> None:
        with pytest.raises(BadInputError, match="flicker levels compares frames with the one before"):
            clip_quality([texture()], [texture()], metrics=["psnr", "flicker"])


@pytest.mark.parametrize("metric", ["tof", "lpips", "tlp"])
def test_luma_alone_has_no_colours_to_compare(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "lpips_distance", lambda: brightness)
    monkeypatch.setitem(METRICS, metric, replace(METRICS[metric], missing=lambda: None))
    plane = texture()[..., 0]
    assert clip_quality([plane] * 2, [plane] * 2, metrics=["flicker"]).mean("flicker") == 0
    with pytest.raises(
        BadInputError, match=r"flow and LPIPS are of uint8 \[H, W, 3\], not uint8 \[160, 192\]"
    ):
        clip_quality([plane] * 2, [plane] * 2, metrics=[metric])


def brightness(a: np.ndarray, b: np.ndarray) -> float:
    """A distance to stand in for LPIPS: known by hand."""
    return abs(float(a.mean()) - float(b.mean()))


class TestPerceptual:
    def test_tlp_compares_the_distances_between_neighbours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scorers, "lpips_distance", lambda: brightness)
        frames = {level: np.full((8, 8, 3), level, np.uint8) for level in (10, 20, 50, 60, 90)}
        truth = [frames[10], frames[20], frames[50]]  # steps of 10, 30
        ours = [frames[20], frames[50], frames[60]]  # steps of 30, 10
        for name in ("lpips", "tlp"):
            monkeypatch.setitem(METRICS, name, replace(METRICS[name], missing=lambda: None))
        found = clip_quality(ours, truth, metrics=["lpips", "tlp"]).scores
        assert found["lpips"] == (10, 30, 10)
        assert found["tlp"] == (20, 20)

    def test_absent_weights_are_told_with_where_they_go(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(perceptual, "find_spec", lambda name: name)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        reason = missing_lpips()
        assert reason is not None
        assert str(tmp_path / "hub" / "checkpoints") in reason
        assert WEIGHTS in reason
        lpips_distance.cache_clear()
        with pytest.raises(MissingSdkError, match="LPIPS can't be measured"):
            lpips_distance()

    @pytest.mark.slow  # writes a whole AlexNet of random weights
    def test_lpips_is_its_formula(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Mean over pixels of the weighted squared differences of unit feature vectors, summed over five
        layers, with the published weights of the layers and a random trunk. Sums in fp32 over hundreds of
        channels, in another order: 1e-5 of the distance."""
        for name in ("torch", "torchvision", "lpips"):
            if importlib.util.find_spec(name) is None:
                pytest.skip(f"{name} isn't installed: pip install 'superlower[lpips]'")
        import lpips
        import torch
        from torchvision.models import alexnet

        torch.manual_seed(0)
        trunk = alexnet(weights=None).eval()
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        torch.save(trunk.state_dict(), tmp_path / "hub" / "checkpoints" / WEIGHTS)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        lpips_distance.cache_clear()
        a, b = moving(7, 5, 2)
        found = lpips_distance()(a, b)
        lpips_distance.cache_clear()

        heads = torch.load(Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth")
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        pixels = [(torch.from_numpy(x / 127.5 - 1).float() - shift) / scale for x in (a, b)]
        features = [x.permute(2, 0, 1)[None] for x in pixels]
        total, layer = 0.0, 0
        with torch.no_grad():
            for module in trunk.features[:12]:
                features = [module(x) for x in features]
                if isinstance(module, torch.nn.ReLU):
                    unit = [x / (x.norm(dim=1, keepdim=True) + 1e-10) for x in features]
                    weighted = heads[f"lin{layer}.model.1.weight"] * (unit[0] - unit[1]) ** 2
                    total += float(weighted.sum(1).mean())
                    layer += 1
        assert layer == 5
        assert found == pytest.approx(total, rel=1e-5)
