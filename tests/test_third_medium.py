"""A further kind of media, clips of 8 frames, registered here alone: read, trained on, sampled, completed, measured, saved and loaded."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from jielong.autoencoders.base import AutoencoderSettings, NetworkSizes
from jielong.config.data import DataSettings
from jielong.config.recipe import parse
from jielong.core.files import write_bytes
from jielong.core.medium import Axes, Medium
from jielong.core.tokens import Layout
from jielong.data import inspect, open_data
from jielong.evaluation.evaluate import evaluate
from jielong.media.images import sheet, to_bytes, to_float
from jielong.media.inspection import Inspector
from jielong.media.kinds.base import Content, MediaKind, register
from jielong.media.results import Results
from jielong.networks.decoder import Decoder
from jielong.system import load
from jielong.training.experiment import run

AXES: Axes = ("time", "rows", "columns")
FRAMES, SIZE = 8, 16


@dataclass(frozen=True, eq=False)
class Clip:
    tensor: Tensor
    caption: str = ""

    def save(self, path: str | os.PathLike[str]) -> Path:
        buffer = io.BytesIO()
        np.save(buffer, to_bytes(self.tensor).numpy())
        return write_bytes(path, buffer.getvalue())


class Clips(Results[Clip]):
    suffix = ".npy"
    sample_columns = 1
    sample_suffix = ".npy"

    def item(self, index: int) -> Clip:
        return Clip(self.tensor[index], self._caption(index))

    def select(self, rows: slice) -> Clips:
        return Clips(self.tensor[rows], self.captions and self.captions[rows])

    def like(self, tensor: Tensor) -> Clips:
        return Clips(tensor, self.captions)

    def sheet(self, columns: int = 1, scale: int = 1) -> Image.Image:
        """A row per clip, its frames from left to right."""
        frames = self.tensor.transpose(1, 2).flatten(0, 1)
        return sheet(to_bytes(frames), columns * self.tensor.shape[2], scale=scale)

    def summary(self, seconds: float) -> str:
        return f"{len(self)} clips in {seconds:.2f} s"

    def save_joined(self, path: Path) -> Path:
        return Clip(torch.cat(list(self.tensor), dim=1)).save(path)


class ClipData(DataSettings):
    pictures: int = Field(default=FRAMES, ge=1)
    fps: float = Field(default=8.0, gt=0)


class ClipInspector(Inspector):
    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self.frames: list[int] = []

    def look(self, content: Any, name: str, decode: bool) -> list[str]:
        self.frames.append(np.load(io.BytesIO(content)).shape[1])
        return ["short"] if self.frames[-1] < self.medium.frames else []

    def facts(self) -> dict[str, Any]:
        return {"frames": {number: self.frames.count(number) for number in set(self.frames)}}

    def preview_medium(self) -> Medium:
        return self.medium


class ClipKind(MediaKind):
    name = "clips"
    axes = AXES
    noun = ("clip", "clips")
    settings = ClipData
    native: ClassVar = {"channels": 1}
    suffixes = frozenset({".npy"})
    sample_count = 2

    def medium(self, settings: DataSettings, channels: int) -> Medium:
        assert isinstance(settings, ClipData)
        return Medium("clips", channels, AXES, (settings.pictures, SIZE, SIZE), settings.fps)

    def keys_of(self, medium: Medium) -> dict[str, Any]:
        return {"pictures": medium.frames, "fps": medium.rate}

    def check_header(self, source: bytes | Path, name: str = "") -> None:
        np.load(io.BytesIO(source) if isinstance(source, bytes) else source)  # ValueError of what is no array

    def decode(self, content: Content, name: str, medium: Medium, settings: DataSettings) -> Tensor:
        return torch.from_numpy(np.load(io.BytesIO(content)))

    def to_float(self, stored: Tensor) -> Tensor:
        return to_float(stored)

    def preprocessing(self, medium: Medium, settings: DataSettings) -> str:
        return f"clips: {medium}"

    def wrap(self, media: Tensor, medium: Medium, captions: Sequence[str] | None = None, lengths: Sequence[int] | None = None) -> Clips:
        return Clips(media, captions)

    def inspector(self, medium: Medium, settings: DataSettings) -> Inspector:
        return ClipInspector(medium)


class Unfold(Decoder):
    def __init__(self, dim: int, outputs: int, kernel: tuple[int, ...]) -> None:
        super().__init__()
        self.out = nn.ConvTranspose3d(dim, outputs, kernel, kernel)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        return self.out(features)


def declare() -> None:
    """Register the kind, and an autoencoder of blocks of 2 frames and 8 x 8 pixels: each axis is reduced by its own factor."""
    register(ClipKind())

    class Blocks(AutoencoderSettings, family="autoencoder", name="clip_blocks"):
        axes: ClassVar[Axes | None] = AXES
        reduction: ClassVar[tuple[int, ...]] = (2, 8, 8)  # type: ignore[assignment]

        def networks(self, sizes: NetworkSizes) -> tuple[nn.Module, Decoder]:
            encoder = nn.Conv3d(sizes.channels, sizes.encoded, self.reduction, self.reduction)  # type: ignore[arg-type]
            return encoder, Unfold(sizes.dim, sizes.outputs, self.reduction)


@pytest.fixture(autouse=True)
def declared() -> None:
    declare()


TRAIN = "train: {samples: 256, batch: 8, lr: 1.0e-2, warmup: 8, ema: 0.5, sample_every: 256, log_every: 64, precision: fp32}"
TOKENIZER = (
    "data: {{set: {set}, pictures: 8}}\n"
    "tokenizer: {{vq: {{autoencoder: clip_blocks, dim: 8, quantizer: {{vector: {{codebook_size: 16}}}}}}}}\n"
    "losses: {{regression: {{kind: l2}}}}\n"
)
GENERATOR = """
data: {{set: {set}, kind: clips}}
tokenizer: {{checkpoint: {tokenizer}}}
condition: {{class: {{width: 16}}}}
order: {{masked: {{steps: 4}}}}
backbone: {{transformer: {{layers: 1, width: 32, heads: 2}}}}
head: softmax
"""


def moving(start: int, step: int, frames: int) -> Tensor:
    """A bright bar that moves to the right or the left, ``(1, T, 16, 16)``."""
    clip = torch.full((1, frames, SIZE, SIZE), -1.0)
    for frame in range(frames):
        clip[0, frame, :, (start + step * frame) % SIZE] = 1
    return clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for name, step in (("left", -1), ("right", 1)):
        for start in range(SIZE):
            Clip(moving(start, step, 4 + start)).save(root / ("heldout" if start in (1, 3) else "train") / name / f"{start:02d}.npy")
    return root


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    declare()
    out = tmp_path_factory.mktemp("runs")
    run(parse(TOKENIZER.format(set=folder) + TRAIN), out / "tokenizer", device="cpu")
    run(parse(GENERATOR.format(set=folder, tokenizer=out / "tokenizer") + TRAIN), out / "generator", device="cpu")
    return out / "tokenizer", out / "generator"


def test_a_folder_opens_as_the_medium(folder: Path) -> None:
    clips = open_data(folder, "train", pictures=FRAMES)
    assert clips.medium == Medium("clips", 1, AXES, (FRAMES, SIZE, SIZE), 8.0)
    assert clips.medium.duration == 1.0
    assert clips.classes == ["left", "right"]
    batch = clips.batch([0, 13])  # of 4 and of 19 frames
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [4, 8]
    assert torch.equal(batch.media[0, :, :4], moving(0, -1, 4))
    assert not batch.media[0, :, 4:].any()
    assert torch.equal(batch.media[1], moving(15, -1, 8))
    starts = {position: clips.crops([13], [position], seed=0).media[0] for position in range(20)}
    wanted = [moving(15, -1, 19)[:, start : start + 8] for start in range(12)]
    assert all(any(torch.equal(crop, each) for each in wanted) for crop in starts.values())
    assert not all(torch.equal(crop, starts[0]) for crop in starts.values())
    assert len(open_data(folder, "train", pictures=FRAMES, whole=True)) == 6
    assert parse(TOKENIZER.format(set=folder) + TRAIN).data == ClipData(set=str(folder))


def test_inspection_reports_it(folder: Path, tmp_path: Path) -> None:
    report = inspect(folder)
    assert (report.count, report.classes) == (32, {"left": 16, "right": 16})
    assert report.facts["frames"] == {4 + start: 2 for start in range(SIZE)}
    assert report.odd["train/left/02.npy"] == ["short"]
    with Image.open(report.write_sheet(tmp_path / "sheet.png", columns=1)) as image:
        assert image.width > FRAMES * SIZE


def test_a_tokenizer_and_a_generator_train_and_load(trained: tuple[Path, Path]) -> None:
    tokenizer, generator = (load(str(out)) for out in trained)
    assert tokenizer.tokenizer.layout == Layout((4, 2, 2), 1, 16)
    assert tokenizer.tokenizer.layout.axes == AXES
    assert np.load(trained[0] / "samples" / "samples-000000000256.npy").shape == (1, 2 * 2 * FRAMES, SIZE, SIZE)
    with Image.open(trained[1] / "samples" / "samples-000000000256.png") as image:
        assert image.width > 2 * FRAMES * SIZE  # raw and EMA weights side by side
    clips = generator.generate(classes=["left", "right"], seed=3)
    assert isinstance(clips, Clips)
    assert clips.tensor.shape == (2, 1, FRAMES, SIZE, SIZE)
    assert torch.equal(generator.generate(classes="right", seed=3).tensor, generator.generate(classes="right", seed=3).tensor)


def test_the_last_frames_are_completed(trained: tuple[Path, Path], tmp_path: Path) -> None:
    generator, clip = load(str(trained[1])), moving(3, 1, FRAMES)
    rebuilt = generator.decode(generator.encode(clip[None]))[0]
    for keep, rows in (("first", slice(0, 4)), ("last", slice(4, 8))):
        completed = generator.complete(clip, keep, classes="right", count=2, seed=1)  # type: ignore[arg-type]
        for each in completed.tensor:
            assert torch.equal(each[:, rows], rebuilt[:, rows])
    upper = generator.complete(clip, "upper", classes="right", seed=1).tensor[0]
    assert torch.equal(upper[:, :, :8], rebuilt[:, :, :8])
    written = generator.complete(clip, "first", classes="right", count=2, seed=1).save(tmp_path)
    again = open_data(tmp_path, pictures=FRAMES).media([0, 1])
    assert [path.name for path in written] == ["0000.npy", "0001.npy"]
    expected = generator.complete(clip, "first", classes="right", count=2, seed=1).tensor
    torch.testing.assert_close(again, expected.clamp(-1, 1), atol=1 / 127, rtol=0)


def test_it_is_measured(trained: tuple[Path, Path]) -> None:
    codec, generator = (evaluate(load(str(out))) for out in trained)
    assert set(codec.figures) == {"psnr", "codebook_usage"}
    system = load(str(trained[0]))
    real = open_data(system.recipe.data.set, "heldout", settings=system.recipe.data).media(range(codec.figures["psnr"].n))
    errors = (system.decode(system.encode(real)) - real).square().flatten(1).mean(1)
    assert codec.figures["psnr"].value == pytest.approx(float((10 * (4 / errors).log10()).mean()), rel=1e-4)
    assert set(generator.figures) == {"heldout_loss"}
    assert generator.figures["heldout_loss"].value > 0
