"""Frames of cameras: read from videos and encoded images, resized, and written as videos.

Needs PyAV for videos (`pip install 'lps[robot]'`).  Its wheels bring FFmpeg.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lps.errors import UserError, suggest
from lps.files import reason

CODECS = {
    "av1": ("libsvtav1", "yuv420p", {"crf": "30", "preset": "8", "svtav1-params": "lp=1"}),
    "h264": ("libx264", "yuv420p", {"crf": "18", "preset": "fast"}),
    "lossless": ("libx264rgb", "rgb24", {"qp": "0", "preset": "fast"}),
}
"""Encoder, pixel format and options by name.  "av1" is LeRobot's own choice, smaller and slower to write; "lossless" is
h264 in RGB."""

KEY_FRAMES = 2
"""Frames from one key frame to the next, as LeRobot writes videos: seeking decodes at most this many."""


def resized(frames: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return frames (n, H, W, C) uint8 in the size (height, width), stretched; bilinear over all pixels that shrink
    into one.  A robot has to resize its frames in the same way."""
    height, width = size
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([_resized(frame, height, width) for frame in frames])


def _resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    if frame.shape[:2] == (height, width):
        return frame
    channels = [
        np.asarray(Image.fromarray(part).resize((width, height), Image.Resampling.BILINEAR))
        for part in (np.split(frame, frame.shape[2], axis=2) if frame.shape[2] not in (3, 4) else [frame])
        for part in [part[..., 0] if part.shape[2] == 1 else part]
    ]
    return np.concatenate([part.reshape(height, width, -1) for part in channels], axis=2)


def decoded_images(images: Iterable[bytes], size: Sequence[int], what: str) -> np.ndarray:
    """Return encoded images, such as PNG, as RGB frames (n, height, width, 3) uint8.  UserError, which names `what`,
    for a damaged one."""
    from PIL import Image, UnidentifiedImageError

    found = []
    for row, data in enumerate(images):
        try:
            found.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        except (UnidentifiedImageError, OSError, TypeError) as error:
            raise UserError(f"{what}: the image in row {row} is damaged. Copy the file again") from error
    return np.stack([_resized(frame, *size) for frame in found])


def decoded_video(path: Path, start: float, count: int, rate: float, size: Sequence[int]) -> np.ndarray:
    """Return the `count` frames of a video from time `start` in seconds on, (count, height, width, 3) uint8 RGB.

    Frame k has to lie within half a frame of start + k / rate.  UserError: no such file, a damaged file, too few
    frames, frames at other times.
    """
    import_av(f"reading {path}")
    import av

    frames = np.empty((count, *size, 3), np.uint8)
    found = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # episodes are decoded in parallel
            if start > 0:  # to the key frame before it; in microseconds
                container.seek(int(start * 1e6))
            for frame in container.decode(stream):
                late = (frame.time or 0.0) - (start + found / rate)
                if late < -0.5 / rate:
                    continue  # before the episode, from the key frame on
                if late > 0.5 / rate:
                    break
                frames[found] = _resized(frame.to_ndarray(format="rgb24"), *size)
                found += 1
                if found == count:
                    return frames
    except (av.error.FFmpegError, IndexError) as error:
        missing = isinstance(error, FileNotFoundError)
        raise UserError(
            f"the video {path} {'is missing' if missing else f'is damaged ({reason(error)})'}. Copy it again from its "
            "source"
        ) from error
    raise UserError(
        f"the video {path} has {found} of the {count} frames of an episode from second {start:g} at {rate:g} Hz. Copy "
        "it again from its source, or check the rate in meta/info.json"
    )


class VideoWriter:
    """Writes one video; use as a context.

    Args:
        path: of the .mp4 file.
        rate: frames per second.
        size: (height, width).
        codec: name in CODECS.
    """

    def __init__(self, path: Path, rate: float, size: Sequence[int], codec: str):
        os.environ.setdefault("SVT_LOG", "1")  # the encoder of AV1 prints errors only
        import_av(f"writing {path}")
        import av

        encoder, pixels, options = CODECS[check_codec(codec, size)]
        self.frames = 0
        self._container = av.open(str(path), "w", format="mp4")
        stream: Any = self._container.add_stream(encoder, Fraction(rate).limit_denominator(1001), options)
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.gop_size = KEY_FRAMES
        stream.codec_context.max_b_frames = 0
        self._stream = stream

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, frames: np.ndarray) -> None:
        """Append frames (n, height, width, 3) uint8."""
        import av

        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = self.frames
            frame.time_base = 1 / self._stream.codec_context.framerate
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def close(self) -> None:
        """Finish the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()


def check_codec(codec: str, size: Sequence[int]) -> str:
    """Return the codec.  UserError for an unknown one, or for one that cannot encode frames of this size."""
    if codec not in CODECS:
        raise UserError(suggest(codec, CODECS, "codec"))
    if codec != "lossless" and any(side % 2 for side in size):
        raise UserError(
            f"frames of {size[0]} x {size[1]} have an odd side, which the codec {codec} cannot encode. Use the codec "
            "lossless"
        )
    return codec


def import_av(purpose: str) -> None:
    """UserError if PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UserError(f"{purpose} needs PyAV. Install it: pip install 'lps[robot]'") from error
