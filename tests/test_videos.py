"""Videos end to end: trained on from a folder, generated, completed, measured, saved, compared and served."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor

from jielong.apps.comparison.measuring import originals, write_sheet
from jielong.apps.comparison.report import _player, _samples
from jielong.apps.serving.models import ServedModel, encoded, media_type
from jielong.config.recipe import parse
from jielong.config.zoo import kind_text
from jielong.data import open_data
from jielong.evaluation.evaluate import evaluate
from jielong.evaluation.features import FeatureExtractor, FeatureSet
from jielong.evaluation.protocols import protocol_of
from jielong.evaluation.reconstruction import psnr
from jielong.evaluation.videos import distances, frames_of, motion
from jielong.media.images import to_float
from jielong.media.kinds.base import kind_of
from jielong.media.kinds.video import video_medium
from jielong.media.reading.video import read_header
from jielong.media.video import encode_video
from jielong.media.videos import Videos
from jielong.system import load
from jielong.training.experiment import run

FRAMES, SIZE, RATE = 4, 16, 8.0
DATA = f"frames: {FRAMES}, frame_rate: {RATE:g}, size: {SIZE}"
TRAIN = "train: {samples: 64, batch: 8, lr: 1.0e-3, warmup: 8, ema: 0.5, sample_every: 64, log_every: 32, precision: fp32}"
TOKENIZER = """
data: {{set: {set}, {data}}}
tokenizer: {{vq: {{autoencoder: {{convolutional_3d: {{strides: [2, 8, 8], width: 4, blocks: 0, heads: 0}}}}, dim: 4,
  quantizer: {{vector: {{codebook_size: 16, kmeans_iterations: 0}}}}}}}}
