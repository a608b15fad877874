"""Train the two-tower scorer on the training split of a captioned set."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TypedDict

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from jielong.core.files import write_bytes
from jielong.core.json import JSON
from jielong.core.storage import cache_folder, optional
from jielong.data import MediaSet
from jielong.evaluation import fitting
from jielong.evaluation.features import FeatureExtractor
from jielong.evaluation.provenance import Measurement
from jielong.evaluation.scorer import PROVENANCE, WEIGHTS, Scorer, ScorerError, TextEncoder, Towers
from jielong.losses.contrastive import contrastive_loss

STEPS = 400
"""Fewest steps of a scorer that an evaluation trains on a set of its own."""


@dataclass(frozen=True)
class Settings:
    """Training settings of the scorer.

    Attributes:
        hidden: Width of the heads' hidden layers.
        width: Dimensions of the shared space.
        dropout: Dropout of both heads.
        views: Augmented copies of each image, besides the clean one.
        epochs: Epochs; each uses one view of an image.
        batch: Batch size; the other images of a batch are negatives.
        lr: Peak learning rate (AdamW, one warm-up epoch, cosine decay to zero).
        weight_decay: Weight decay of AdamW.
        seed: Seed of initialisation, augmentation, views and order.
    """

    hidden: int = 128
    width: int = 128
    dropout: float = 0.2
    views: int = 1
    epochs: int = 40
    batch: int = 256
    lr: float = 2e-3
    weight_decay: float = 0.1
    seed: int = 0


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Augmentation that imitates artefacts of a tokenizer, so that the score depends on content and not on sharpness.

    Random per image: a shift of up to 3 pixels; downsampling to between 40 and 100 % of the size and upsampling; Gaussian blur of sigma up
    to 1; Gaussian noise of sigma up to 0.08; contrast 0.9 to 1.1.

    Args:
        pictures: ``(B, C, H, W)`` in [-1, 1].
        generator: Source of all random numbers.
    """
    return torch.cat([_augment_one(picture[None], generator) for picture in pictures])


def _augment_one(x: Tensor, generator: torch.Generator) -> Tensor:
    smaller, sigma, noise, contrast = torch.rand(4, generator=generator).tolist()
    left, top = torch.randint(0, 7, (2,), generator=generator).tolist()
    size = x.shape[-2:]
    x = F.pad(x, (3, 3, 3, 3), mode="replicate")[..., top : top + size[0], left : left + size[1]]
    reduced = [max(1, round(n * (1 - 0.6 * smaller))) for n in size]
    x = F.interpolate(F.interpolate(x, size=reduced, mode="bilinear", antialias=True), size=size, mode="bilinear")
    x = _blur(x, sigma)
    x = x * (0.9 + 0.2 * contrast) + 0.08 * noise * torch.randn(x.shape, generator=generator)
    return x.clamp(-1, 1)


def _blur(x: Tensor, sigma: float) -> Tensor:
    radius = 3
    kernel = torch.exp(-(torch.arange(-radius, radius + 1).float().square()) / (2 * max(sigma, 1e-2) ** 2))
    kernel = (kernel / kernel.sum()).repeat(x.shape[1], 1, 1)
    for shape, padding in (((-1, 1, 1, 2 * radius + 1), (radius, radius, 0, 0)), ((-1, 1, 2 * radius + 1, 1), (0, 0, radius, radius))):
        x = F.conv2d(F.pad(x, padding, mode="replicate"), kernel.reshape(shape), groups=x.shape[1])
    return x


@dataclass(frozen=True)
class Examples:
    """Frozen features that the heads are trained on.

    Attributes:
        pictures: ``(N, 1 + views, 1280)``, the clean view first.
        captions: ``(N, 384)``.
    """

    pictures: Tensor
    captions: Tensor


def extract(images: MediaSet, settings: Settings, extractor: FeatureExtractor, text_encoder: TextEncoder, log: bool = False) -> Examples:
    """Features of each image, clean and augmented, and of each caption."""
    generator = torch.Generator().manual_seed(settings.seed)
    parts = []
    for start in range(0, len(images), 64):
        clean = images.media(range(start, min(start + 64, len(images))))
        views = [clean, *(augment(clean, generator) for _ in range(settings.views))]
        parts.append(torch.stack([extractor(view) for view in views], dim=1))
        if log and start // 64 % 10 == 0:
            print(f"features of {start + len(clean)}/{len(images)} pictures", flush=True)
    return Examples(torch.cat(parts), text_encoder(images.captions))


