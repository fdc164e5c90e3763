"""The frame contract, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superlower.errors import BadInputError, OutputsDifferError
from superlower.media.tensors import from_tensor, luma, to_tensor
from superlower.program.model import Edge, Frame


def pixels(height: int, width: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, 3), dtype=dtype)


def test_planes_are_r_g_b_in_range() -> None:
    rgb = pixels(5, 7)
    tensor = to_tensor(rgb, Frame(height=5, width=7))
    assert tensor.shape == (1, 3, 5, 7)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    # Worked out in double and rounded once: equal to float32(x / 255) bit for bit.
    np.testing.assert_array_equal(tensor[0].transpose(1, 2, 0), (rgb / 255.0).astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([np.uint8, np.uint16]),
    st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.0, 65535.0)]),
    st.sampled_from(list(Edge)),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 8), st.integers(1, 20)),
    st.integers(0, 99),
)
def test_there_and_back_is_exact(
    dtype: type, span: tuple[float, float], padding: Edge, size: tuple[int, int, int, int], seed: int
) -> None:
    height, width, multiple, minimum = size
    frame = Frame(
        height=height, width=width, range=span, scale=1, multiple=multiple, minimum=minimum, padding=padding
    )
    rgb = pixels(height, width, dtype, seed)
    tensor = to_tensor(rgb, frame)
    assert tensor.shape == (1, 3, *frame.padded)
    assert all(side % multiple == 0 and side >= minimum for side in frame.padded)
    np.testing.assert_array_equal(from_tensor(tensor, frame, rgb, dtype), rgb)


@pytest.mark.parametrize(
    ("padding", "row"),
    [
        (Edge.ZEROS, [1, 2, 3, 0, 0]),
        (Edge.REPLICATE, [1, 2, 3, 3, 3]),
        (Edge.REFLECT, [1, 2, 3, 2, 1]),
    ],
)
def test_padding_goes_right_and_below(padding: Edge, row: list[int]) -> None:
    rgb = np.repeat(np.tile(np.uint8([[1, 2, 3]]), (5, 1))[..., None], 3, axis=2)
    frame = Frame(height=5, width=3, range=(0.0, 255.0), multiple=5, padding=padding)
    assert to_tensor(rgb, frame)[0, 1, 0].tolist() == row
    lying = Frame(height=3, width=5, range=(0.0, 255.0), multiple=5, padding=padding)
    turned = to_tensor(rgb.transpose(1, 0, 2), lying)
    assert turned[0, 1, :, 0].tolist() == row


def test_zeros_pad_the_number_zero_in_any_range() -> None:
    frame = Frame(height=1, width=1, range=(-1.0, 1.0), multiple=2, padding=Edge.ZEROS)
    assert to_tensor(np.full((1, 1, 3), 255, np.uint8), frame)[0, 0].tolist() == [[1, 0], [0, 0]]


def test_output_is_cropped_clamped_and_rounded_half_to_even() -> None:
    frame = Frame(height=1, width=2, range=(0.0, 255.0), scale=2, multiple=4)
    output = np.full((1, 3, 8, 8), 99, np.float32)
    output[0, :, 0, :4] = [-7, 0.5, 1.5, 300]
    output[0, :, 1, :4] = [2.4999, 2.5, 3.5, 254.5]
    rgb = from_tensor(output, frame, np.zeros((1, 2, 3), np.uint8))
    assert rgb.shape == (2, 4, 3)
    assert rgb[..., 1].tolist() == [[0, 0, 2, 255], [2, 2, 4, 254]]


def test_half_precision_output_is_taken() -> None:
    frame = Frame(height=1, width=1, scale=1)
    rgb = from_tensor(np.full((1, 3, 1, 1), 0.5, np.float16), frame, np.zeros((1, 1, 3), np.uint8))
    assert rgb.tolist() == [[[128, 128, 128]]]


def test_luma_of_the_primaries() -> None:
    """BT.601's own numbers: black 16, white 235, red 81.481, green 144.553, blue 40.966."""
    colours = np.uint8([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]])
    np.testing.assert_allclose(luma(colours), [[16, 235, 81.481, 144.553, 40.966]], rtol=0, atol=1e-9)
    frame = Frame(height=1, width=5, channels=1, color="y")
    np.testing.assert_allclose(to_tensor(colours, frame)[0, 0], luma(colours) / 255, rtol=0, atol=2**-24)
    deep = to_tensor(colours.astype(np.uint16) * 257, frame)
    np.testing.assert_allclose(deep, to_tensor(colours, frame), rtol=0, atol=2**-24)


def test_luma_and_chroma_come_together_again() -> None:
    """At scale 1 nothing is upscaled: luma and chroma of the source give the source, to the level."""
    rgb = pixels(6, 8)
    frame = Frame(height=6, width=8, channels=1, color="y", scale=1, multiple=5)
    np.testing.assert_array_equal(from_tensor(to_tensor(rgb, frame), frame, rgb), rgb)


def test_a_luma_model_keeps_flat_colour_and_takes_new_luma() -> None:
    rgb = np.full((4, 4, 3), (180, 90, 120), np.uint8)
    frame = Frame(height=4, width=4, channels=1, color="y", scale=4, range=(-1.0, 1.0))
    same = np.repeat(np.repeat(to_tensor(rgb, frame), 4, axis=2), 4, axis=3)
    np.testing.assert_array_equal(from_tensor(same, frame, rgb), np.broadcast_to(rgb[0, 0], (16, 16, 3)))
    # A level of luma is 255/219 of every colour (BT.601): 21.9 levels more are 25.5 brighter.
    brighter = from_tensor(same + np.float32(2 * 21.9 / 255), frame, rgb)
    assert np.abs(brighter - (rgb[0, 0] + 25.5)).max() <= 0.5 + 1e-3


def test_refusals() -> None:
    frame = Frame(height=4, width=6)
    with pytest.raises(BadInputError, match="6x4 pixels, the program was built for 4x6"):
        to_tensor(pixels(6, 4), frame)
    with pytest.raises(BadInputError, match="uint8 or uint16"):
        to_tensor(np.zeros((4, 6, 3), np.float32), frame)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="frame contract says"):
        from_tensor(np.zeros((1, 3, 4, 6), np.float32), frame, pixels(4, 6))
    with pytest.raises(OutputsDifferError, match="NaN"):
        from_tensor(np.full((1, 3, 16, 24), np.nan, np.float32), frame, pixels(4, 6))
