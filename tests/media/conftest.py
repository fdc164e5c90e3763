"""Small videos made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

MakeVideo = Callable[..., Path]


def _scene(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 [H, W, 3]: a smooth field that moves, different in every frame."""
    y, x = np.mgrid[:height, :width]
    planes = [(x * 3 + index * 11) % 256, (y * 5 + index * 7) % 256, (x + y + index * 23) % 256]
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.fixture
def scene() -> Callable[..., np.ndarray]:
    """What frame `index` of a made video shows."""
    return _scene


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Writes a video with PyAV alone, none of the code under test."""

    def make(
        name: str,
        pts: Sequence[int] = range(8),
        time_base: Fraction = Fraction(1, 25),
        size: tuple[int, int] = (48, 64),
        audio: bool = False,
        rotation: float | None = None,
        last: int = 1,
        aspect: Fraction | None = None,
        container_options: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", container_options=container_options or {}) as container:
            stream = container.add_stream("libx264", rate=25, options={"qp": "0", "bf": "2"})
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = time_base
            stream.codec_context.flags |= av.codec.context.Flags.frame_duration
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            if rotation is not None:
                stream.set_display_rotation(rotation)
            sound = container.add_stream("aac", rate=48000) if audio else None
            for index, time in enumerate(pts):
                frame = av.VideoFrame.from_ndarray(_scene(index, *size), format="rgb24")
                frame.pts, frame.time_base = time, time_base
                frame.duration = pts[index + 1] - time if index + 1 < len(pts) else last
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if sound is not None:
                noise = np.random.default_rng(3).standard_normal((2, 1024 * 20)).astype(np.float32) / 10
                for index in range(20):
                    part = np.ascontiguousarray(noise[:, 1024 * index : 1024 * (index + 1)])
                    block = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
                    block.sample_rate, block.pts = 48000, 1024 * index
                    container.mux(sound.encode(block))
                container.mux(sound.encode(None))
        return path

    return make