losses: {{regression: {{kind: l2}}}}
"""
GENERATOR = """
data: {{set: {set}, {data}}}
tokenizer: {{checkpoint: {tokenizer}}}
condition: {{class: {{width: 16}}}}
order: {{masked: {{steps: 2}}}}
backbone: {{transformer: {{layers: 1, width: 32, heads: 2}}}}
head: softmax
"""


def bar(start: int, step: int) -> Tensor:
    """A bright bar that moves to the right or the left, ``(3, T, 16, 16)``."""
    clip = torch.full((3, FRAMES, SIZE, SIZE), -1.0)
    for frame in range(FRAMES):
        clip[:, frame, :, (start + 2 * step * frame) % SIZE] = 1
    return clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for name, step in (("left", -1), ("right", 1)):
        for start in range(SIZE):
            path = root / ("heldout" if start in (1, 3) else "train") / name / f"{start:02d}.mkv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_video(bar(start, step), RATE, ".mkv"))
    return root


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    out = tmp_path_factory.mktemp("runs")
    run(parse(TOKENIZER.format(set=folder, data=DATA) + TRAIN), out / "tokenizer", device="cpu")
    run(parse(GENERATOR.format(set=folder, data=DATA, tokenizer=out / "tokenizer") + TRAIN), out / "generator", device="cpu")
    return out / "tokenizer", out / "generator"


def test_runs_write_sheets_and_players(trained: tuple[Path, Path]) -> None:
    for out in trained:
        sample = out / "samples" / "samples-000000000064"
        with Image.open(sample.with_suffix(".png")) as sheet:
            assert sheet.width > FRAMES * SIZE
        assert read_header(sample.with_suffix(".webp")).frames
    assert kind_text(trained[0]) == f"tokenizer of {FRAMES} x {SIZE} x {SIZE} videos"


def test_a_generator_draws_completes_and_saves(trained: tuple[Path, Path], tmp_path: Path) -> None:
    generator = load(str(trained[1]))
    videos = generator.generate(classes=["left", "right"], seed=3)
    assert isinstance(videos, Videos)
    assert videos.tensor.shape == (2, 3, FRAMES, SIZE, SIZE)
    assert torch.equal(videos.tensor, generator.generate(classes=["left", "right"], seed=3).tensor)
    completed = generator.complete(bar(3, 1), "first", classes="right", count=2, seed=1)
    assert isinstance(completed, Videos)
    assert (completed.tensor.shape, completed.rate) == ((2, 3, FRAMES, SIZE, SIZE), RATE)
    for suffix in (".mp4", ".webp", ".gif", ".png"):
        assert videos.save(tmp_path / f"all{suffix}") == [tmp_path / f"all{suffix}"]
    assert read_header(tmp_path / "all.mp4").kind.startswith("mov")
    videos.save(tmp_path / "items")
    again = open_data(tmp_path / "items", frames=FRAMES, frame_rate=RATE, size=SIZE)
    torch.testing.assert_close(again.media([0, 1]), videos.tensor.clamp(-1, 1), atol=1 / 127, rtol=0)
    assert again.captions == ["left", "right"]


def test_they_are_measured(trained: tuple[Path, Path]) -> None:
    codec, generator = (evaluate(load(str(out)), count=4) for out in trained)
    assert {"psnr", "ssim", "codebook_usage"} <= codec.figures.keys()
    system = load(str(trained[0]))
    real = open_data(system.recipe.data.set, "heldout", settings=system.recipe.data).media(range(4))
    rebuilt = system.decode(system.encode(real))
    assert codec.figures["psnr"].value == pytest.approx(psnr(frames_of(rebuilt), frames_of(real)).value, rel=1e-5)
    assert codec.figures["psnr"].n == 4 * FRAMES
    assert {"heldout_loss", "frechet", "motion_frechet"} <= generator.figures.keys()
    assert protocol_of(system.tokenizer.media).digest(real, system.tokenizer.media).keys() == {"frames_sha256"}


def test_motion_sees_the_order_of_frames_and_frames_do_not() -> None:
    videos = torch.stack([bar(start, 1) for start in range(6)])
    shuffled, extractor = videos[:, :, [2, 0, 3, 1]], FeatureExtractor()
    same, moved = distances(videos, videos, extractor).figures, distances(shuffled, videos, extractor).figures
    assert same["frechet"].value == pytest.approx(0, abs=1e-3)
    assert same["motion_frechet"].value == pytest.approx(0, abs=1e-3)
    assert moved["frechet"].value == pytest.approx(0, abs=1e-3)
    assert moved["motion_frechet"].value > 0.1
    steps = motion(FeatureSet(torch.arange(6.0).square()[:, None], "", {}), 3).values
    assert steps[:, 0].tolist() == [1, 3, 7, 9]  # none between the videos
    assert distances(videos[:, :, :1], videos[:, :, :1], extractor).omitted["motion_frechet"] == "a video of one frame has no motion"


def test_they_are_compared_and_served(trained: tuple[Path, Path], folder: Path, tmp_path: Path) -> None:
    items = open_data(folder, "heldout", frames=FRAMES, frame_rate=RATE, size=SIZE)
    write_sheet(tmp_path / "left.png", originals(items, [0, 1]))
    assert sorted(path.name for path in (tmp_path / "left").iterdir()) == ["0000.webp", "0001.webp"]
    assert 'src="data:image/webp;base64,' in _player(tmp_path / "left" / "0000.webp")
    with Image.open(tmp_path / "left.png") as sheet:
        assert sheet.width < 2 * FRAMES * (SIZE + 2), "videos are below one another, each a row of frames"
    (tmp_path / "sheets").mkdir()
    for name in ("left", "left.png"):
        (tmp_path / name).rename(tmp_path / "sheets" / name)
    page = _samples(SimpleNamespace(folder=tmp_path, shown=["one", "two"]), ["left"])  # type: ignore[arg-type]
    assert page.count('<img class="video"') == 2
    assert page.index('class="video"') < page.index("frames in a row") < page.index("data:image/png")
    assert "width: 100%; --columns: 2" in page, "players stand under their captions"
    served = ServedModel("bars", load(str(trained[1])))
    assert {"mp4", "webm", "gif", "webp", "png"} <= set(served.formats)
    data = encoded(served.system.generate(classes="left", seed=0)[0], "mp4")
    assert data[4:8] == b"ftyp"
    assert [media_type(form) for form in ("mp4", "webm", "gif", "webp")] == ["video/mp4", "video/webm", "image/gif", "image/webp"]
    assert "video of 3 x 4 x 16 x 16 at 8 Hz" in json.dumps(served.description())


def test_a_medium_fits_videos_of_other_sizes() -> None:
    kind = kind_of("video")
    fitted = kind.fitted(torch.stack([bar(0, 1)]), video_medium(3, FRAMES, (8, 8), RATE))
    assert fitted.shape == (1, 3, FRAMES, 8, 8)
    assert torch.equal(to_float(((fitted + 1) * 127.5).round().to(torch.uint8)), fitted)
