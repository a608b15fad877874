"""Given features as a condition: states and a pooled vector that encoders outside this program computed, such as SD3's (arXiv 2403.03206).

A published text-to-image network reads the states of text encoders that are no part of it. With this condition one computes them where
these encoders are, keeps them in a file, and gives the file in place of the text.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from jielong.conditions.base import NO_CONTEXT, BuildContext, Condition, ConditionSettings
from jielong.conditions.inputs import ConditionInput, HeldoutItems, bytes_from_json
from jielong.conditions.text import pad
from jielong.config.registry import RecipeError
from jielong.networks.conditioning import Conditioning

if TYPE_CHECKING:
    from jielong.core.medium import Medium
    from jielong.data.sets import Batch, MediaSet

COLUMN = "features"
"""The column of a data set that names each item's file."""


class Features(NamedTuple):
    """What encoders computed of one item, and of what guidance leads away from, such as an empty text."""

    states: Tensor  # (L, W)
    pooled: Tensor  # (P,)
    negative_states: Tensor | None = None  # (L', W)
    negative_pooled: Tensor | None = None  # (P,)


FeatureSource = Features | Mapping[str, Tensor] | str | os.PathLike[str]
"""Features, tensors by the names of :class:`Features`, or a safetensors file of these."""


def read_features(value: FeatureSource | bytes) -> Features:
    """Features of any form, or the bytes of a file. Raises ``ValueError`` if there is no such file, or it holds other tensors."""
    if isinstance(value, Features):
        return value
    name = "these features" if isinstance(value, Mapping | bytes) else f"the features {os.fspath(value)!r}"
    if isinstance(value, bytes):
        tensors = _loaded(value, name)
    elif isinstance(value, Mapping):
        tensors = dict(value)
    else:
        path = Path(value)
        if not path.is_file():
            raise ValueError(f"there are no features at {str(path)!r}: give a safetensors file with the tensors states and pooled")
        tensors = _loaded(path.read_bytes(), name)
    known = set(Features._fields)
    if not {"states", "pooled"} <= set(tensors) <= known or ("negative_states" in tensors) != ("negative_pooled" in tensors):
        raise ValueError(
            f"{name} must be the tensors states (L, W) and pooled (P,), and with both of their negative, negative_states and "
            f"negative_pooled, not {', '.join(sorted(tensors)) or 'nothing'}"
        )
    return Features(**tensors)


