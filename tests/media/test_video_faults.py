"""Files that are no whole video, or an unusual one: read right, or a sentence that names the file."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from jielong.data import inspect, open_data
from jielong.media.images import fit, to_bytes_tensor
from jielong.media.reading.faults import BUDGET, BrokenVideoError
from jielong.media.reading.video import check_clip, read_clip, read_header
from jielong.media.video import encode_video

NAME = "clips/a.mp4"


def clip(frames: int = 12, rows: int = 16, columns: int = 24) -> torch.Tensor:
    """Left half red and right half blue, ever brighter."""
    video = torch.zeros(3, frames, rows, columns)
    video[0, :, :, : columns // 2] = 1
    video[2, :, :, columns // 2 :] = 1
    return video * torch.linspace(0.4, 1.0, frames)[:, None, None] * 2 - 1


def read(data: bytes | Path, size: tuple[int, int] = (16, 24), rate: float = 8) -> torch.Tensor:
    return read_clip(data, NAME, rate=rate, fitted=lambda frame, pixel: to_bytes_tensor(fit(frame, size, pixel)))


def sound(form: str, coding: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as file:
        stream = file.add_stream(coding, rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        file.mux([*stream.encode(frame), *stream.encode(None)])
    return buffer.getvalue()


def turned(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """An MP4 whose track header says how it is turned: the matrix of ISO 14496-12, 8.3.2, in whole numbers."""
    place = data.index(b"tkhd") + 4 + 40  # behind version, flags, times, numbers, layer, group and volume
    a, b, c, d = (value << 16 for value in matrix)
    return data[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[place + 36 :]


@pytest.mark.parametrize(("matrix", "left"), [((0, 1, -1, 0), "upper"), ((0, -1, 1, 0), "lower"), ((-1, 0, 0, -1), "right")])
def test_turned_videos_are_shown_upright(matrix: tuple[int, int, int, int], left: str) -> None:
    size = (24, 16) if matrix[0] == 0 else (16, 24)
    video = read(turned(encode_video(clip(), 8, ".mp4"), matrix), size)
    red, blue = video[0].float().mean(0) > 80, video[2].float().mean(0) > 80
    half = {"upper": red[:10], "lower": red[-10:], "right": red[:, -10:]}[left]
    assert half.all()
    assert not (red & blue)[2:-2].all()


def test_pixels_that_are_not_square_are_stretched() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv444p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)  # shown as 32 x 16
        picture = np.zeros((16, 16, 3), np.uint8)
        picture[:, 4:12] = 255
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv444p", dst_colorspace="ITU601")
        frame.pts, frame.time_base = 0, Fraction(1, 8)
        file.mux([*stream.encode(frame), *stream.encode(None)])
    assert read(buffer.getvalue(), (16, 16))[0, 0].float().mean() > 240  # its centre of 8 x 16 stored pixels


def test_transparency_of_webm_shows_the_background() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as file:
        stream = file.add_stream("libvpx-vp9", rate=8, options={"auto-alt-ref": "0", "crf": "10", "b": "0"})
        stream.width, stream.height, stream.pix_fmt, stream.metadata["alpha_mode"] = 32, 32, "yuva420p", "1"
        picture = np.zeros((32, 32, 4), np.uint8)
        picture[..., 0], picture[:16, :, 3] = 255, 255  # the upper half is red, the lower one clear
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format="yuva420p", dst_colorspace="ITU601")
            frame.pts, frame.time_base = number, Fraction(1, 8)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    for first in (0, 5):
        video = read_clip(
            buffer.getvalue(), NAME, rate=8, fitted=lambda frame, _: to_bytes_tensor(frame), first=first, background="#0000ff"
        )
        assert video.shape[1] == 8 - first
        assert video[:, -1, 4, 4].tolist() == pytest.approx([255, 0, 0], abs=6)
        assert video[:, -1, 28, 28].tolist() == pytest.approx([0, 0, 255], abs=6)


def test_sound_alone_is_no_video() -> None:
    for form, coding in (("mp4", "aac"), ("webm", "libopus"), ("matroska", "aac")):
        with pytest.raises(
            BrokenVideoError, match=r"clips/a\.mp4 .*no stream of pictures, only sound; set data\.kind to audio to read that"
        ):
            check_clip(sound(form, coding), NAME)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv", ".mov", ".gif", ".webp", ".apng"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cut_files_are_refused_before_they_are_decoded(suffix: str, share: float) -> None:
    noise = torch.rand(3, 12, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    data = encode_video(noise, 8, suffix)
    with pytest.raises(BrokenVideoError, match=r"clips/a\.mp4 .*(cut off|damaged)"):
        check_clip(data[: int(share * len(data))], NAME)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for data, message in ((b"", "is empty: a file of no bytes"), (b"hello, world, this is text", "cannot be read as a video")):
        with pytest.raises(BrokenVideoError, match=rf"clips/a\.mp4 {message}"):
            check_clip(data, NAME)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    with pytest.raises(BrokenVideoError, match="a folder of other files than frames"):
        check_clip(tmp_path / "notes")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    with pytest.raises(BrokenVideoError, match="cannot be read as a video"):
        check_clip(tmp_path / "list.m3u8")


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    Image.new("RGB", (24, 16), (200, 0, 0)).save(tmp_path / "one.gif")
    for data in (encode_video(clip(1), 8, ".mp4"), encode_video(clip(1), 8), (tmp_path / "one.gif").read_bytes()):
        assert read(data).shape == (3, 1, 16, 24)
        assert read_header(data).width == 24


def test_odd_sizes_are_fitted() -> None:
    for suffix in (".mp4", ".webm", ".webp"):
        assert read(encode_video(clip(3, 17, 31), 8, suffix), (16, 16)).shape == (3, 3, 16, 16)


def test_what_is_too_large_is_refused_by_its_header_or_as_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BUDGET, "0.1")
    with pytest.raises(BrokenVideoError, match=r"clips/a\.mp4 is too large: a frame of 240 x 160 pixels"):
        check_clip(encode_video(clip(2, 160, 240), 8, ".mp4"), NAME)
    with pytest.raises(BrokenVideoError, match=r"clips/a\.mp4 is too large: a video of 44 frames or more of 1,152 bytes"):
        read(encode_video(clip(60), 8, ".mp4"))


def test_damage_behind_the_first_frames_is_named() -> None:
    data = bytearray(encode_video(torch.rand(3, 12, 32, 32) * 2 - 1, 8, ".mkv"))
    for place in range(len(data) // 2, len(data) // 2 + 4000):
        data[place] ^= 0x5A
    with pytest.raises(BrokenVideoError, match=r"clips/a\.mp4 is cut off or damaged"):
        read(bytes(data), (32, 32))


def test_a_set_leaves_broken_videos_out_and_names_them(tmp_path: Path) -> None:
    (tmp_path / "good.mp4").write_bytes(encode_video(clip(), 8, ".mp4"))
    (tmp_path / "cut.mp4").write_bytes(encode_video(clip(), 8, ".mp4")[:-200])
    (tmp_path / "sound.mp4").write_bytes(sound("mp4", "aac"))
    (tmp_path / "still.mp4").write_bytes(encode_video(clip(1).expand(-1, 12, -1, -1), 8, ".mp4"))
    videos = open_data(tmp_path, frames=4, frame_rate=8, size=16)
    assert videos.keys == ["good.mp4", "still.mp4"]
    assert sorted(videos.broken) == ["cut.mp4", "sound.mp4"]
    report = inspect(tmp_path, frames=4, frame_rate=8, size=16)
    assert report.odd == {"still.mp4": ["still: every frame that is read is the same"]}
