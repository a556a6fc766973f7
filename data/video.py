"""Frames of a film, read at given seconds and written one by one, with PyAV.

Reading seeks to the key frame before the first second that is asked for and decodes on from there, so an
episode in the middle of a long film costs its own frames. Both directions hold one frame at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gato.picture import MAX_PIXELS

CODECS = {"libsvtav1": {"crf": "30", "preset": "8"}, "h264": {"crf": "18"}}  # encoder -> its options
SLOWEST = 0.001  # frames per second: a rate is written as a fraction of small numbers


def frames_at(path: Path, seconds: Sequence[float], tolerance: float) -> Iterator[np.ndarray]:
    """The frame nearest to each of the ascending `seconds`, as (rows, columns, 3) uint8.

    **Arguments:** `tolerance`: how far, in seconds, a frame may be from where it is asked for.

    **Raises:** `ValueError` naming the file if it is missing, damaged or too large, and saying which frame it lacks.
    """
    av = _av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} is no readable video: it holds no pictures; fetch it again or restore it")
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                raise ValueError(f"{path} has frames of {stream.height}x{stream.width} pixels, more than {MAX_PIXELS}; scale it down")
            start = max(0.0, seconds[0] - tolerance)
            container.seek(int(start / stream.time_base), stream=stream)
            yield from _nearest(path, container.decode(stream), seconds, tolerance)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; fetch it again or restore it") from None
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path} is no readable video: {error.strerror}; fetch it again or restore it") from None


class VideoWriter:
    """Encodes frames at a constant rate, frame n at n / fps.

    The film is lossy: colours are halved in both directions (yuv420p), values are quantised.

    **Arguments:** `fps`: at least `SLOWEST`; `size`: (rows, columns), both even; `codec`: a key of `CODECS`.

    **Raises:** `ValueError` for an odd size, and for fewer frames per second.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int], codec: str) -> None:
        if size[0] % 2 or size[1] % 2:
            raise ValueError(f"frames of {size[0]}x{size[1]} pixels cannot be a video, which needs even sizes; keep them as pictures")
        if fps < SLOWEST:
            raise ValueError(f"{fps:g} frames per second cannot be a video, which has at least {SLOWEST:g}; keep them as pictures")
        os.environ.setdefault("SVT_LOG", "1")  # errors only: this encoder prints its settings otherwise
        self.path, self.num_frames = path, 0
        self._av = _av()
        self._container = self._av.open(str(path), "w")
        rate = Fraction(fps).limit_denominator(1001)
        self._stream = self._container.add_stream(codec, rate=rate, options=CODECS[codec] | {"g": "2"})
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"
        self._time_base = 1 / rate  # the stream's own changes when the file begins

    @property
    def bytes(self) -> int:
        """What has reached the disk so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame (rows, columns, 3) uint8."""
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts, picture.time_base = self.num_frames, self._time_base
        self._container.mux(self._stream.encode(picture))
        self.num_frames += 1

    def close(self) -> None:
        """Finishes the file, which cannot be read before."""
        self._container.mux(self._stream.encode(None))
        self._container.close()


def video_facts(path: Path) -> dict[str, object]:
    """What LeRobot notes of a video in `info.json`."""
    with _av().open(str(path)) as container:
        stream = container.streams.video[0]
        return {
            "video.height": stream.height,
            "video.width": stream.width,
            "video.codec": stream.codec_context.codec.canonical_name,
            "video.pix_fmt": stream.pix_fmt,
            "video.is_depth_map": False,
            "video.fps": int(rate) if (rate := float(stream.average_rate)).is_integer() else rate,
            "video.channels": 3,
            "has_audio": False,
        }


def _nearest(path: Path, frames: Iterator, seconds: Sequence[float], tolerance: float) -> Iterator[np.ndarray]:
    before: Any = next(frames, None)
    after: Any = before
    for k, second in enumerate(seconds):
        while after is not None and after.time < second:
            before, after = after, next(frames, None)
        near = [f for f in (before, after) if f is not None and abs(f.time - second) <= tolerance]
        if not near:
            found = "ends before it" if after is None else f"has none between {before.time:.4f} and {after.time:.4f} s"
            raise ValueError(f"{path} holds no frame {k} of {len(seconds)} at {second:.4f} s: the video {found}; fetch it again")
        frame = min(near, key=lambda f: abs(f.time - second))
        if frame.is_corrupt:
            raise ValueError(f"{path} is damaged at {second:.4f} s; fetch it again or restore it")
        yield frame.to_ndarray(format="rgb24")


def _av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ImportError(f"videos need PyAV, which is not installed ({error}); run: pip install 'opengato[lerobot]'") from error
    return av
