"""Clips written with PyAV and Pillow alone, none of the code under test."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from superlower.media.images import read_png


def picture(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: a smooth field that moves."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((x * a + y * b) / 9 + index * 0.7) for a, b in ((1, 0.5), (0.4, 1), (0.8, -0.6))]
    return np.stack([127 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)


def save_video(
    path: Path,
    count: int,
    height: int = 16,
    width: int = 16,
    *,
    step: int = 1,
    codec: str = "libx264",
    sound: int = 0,
) -> Path:
    """A video of `count` pictures, `step` fortieths of a second apart; every fifth is shown twice as long.

    Beside them, `sound` packets of 20 ms, in an .mkv.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=40, options={"qp": "10"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 40)
        heard = container.add_stream("pcm_s16le", rate=8000, layout="mono") if sound else None
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, height, width), format="rgb24")
            frame.pts, frame.time_base = step * (index + index // 5), Fraction(1, 40)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for index in range(sound):
            block = av.AudioFrame.from_ndarray(
                np.full((1, 160), index, np.int16), format="s16", layout="mono"
            )
            block.sample_rate, block.pts = 8000, 160 * index
            container.mux(heard.encode(block))
    return path


def save_folder(folder: Path, count: int, height: int = 16, width: int = 16) -> Path:
    """A folder of PNG files."""
    folder.mkdir()
    for index in range(count):
        Image.fromarray(picture(index, height, width)).save(folder / f"f{index}.png")
    return folder


def seconds(path: Path) -> list[Fraction]:
    """When each frame of a video is shown."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def sizes(path: Path) -> set[tuple[int, int]]:
    """Height and width of a video's frames."""
    with av.open(str(path)) as container:
        return {(frame.height, frame.width) for frame in container.decode(video=0)}


def pngs(folder: Path) -> list[NDArray[np.generic]]:
    """A folder's pictures, by name."""
    return [read_png(file) for file in sorted(folder.glob("*.png"))]
