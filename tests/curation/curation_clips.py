"""Tiny clips for tests of curation: moving textures, and ones with a single fault each."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

cv2 = __import__("pytest").importorskip("cv2")

Frames = Sequence[NDArray[np.uint8]]
HEIGHT, WIDTH, RATE, COUNT = 48, 64, 8, 16


def texture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Smooth random colours with detail of about 4 pixels."""
    cells = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC)


def moving(seed: int, count: int = COUNT, across: int = 1, height: int = HEIGHT, width: int = WIDTH) -> Frames:
    """A window that moves to the right over a texture by ``across`` pixels a frame."""
    wide = texture(seed, height, width + across * count + 4 - (width + across * count) % 4)
    return [wide[:, across * frame : across * frame + width] for frame in range(count)]


def write(path: Path, frames: Frames, rate: int = RATE, times: Sequence[float] | None = None, crf: int = 12) -> Path:
    """Write frames as H.264; ``times`` in seconds vary the frame rate."""
    height, width = frames[0].shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.width, stream.height, stream.thread_count = width, height, 1
        stream.pix_fmt = "yuv420p" if width % 2 == 0 and height % 2 == 0 else "yuv444p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = round(1000 * (number / rate if times is None else times[number])), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path, seconds: float = 0.5) -> Path:
    """A container with sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        wave = (np.sin(np.arange(int(16_000 * seconds)) / 10)[None] * 0.3).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def add_sound(path: Path, target: Path) -> Path:
    """A clip with a tone beside its pictures."""
    with av.open(str(path)) as source, av.open(str(target), "w") as output:
        video, audio = output.add_stream_from_template(source.streams.video[0]), output.add_stream("aac", rate=16_000, layout="mono")
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                output.mux(packet)
        wave = (np.sin(np.arange(4 * 16_000) / 10)[None] * 0.3).astype(np.float32)
        for begin in range(0, wave.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(wave[:, begin : begin + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, begin
            output.mux(audio.encode(frame))
        output.mux(audio.encode(None))
    return target
