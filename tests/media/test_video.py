"""Videos that are written and read: exact formats bit for bit, frames by their times, and what containers say of pixels."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from jielong.media.images import fit, to_bytes_tensor, to_float
from jielong.media.kinds.base import kind_of, kinds
from jielong.media.kinds.video import VideoData, held, video_medium
from jielong.media.reading.faults import BrokenVideoError
from jielong.media.reading.timeline import Shown, frames_at, sampled
from jielong.media.reading.video import read_clip, read_header
from jielong.media.video import EXACT, WRITTEN, delays, encode_video, write_frames
from jielong.media.videos import Video, Videos

RED, GREEN, BLUE = (200, 10, 10), (10, 200, 10), (10, 10, 200)


def noise(channels: int = 3, frames: int = 7, rows: int = 9, columns: int = 13, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (channels, frames, rows, columns), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def whole(source: bytes | Path, rate: float, size: tuple[int, int], channels: int = 3, **options: int) -> Tensor:
    return read_clip(source, "a.clip", rate=rate, fitted=lambda frame, pixel: to_bytes_tensor(fit(frame, size, pixel), channels), **options)


def container(colours: list[tuple[int, int, int]], stamps: list[float], size: tuple[int, int] = (32, 32), form: str = "mp4") -> bytes:
    """Frames of one colour each, shown from the given seconds on."""
    buffer, unit = io.BytesIO(), Fraction(1, 1000)
    with av.open(buffer, "w", format=form) as file:
        stream = file.add_stream("libx264", rate=30, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt, stream.time_base = *size, "yuv420p", unit
        stream.codec_context.time_base = unit
        ends = [*stamps[1:], 2 * stamps[-1] - stamps[-2] if len(stamps) > 1 else 1.0]
        lasting = {round(1000 * stamp): round(1000 * end) - round(1000 * stamp) for stamp, end in zip(stamps, ends, strict=True)}
        packets = []
        for colour, stamp in zip(colours, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), colour, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(stamp * 1000), unit
            packets += stream.encode(frame)
        for packet in (*packets, *stream.encode(None)):
            packet.duration = lasting[packet.pts]
            file.mux(packet)
    return buffer.getvalue()


def reds(video: Tensor) -> list[int]:
    return [round(float(frame[0].float().mean())) for frame in video.unbind(1)]


@pytest.mark.parametrize("suffix", sorted(EXACT))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("rate", [8, 30, 12.5])
def test_exact_formats_return_what_was_written(suffix: str, channels: int, rate: float) -> None:
    video = noise(channels, frames=20)
    video[:, 3:5] = video[:, 2:3]  # writers join equal frames, as they stay longer
    assert torch.equal(whole(encode_video(video, rate, suffix), rate, (9, 13), channels), video)


def test_a_gif_is_exact_where_frames_have_few_colours() -> None:
    grey = noise(1, frames=20)
    assert torch.equal(whole(encode_video(grey, 8, ".gif"), 8, (9, 13), 1), grey)
    video = torch.stack([noise(1, seed=1)[0] // 64 * 64] * 3)
    assert torch.equal(whole(encode_video(video, 30, ".gif"), 30, (9, 13)), video)
    with pytest.raises(ValueError, match="up to 50 frames a second, not 60"):
        encode_video(grey, 60, ".gif")


def test_a_folder_of_frames_is_exact_and_tells_its_rate(tmp_path: Path) -> None:
    video = noise(frames=12)
    folder = write_frames(tmp_path / "clip", video, 12)
    assert torch.equal(whole(folder, 12, (9, 13)), video)
    assert torch.equal(whole(folder, 6, (9, 13)), video[:, ::2])
    (folder / "frames.json").unlink()
    assert torch.equal(whole(folder, 6, (9, 13)), video)  # a frame each


@pytest.mark.parametrize("suffix", [suffix for suffix in WRITTEN if suffix not in (*EXACT, ".gif")])
@pytest.mark.parametrize("size", [(32, 48), (33, 35)])
def test_other_formats_come_near(suffix: str, size: tuple[int, int]) -> None:
    rows, columns = torch.meshgrid(torch.linspace(-0.8, 0.8, size[0]), torch.linspace(-0.8, 0.8, size[1]), indexing="ij")
    video = torch.stack([torch.stack([rows, columns, 0 * rows + shift]) for shift in torch.linspace(-0.5, 0.5, 9)], dim=1)
    again = to_float(whole(encode_video(video, 10, suffix), 10, size))
    assert again.shape == video.shape
    assert 10 * torch.log10(4 / (again - video).square().mean()) > 32


def test_frames_are_taken_by_their_times() -> None:
    colours = [(8 * number, 8 * number, 8 * number) for number in range(30)]
    found = reds(whole(container(colours, [number / 30 for number in range(30)]), 10, (8, 8)))
    assert found == pytest.approx([8 * number for number in range(0, 30, 3)], abs=2)
    found = reds(whole(container(colours[:8], [number / 8 for number in range(8)]), 24, (8, 8)))
    assert found == pytest.approx([8 * (number // 3) for number in range(24)], abs=2)


def test_of_a_variable_rate_the_frame_on_screen_is_taken() -> None:
    levels, stamps = [0, 40, 80, 120, 160], [0.0, 0.1, 0.15, 0.7, 0.75]
    found = reds(whole(container([(level,) * 3 for level in levels], stamps), 10, (8, 8)))
    assert found[:8] == pytest.approx([0, 40, 80, 80, 80, 80, 80, 120], abs=2)


def test_stamps_that_vary_like_those_of_cameras_give_every_frame() -> None:
    frames = [Shown(number / 30 + shift, (number + 1) / 30 - shift, Image.Image) for number, shift in enumerate([0.005, -0.005] * 15)]
    assert list(sampled(iter(frames), 30)) == frames
    assert frames_at(1.0, 30) == 30


def test_a_part_is_the_same_as_in_the_whole() -> None:
    colours = [(5 * number, 5 * number, 5 * number) for number in range(40)]
    data = container(colours, [number / 20 for number in range(40)])
    video = whole(data, 20, (8, 8))
    for source in (data, encode_video(video, 20, ".webp"), encode_video(video, 20, ".mkv")):
        everything = whole(source, 20, (8, 8))
        for first in (0, 1, 13, 39):
            assert torch.equal(whole(source, 20, (8, 8), first=first, count=6), everything[:, first : first + 6])
    with pytest.raises(BrokenVideoError, match=r"a\.clip ends before its frame 41 at 20 frames a second"):
        whole(data, 20, (8, 8), first=40)


def test_headers_say_sizes_durations_and_rates(tmp_path: Path) -> None:
    video = noise(frames=16, rows=32, columns=48)
    for suffix in WRITTEN:
        header = read_header(encode_video(video, 8, suffix))
        assert (header.width, header.height, header.sound) == (48, 32, False)
        assert header.seconds == pytest.approx(2.0, abs=0.02)
        assert header.rate == pytest.approx(8, rel=0.01)
    header = read_header(write_frames(tmp_path / "clip", video, 8))
    assert (header.kind, header.frames, header.seconds) == ("folder", 16, 2.0)


def test_what_is_transparent_shows_the_background() -> None:
    frames = [Image.new("RGBA", (8, 8), (255, 0, 0, 255)), Image.new("RGBA", (8, 8), (0, 0, 0, 0))]
    frames[0].putpixel((7, 7), (0, 0, 0, 0))
    frames[1].putpixel((4, 4), (0, 0, 255, 255))
    for form in ("GIF", "WEBP", "PNG"):
        buffer = io.BytesIO()
        options = {"lossless": True} if form == "WEBP" else {"disposal": 2}
        frames[0].save(buffer, form, save_all=True, append_images=frames[1:], duration=100, **options)
        read = read_clip(buffer.getvalue(), "a", rate=10, fitted=lambda frame, _: to_bytes_tensor(frame), background="#00ff00")
        assert read[:, :, 0, 0].T.tolist() == [[255, 0, 0], [0, 255, 0]], form


def test_settings_and_media() -> None:
    assert list(kinds())[:3] == ["image", "audio", "video"]
    kind, settings = kind_of("video"), VideoData(size=[16, 24], frames=4, frame_rate=6)
    medium = kind.medium(settings, 3)
    assert medium == video_medium(3, 4, (16, 24), 6)
    assert kind.settings.model_validate(kind.keys_of(medium)) == settings
    with pytest.raises(ValueError, match="1 \\(grey\\) or 3"):
        kind.medium(settings, 2)


def test_items_are_cut_at_the_start_and_continued_by_the_last_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jielong.media.kinds.video._said", set())
    kind, video = kind_of("video"), noise(frames=6, rows=8, columns=8)
    data = encode_video(video, 8)
    with pytest.warns(UserWarning, match="that are read") as said:
        long, short, _ = (kind.decode(data, "a.webp", video_medium(3, frames, (8, 8), 8), VideoData()) for frames in (4, 9, 9))
    assert [str(each.message).partition(":")[0] for each in said] == [
        "a.webp has more than the 4 frames that are read",
        "a.webp has 6 of the 9 frames that are read",
    ]
    assert torch.equal(long, video[:, :4])
    assert torch.equal(short[:, :6], video)
    assert torch.equal(short[:, 6:], video[:, 5:].expand(-1, 3, -1, -1))
    (tmp_path / "a.webp").write_bytes(data)
    assert torch.equal(kind.read(tmp_path / "a.webp", video_medium(3, 4, (8, 8), 8)), to_float(video))
    assert torch.equal(kind.fitted(to_float(video)[None], video_medium(3, 9, (8, 8), 8))[0], to_float(held(video, 9)))


def test_delays_keep_time() -> None:
    for rate, unit in ((8, 0.01), (30, 0.001), (24, 0.01)):
        begins = np.cumsum([0.0, *delays(100, rate, unit)])
        assert np.all(begins <= np.arange(101) / rate + 1e-6)
        assert np.all(begins > np.arange(101) / rate - unit)


def test_results_save_and_show_themselves(tmp_path: Path) -> None:
    videos = Videos(to_float(noise(frames=5)).expand(3, -1, -1, -1, -1), 10, ["a", "b", "c"], [5, 2, 5])
    assert [path.name for path in videos.save(tmp_path / "out")] == ["0000.webp", "0001.webp", "0002.webp"]
    assert whole(tmp_path / "out" / "0001.webp", 10, (9, 13)).shape[1] == 2
    assert (tmp_path / "out" / "0002.txt").read_text() == "c\n"
    videos.save(tmp_path / "all.webp")
    joined = whole(tmp_path / "all.webp", 10, (20, 28))
    assert torch.equal(joined[:, :, :9, :13], noise(frames=5))
    assert torch.equal(joined[:, 4, :9, 15:], noise(frames=5)[:, 1])  # stays at its last frame
    assert joined[:, :, 11:, 15:].min() == 255
    videos.save(tmp_path / "sheet.png")
    videos[0].save(tmp_path / "row.png")
    with Image.open(tmp_path / "sheet.png") as image, Image.open(tmp_path / "row.png") as row:
        assert image.height > 3 * row.height > 27
        assert row.width > 5 * 13
    assert videos[1].frames[1].size == (13, 9)
    assert "data:image/webp;base64," in videos._repr_html_()
    assert videos.summary(3.0) == "3 videos of 5 frames (0.50 s), generated in 1.00 s each"
    again = videos[0].save_frames(tmp_path / "frames")
    assert torch.equal(whole(again, 10, (9, 13)), noise(frames=5))
    assert repr(videos[:2]) == "Videos(2 of 3 x 5 x 9 x 13 at 10 frames a second)"
    assert isinstance(videos[0], Video)
