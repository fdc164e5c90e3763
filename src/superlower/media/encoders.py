"""What FFmpeg's video encoders take, checked before they start, and keeping them quiet."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from superlower.errors import BadInputError

log = logging.getLogger(__name__)

LOSSLESS = "ffv1"
"""The codec that keeps RGB bit for bit; its files end in .mkv."""

# The largest crf that each encoder documents.
_WORST_CRF = {"libx264": 51, "libx265": 51, "libsvtav1": 63, "libvpx-vp9": 63, "libaom-av1": 63}
_RATES = {"crf", "qp", "b"}


def check_codec(codec: str) -> None:
    """Refuse what isn't a video encoder of this build of FFmpeg.

    Raises:
        BadInputError: it isn't.
    """
    import av

    try:
        found = av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError as error:
        raise BadInputError(f"--codec {codec}: this build of FFmpeg has no encoder '{codec}'") from error
    if found.type != "video":
        raise BadInputError(f"--codec {codec}: that encodes {found.type}, not video")


def rate_options(codec: str, crf: int, options: Mapping[str, str]) -> dict[str, str]:
    """The options that ask an encoder for constant quality; none where it has no crf or `options` set a rate.

    Raises:
        BadInputError: beyond what the encoder knows.
    """
    worst = _WORST_CRF.get(codec)
    if worst is None:
        return {}
    if not 0 <= crf <= worst:
        raise BadInputError(f"--crf {crf}: {codec} takes 0 (best) to {worst}")
    if _RATES & options.keys():
        return {}
    return {"crf": str(crf), "b": "0"} if codec == "libvpx-vp9" else {"crf": str(crf)}


def pixel_format(wanted: str | None, codec: str, height: int, width: int) -> str:
    """The pixel format to encode in.

    The one wanted, else lossless RGB for ffv1, else yuv420p, or yuv444p where a side is odd.

    Args:
        wanted: FFmpeg's name of it, or None.
        codec: a video encoder.
        height, width: of the frames.

    Raises:
        BadInputError: FFmpeg, the encoder or the size doesn't go with the one wanted.
    """
    odd = height % 2 == 1 or width % 2 == 1
    if wanted is None and codec == LOSSLESS:
        return "bgr0"
    if wanted is None and odd:
        log.warning("%dx%d has an odd side: written as yuv444p, which some players refuse", width, height)
        return "yuv444p"
    if wanted is None:
        return "yuv420p"
    _check_pixel_format(wanted, codec)
    if odd and "420" in wanted:
        raise BadInputError(f"--pixel-format {wanted} needs even sides, not {width}x{height}: choose yuv444p")
    return wanted


def start(container: Any, stream: Any, codec: str, options: Mapping[str, str]) -> None:
    """Open the encoder of a stream and write the file's header.

    Args:
        container: an `av` output container.
        stream: its video stream, made with `options`.
        codec: its encoder, for messages.
        options: the user's own.

    Raises:
        BadInputError: the encoder doesn't start, or doesn't know one of the options.
    """
    import av

    with quiet() as said:
        try:
            container.start_encoding()
        except av.FFmpegError as error:
            if "avcodec_open2" not in str(error):
                raise
            refused: av.FFmpegError | None = error
        else:
            refused = None
    if refused is not None:
        given = "".join(f" with --set {key}={value}" for key, value in options.items())
        reason = next((m[1] for line in said if (m := re.search(r"\[error\]: *(.+)", line))), None)
        raise BadInputError(
            f"--codec {codec} doesn't start{given}: {reason or refused.strerror}"
        ) from refused
    # What an encoder has taken is gone from its options.
    if unknown := sorted(options.keys() & stream.codec_context.options.keys()):
        raise BadInputError(f"--set {unknown[0]}={options[unknown[0]]}: {codec} has no such option")


def in_decoding_order(packets: list[Any], codec: str, frames: int) -> list[Any]:
    """A clip's last packets, with times of decoding that its encoder knew.

    libx265 sets these back by a delay that it works out at the third frame: for a clip of fewer it reads
    memory that it never wrote, and what lies there may be more than a file can say. So short a clip has
    nothing to reorder.
    """
    if codec == "libx265" and frames < 3:
        for packet in packets:
            packet.dts = packet.pts
    return packets


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Keep what native code writes to stderr meanwhile: its lines are in the list once the block has ended.

    libx264, libx265 and SVT-AV1 report there by themselves, past FFmpeg's log and Python.
    """
    said: list[str] = []
    sys.stderr.flush()
    try:
        stderr = os.dup(2)
    except OSError:  # Nobody listens.
        yield said
        return
    with open(os.memfd_create("stderr"), "rb") as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            aside.seek(0)
            said += aside.read().decode(errors="replace").splitlines()


def _check_pixel_format(wanted: str, codec: str) -> None:
    import av

    try:
        av.VideoFormat(wanted)
    except ValueError as error:
        raise BadInputError(f"--pixel-format {wanted}: FFmpeg knows no such format") from error
    # Encoders that take whatever they are given list nothing.
    taken = [known.name for known in av.Codec(codec, "w").video_formats or ()]
    if taken and wanted not in taken:
        raise BadInputError(f"--pixel-format {wanted}: {codec} takes {', '.join(taken)}")