def _loaded(content: bytes, name: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(f"{name} are no safetensors file ({error}): save them with safetensors.torch.save_file") from None


class FeaturesInput(ConditionInput):
    """A file of features, or :class:`Features`."""

    name = COLUMN
    noun = "features"
    help = "File of features: safetensors with states (L, W) and pooled (P,), and the same of the negative; repeatable."
    metavar = "PATH"
    file = True

    def is_single(self, value: object) -> bool:
        """A path, :class:`Features`, or a mapping."""
        return isinstance(value, Features | Mapping) or super().is_single(value)

    def parse(self, text: str) -> Path:
        """A path."""
        return Path(text)

    def from_json(self, value: object) -> Features:
        """The bytes of a file in base64."""
        return read_features(bytes_from_json(value, "a file of features"))

    def from_batch(self, batch: Batch, medium: Medium) -> list[str]:
        """Keys of the items, by which :meth:`FeaturesCondition.precompute` stores their files."""
        return batch.keys

    def from_heldout(self, items: HeldoutItems) -> list[object] | None:
        """The items' files."""
        column = items.columns.get(COLUMN)
        return None if column is None or not all(column) else list(column)

    def check(self, data: MediaSet, source: str) -> None:
        """There must be a column of files."""
        if COLUMN not in data.columns:
            raise RecipeError(
                f"the recipe is conditioned on features, but {source} has no column {COLUMN!r}, the safetensors file of each item: add "
                "it to metadata.csv"
            )

    def missing(self, data: MediaSet) -> list[int]:
        """Items without a file."""
        return [row for row, path in enumerate(data.columns.get(COLUMN, [None] * len(data))) if not path]


@dataclass(frozen=True)
class PreparedFeatures:
    """Features of a batch, padded, and those of their negatives."""

    given: Conditioning
    negative: Conditioning | None


class FeaturesCondition(Condition[FeatureSource, PreparedFeatures]):
    """States as they are given, and the pooled vector with zeros behind it, of the same width.

    ``settings``: their sizes, and what stands in place of features that are dropped.
    """

    def __init__(self, settings: GivenFeatures) -> None:
        super().__init__(settings.width, settings.cfg_dropout)
        self.settings, self.length, self.files = settings, settings.length, dict[str, str]()

    def resolve(self, value: FeatureSource) -> Features:
        """The features, read once."""
        return self._checked(read_features(self.files.get(value, value) if isinstance(value, str) else value))

    def _checked(self, features: Features) -> Features:
        settings = self.settings
        for name in Features._fields:
            tensor, states = getattr(features, name), name.endswith("states")
            wanted = f"(1 to {settings.length}, {settings.width})" if states else f"({settings.pooled_width},)"
            if tensor is None:
                continue
            fits = tensor.shape[1:] == (settings.width,) and 1 <= len(tensor) <= settings.length if tensor.ndim == 2 else False
            if not (fits if states else tuple(tensor.shape) == (settings.pooled_width,)):
                raise ValueError(f"the features' {name} must be {wanted}, not {tuple(tensor.shape)}")
            if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"the features' {name} must be finite numbers")
        if settings.null_condition == "given" and features.negative_states is None:
            raise ValueError(
                "these features lack negative_states and negative_pooled, those of an empty or a negative text, which guidance of this "
                "model leads away from: add them to the file"
            )
        return features

    def prepare(self, values: Sequence[FeatureSource]) -> PreparedFeatures:
        """Files or features, one per item, to padded states."""
        found = [self.resolve(value) for value in values]
        negative = [(each.negative_states, each.negative_pooled) for each in found]
        given = self._padded([(each.states, each.pooled) for each in found])
        whole = [(states, pooled) for states, pooled in negative if states is not None and pooled is not None]
        return PreparedFeatures(given, self._padded(whole) if len(whole) == len(found) else None)

    def _padded(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Conditioning:
        texts = pad([states.float() for states, _ in pairs])
        pooled = torch.stack([each.float() for _, each in pairs])
        return Conditioning(texts.states, texts.mask, F.pad(pooled, (0, self.width - pooled.shape[1])))

    def embed(self, prepared: PreparedFeatures) -> Conditioning:
        """The states where the weights are, in their dtype."""
        return self._moved(prepared.given)

    def _moved(self, given: Conditioning) -> Conditioning:
        given = given.to(self.null.device)
        return Conditioning(given.states.to(self.null.dtype), given.mask, given.pooled.to(self.null.dtype))

    def forward(self, prepared: PreparedFeatures, dropped: Tensor | None = None) -> Conditioning:
        """States, with the null vector, or the negative features, where ``dropped``, ``(B,)`` bool, is true."""
        if dropped is None or prepared.negative is None or self.settings.null_condition == "learned":
            return super().forward(prepared, dropped)
        rows = torch.arange(len(dropped)) + len(dropped) * dropped.cpu()
        return Conditioning.cat(self.embed(prepared), self._moved(prepared.negative)).rows(rows.to(self.null.device))

    def compared(self, values: Sequence[FeatureSource], draws: object = None) -> Conditioning:
        """The negative features of items, or the null vector."""
        if self.settings.null_condition == "learned":
            return self.unconditional(len(values))
        negative = self.prepare(values).negative
        if negative is None:
            raise ValueError("these features lack negative_states and negative_pooled")
        return self._moved(negative)

    def unconditional(self, batch: int, device: torch.device | str | None = None) -> Conditioning:
        """See :meth:`Condition.unconditional`. Raises ``ValueError`` where there is no null vector."""
        if self.settings.null_condition == "given":
            raise ValueError("this model has no null vector and draws nothing without features: give those of an empty text instead")
        return super().unconditional(batch, device)

    def precompute(self, train: MediaSet, heldout: MediaSet) -> None:
        """Remember and check the files of both splits."""
        for data in (train, heldout):
            for key, path in zip(data.keys, data.columns.get(COLUMN, []), strict=True):
                self.files[key] = str(path)
                self.resolve(key)

    def describe(self) -> dict[str, object]:
        """Sizes of the features."""
        settings = self.settings
        sizes = {"width": settings.width, "pooled": settings.pooled_width, "length": settings.length}
        return {**sizes, "null_condition": settings.null_condition}


class GivenFeatures(ConditionSettings, family="condition", name="features"):
    """Settings of the condition on given features, for networks that read states, such as ``mmdit``.

    Attributes:
        width: Channels ``W`` of the states.
        pooled: Numbers ``P`` of the pooled vector, which is filled up with zeros to ``W``; ``W`` by default.
        length: Most states of an item.
        null_condition: What guidance leads away from, and what takes the place of dropped features in training: a ``learned`` vector, or
            the negative features that are ``given`` with each item, such as those of an empty text (SD3).
    """

    input: ClassVar[ConditionInput] = FeaturesInput()
    pooled: int | None = Field(default=None, ge=1)
    length: int = Field(default=77, ge=1)
    null_condition: Literal["learned", "given"] = "learned"

    @property
    def pooled_width(self) -> int:
        """Numbers of the pooled vector."""
        return self.width if self.pooled is None else self.pooled

    @model_validator(mode="after")
    def _fits(self) -> GivenFeatures:
        if self.pooled_width > self.width:
            raise ValueError(f"pooled is filled up with zeros to width {self.width}, so it can be at most that, not {self.pooled}")
        return self

    def build(self, context: BuildContext = NO_CONTEXT) -> FeaturesCondition:
        """The condition."""
        return FeaturesCondition(self)