def fit(examples: Examples, settings: Settings, log: bool = False) -> Towers:
    """Train the towers; the same examples and settings give the same weights."""
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):  # initialisation and dropout draw from the global generator
        torch.manual_seed(settings.seed)
        towers = Towers(settings.hidden, settings.width, settings.dropout).train()
        weights = [parameter for parameter in towers.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in towers.parameters() if parameter.ndim <= 1]  # biases, norms, temperature: no decay
        groups: list[dict[str, object]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
        count, views, _ = examples.pictures.shape
        per_epoch = fitting.steps_of(count, settings.batch)

        def factor(step: int) -> float:
            progress = step / (per_epoch * settings.epochs)
            return min(1.0, (step + 1) / per_epoch) * (1 + math.cos(math.pi * progress)) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

        def loss_of(rows: Tensor) -> Tensor:
            view = torch.randint(views, (len(rows),), generator=generator)
            return contrastive_loss(towers(examples.pictures[rows, view], examples.captions[rows]))

        losses = fitting.fit(count, settings.batch, generator, loss_of, optimizer, schedule)
        for epoch, loss in enumerate(islice(losses, settings.epochs), 1):
            if log and epoch % 10 == 0:
                print(f"epoch {epoch}/{settings.epochs}: loss {loss:.3f}", flush=True)
    return towers.eval()


def scorer_for(features: Tensor, captions: Sequence[str], images: MediaSet, extractor: FeatureExtractor) -> Scorer:
    """A scorer trained on features ``(N, 1280)`` of training pictures and their captions, from the user's cache if trained before.

    Args:
        features: Of the pictures, without changed views.
        captions: One a picture.
        images: The training split.
        extractor: What the features were extracted by.
    """
    settings = Settings(views=0, epochs=max(Settings.epochs, STEPS // max(1, len(captions) // Settings.batch)))
    encoder = TextEncoder()
    facts: Facts = {
        "data": images.name,
        "split": "train",
        "pictures": len(captions),
        "data_fingerprint": images.fingerprint,
        "features": extractor.provenance(),
        "text": encoder.provenance(),
        "command": "jielong evaluate",
    }
    key = hashlib.sha256(json.dumps([facts, asdict(settings), list(captions)], sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_folder() / "scorers" / key
    with contextlib.suppress(ScorerError, ValueError, OSError, KeyError):
        return Scorer.load(folder, extractor)
    towers = fit(Examples(features[:, None], encoder(captions)), settings)
    details: JSON = {"sha256": "", "settings": asdict(settings), **facts}
    with optional():
        details |= write(folder, towers, settings, facts)
    return Scorer(towers, details, extractor, encoder)


class Facts(TypedDict):
    """Data, encoders and command of a scorer."""

    data: str
    split: str
    pictures: int
    data_fingerprint: str
    features: JSON
    text: JSON
    command: str


class Record(Facts):
    """Provenance file of a scorer."""

    sha256: str
    settings: JSON


def write(folder: Path, towers: Towers, settings: Settings, facts: Facts) -> Record:
    """Write weights and their record; returns the record.

    Args:
        folder: Output folder.
        towers: Trained heads.
        settings: Training settings.
        facts: Data, encoders and command.
    """
    weights = save({name: tensor.detach().contiguous() for name, tensor in towers.state_dict().items()})
    record: Record = {"sha256": hashlib.sha256(weights).hexdigest(), "settings": asdict(settings), **facts}
    write_bytes(folder / WEIGHTS, weights)
    write_bytes(folder / PROVENANCE, (json.dumps(record, indent=2) + "\n").encode())
    return record


def card(record: Record, real: Measurement) -> str:
    """The model card of a scorer, in Markdown.

    Args:
        record: Result of :func:`write`.
        real: The score of the real held-out pictures.
    """
    settings = record["settings"]
    error, candidates = real.number("standard_error"), int(real.number("candidates"))
    rows = {
        "Real held-out images": f"{real.value:.1%} ± {error:.1%} (n = {real.n}, {candidates} candidates)",
        "Trained on": f"`{record['data']}`, training split only, {record['pictures']} images",
        "Objective": f"InfoNCE in both directions, learned temperature, batches of {settings['batch']}, {settings['epochs']} epochs",
        "Views": f"clean, and {settings['views']} with shift, blur, reduced size, noise, contrast",
        "Weights": f"`{WEIGHTS}`, SHA-256 `{record['sha256']}`",
        "Made by": f"`{record['command']}`",
        "Checked by": "`python -m jielong.evaluation.retrieval real`",
        "Licence": "Apache-2.0",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""# A two-tower scorer

Scores how well an image fits a caption: two small trained heads on frozen EfficientNet-lite2 and frozen all-MiniLM-L6-v2.
It measures `retrieval_at_1`: the fraction of generated images whose caption scores above {candidates - 1} others, style included.
It is trained on one data set: its figures compare models on that set only.

| | |
|---|---|
{table}

The changed views make the score tolerant of a tokenizer's artefacts.
"""
