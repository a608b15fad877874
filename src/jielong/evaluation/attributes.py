"""A judge of attributes, a small network that reads them from pictures, and the accuracy of generated pictures by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch
from pydantic import PositiveInt, TypeAdapter
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.core.allocation import bounded
from jielong.core.json import JSON
from jielong.evaluation.provenance import Measurement, check_pictures, picture_hash
from jielong.training.checkpoint import CHECKSUMS, bytes_of, checksums_of, fit_tensors, read_weights

WEIGHTS, PROVENANCE = "judge.safetensors", "provenance.json"
ABSENT = "none"
"""The value of an attribute that a picture could show and does not."""
SILENT = frozenset({ABSENT, "open"})
"""Values that captions do not name."""

COLOURS = frozenset({"hair_color", "hat_color", "skin", "eye_color", "clothes_color"})
"""Attributes that are colors."""
Values = Mapping[str, Sequence[str | None]]
"""For each attribute the value of each picture; ``None`` where there is none."""


@dataclass(frozen=True)
class JudgeRecord:
    """What a judge was trained on, and how well it reads real pictures.

    Attributes:
        data: The set.
        size: Side of the pictures.
        width: Channels of the network.
        hidden: Its features of each place.
        classes: Values of each attribute.
        command: That trains it again.
        data_fingerprint: Of the training split.
        pictures: Of the training split, that it was trained on.
        validation: Of the training split, that chose what is judged.
        heldout: Real held-out pictures.
        accuracy: Share of those whose value is read, for each attribute, over the values that are judged.
        checked: How many of these values held-out pictures have.
        accuracy_all: Accuracy over all values.
        accuracy_real: ``attribute_accuracy`` of those.
        unread: Values of attributes that are not judged, since real pictures of them are read too seldom.
        sha256: Of the weights.
    """

    data: str
    size: PositiveInt
    width: PositiveInt
    hidden: PositiveInt
    classes: dict[str, list[str]]
    command: str = ""
    data_fingerprint: str = ""
    pictures: int = 0
    validation: int = 0
    heldout: int = 0
    accuracy: dict[str, float] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)
    accuracy_all: dict[str, float] = field(default_factory=dict)
    accuracy_real: float = 0.0
    unread: dict[str, list[str]] = field(default_factory=dict)
    sha256: str = ""


class JudgeError(RuntimeError):
    """A judge cannot be loaded, or cannot read such pictures; the message says what would be right."""


class AttributeNet(nn.Module):
    """Convolutions and a layer for each attribute; colors are those of the places that shapes point to.

    A color is read by scaled attention (Vaswani et al. 2017, arXiv:1706.03762): shapes weigh the places of 4 x 4 pixels, and the class
    follows from the weighted mean of features of these alone. So it does not depend on the hair that a color was seen with.

    Args:
        classes: Values of each attribute.
        size: Side of the pictures, a multiple of 8.
        width: Channels after the first convolution; the last ones have three times as many.
        hidden: Features of each place of 8 x 8 pixels; those that attributes share are three times as many.
        channels: Of the pictures.
    """

    def __init__(self, classes: Mapping[str, Sequence[str]], size: int, width: int = 32, hidden: int = 64, channels: int = 3) -> None:
        super().__init__()
        wide, flat, shared = 3 * width, hidden * (size // 8) ** 2, 3 * hidden
        self.edges = nn.Sequential(*_layer(channels, width, 4, 2, 1), *_layer(width, 2 * width, 4, 2, 1))
        middle = (*_layer(2 * width, wide, 3, 2, 1), *_layer(wide, wide, 3, 1, 1), *_layer(wide, hidden, 1, 1, 0))
        self.shapes = nn.Sequential(*middle, nn.Flatten())
        self.shared = nn.Sequential(nn.Dropout(0.2), nn.Linear(flat, shared), nn.ReLU())
        self.colours = nn.Sequential(*_layer(channels, hidden, 4, 4, 0), *_layer(hidden, hidden, 1, 1, 0))
        read = [name for name in classes if name in COLOURS]
        self.pointers = nn.ModuleDict({name: nn.Linear(shared, (size // 4) ** 2) for name in read})
        self.local = nn.ModuleDict({name: nn.Conv2d(2 * width, 1, 1) for name in read})
        inputs_of = {name: hidden if name in COLOURS else shared for name in classes}
        self.heads = nn.ModuleDict({name: nn.Linear(inputs_of[name], len(values)) for name, values in classes.items()})

    def drop(self, name: str) -> None:
        """Read an attribute no more."""
        for modules in (self.heads, self.pointers, self.local):
            if name in modules:
                del modules[name]

    def forward(self, pictures: Tensor, shown: Tensor | None = None) -> dict[str, Tensor]:
        """Logits ``(B, classes)`` of each attribute.

        Args:
            pictures: ``(B, C, size, size)`` in [-1, 1].
            shown: What shapes are read from, if that is not the same.
        """
        edges = self.edges(pictures if shown is None else shown)
        shared = self.shared(self.shapes(edges))
        colours = self.colours(pictures).flatten(2)
        found = {}
        for name, head in self.heads.items():
            features = shared
            if name in self.pointers:
                scores = self.pointers[name](shared) + self.local[name](edges).flatten(1)
                # scaled, since an attention that is sharp at once never learns that a hat may hide hair
                features = torch.einsum("bcp,bp->bc", colours, (scores / math.sqrt(colours.shape[1])).softmax(1))
            found[name] = head(features)
        return found


def _layer(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.BatchNorm2d(outputs), nn.ReLU()]


class AttributeJudge:
    """A trained network and what it was trained on.

    Args:
        network: The network.
        record: Its provenance.
    """

    def __init__(self, network: AttributeNet, record: JudgeRecord) -> None:
        self.network, self.record = network.eval().requires_grad_(False), record

    @property
    def classes(self) -> dict[str, list[str]]:
        """Values of each attribute."""
        return self.record.classes

    @classmethod
    def load(cls, folder: Path) -> AttributeJudge:
        """A judge from its folder.

        Raises:
            JudgeError: if the record or the weights are missing or damaged, or belong to another judge.
        """
        weights = folder / WEIGHTS
        try:
            record = TypeAdapter(JudgeRecord).validate_json((folder / PROVENANCE).read_bytes(), strict=True)
            if (found := checksums_of(folder).get(WEIGHTS)) != record.sha256:
                raise JudgeError(f"{folder / CHECKSUMS} gives {WEIGHTS} the SHA-256 {found}, but {PROVENANCE} {record.sha256}")
            tensors = read_weights(weights)
            with bounded(4 * bytes_of(tensors), f"{weights} holds {bytes_of(tensors) / 1e6:.1f} MB"):
                network = AttributeNet(record.classes, record.size, record.width, record.hidden)
            fit_tensors(network, tensors, str(weights))
        except (OSError, ValueError) as error:
            train = f"python -m jielong.evaluation.attribute_training --out {folder}"
            raise JudgeError(f"{folder} has no judge of attributes ({error}); train it with: {train}") from error
        return cls(network, record)

    @classmethod
    def of(cls, data: str) -> AttributeJudge | None:
        """The shipped judge of a data set; ``None`` where there is none."""
        try:
            folder = Path(import_module("jielong_zoo").path()) / "models" / f"judge-{data}"
        except ImportError:
            return None
        return cls.load(folder) if folder.is_dir() else None

    def read(self, pictures: Tensor) -> dict[str, list[str]]:
        """The most likely value of each attribute, of pictures ``(N, 1 or 3, S, S)`` in [-1, 1]; other sizes are resampled.

        Raises:
            JudgeError: if they are not square: it has seen none that are squeezed or cut.
        """
        check_pictures(pictures)
        height, width = pictures.shape[-2:]
        if height != width:
            raise JudgeError(f"the judge of {self.record.data} reads squares, and these are {height} x {width}")
        found: dict[str, list[str]] = {name: [] for name in self.classes}
        with torch.no_grad():
            for part in pictures.float().cpu().expand(-1, 3, -1, -1).split(256):
                if part.shape[-2:] != (self.record.size, self.record.size):
                    part = F.interpolate(part, size=(self.record.size, self.record.size), mode="bicubic", antialias=True).clamp(-1, 1)
                for name, logits in self.network(part).items():
                    found[name] += [self.classes[name][index] for index in logits.argmax(1).tolist()]
        return found


@dataclass(frozen=True)
class Reading:
    """An attribute that a picture should show, and whether the judge reads it so."""

    item: int  # of the picture
    attribute: str
    wanted: str
    right: bool


def readings(pictures: Tensor, wanted: Values, judge: AttributeJudge) -> list[Reading]:
    """Of every attribute and picture with a value that is judged, those of values that captions do not name too; see :data:`SILENT`.

    Args:
        pictures: ``(N, 3, H, W)`` in [-1, 1].
        wanted: Values of each attribute that the captions describe.
        judge: The judge.
    """
    found = judge.read(pictures)
    return [
        Reading(item, attribute, value, value == seen)
        for attribute, values in wanted.items()
        for item, (value, seen) in enumerate(zip(values, found.get(attribute, ()), strict=attribute in found))
        if value is not None and value not in judge.record.unread.get(attribute, ())
    ]


def accuracy_of_each(pictures: Tensor, wanted: Values, judge: AttributeJudge) -> Tensor:
    """Share of its caption's attributes that each picture shows, ``(N,)`` float64; arguments as of :func:`attribute_accuracy`.

    Raises:
        ValueError: if a caption names no attribute that is judged.
    """
    right, named = torch.zeros(2, len(pictures), dtype=torch.float64)
    for each in readings(pictures, wanted, judge):
        if each.wanted not in SILENT:
            right[each.item] += each.right
            named[each.item] += 1
    if not named.all():
        raise ValueError(f"{int((named == 0).sum())} of {len(pictures)} captions name no attribute of {', '.join(judge.classes)}")
    return right / named


def attribute_accuracy(pictures: Tensor, wanted: Values, judge: AttributeJudge, name: str = "attribute_accuracy") -> Measurement:
    """Share of the attributes named by captions that the judge reads as named, over all pictures and attributes that it judges.

    Values that captions do not name (``none``, eyes that are ``open``) are counted apart: ``details["unnamed"]`` is the share of them
    that pictures show as they should, such as no glasses where none are asked for.

    Args:
        pictures: ``(N, 3, H, W)`` in [-1, 1].
        wanted: Values of each attribute that the captions describe.
        judge: The judge.
        name: Name of the measurement.

    Raises:
        ValueError: if no attribute is judged.
    """
    right: dict[str, list[bool]] = {}
    by_value: dict[str, dict[str, list[bool]]] = {}
    unnamed: list[bool] = []
    for each in readings(pictures, wanted, judge):
        if each.wanted in SILENT:
            unnamed.append(each.right)
        else:
            right.setdefault(each.attribute, []).append(each.right)
            by_value.setdefault(each.attribute, {}).setdefault(each.wanted, []).append(each.right)
    everything = [hit for hits in right.values() for hit in hits]
    if not everything:
        raise ValueError(f"the judge reads {', '.join(judge.classes)}, but no picture has a value of any of them")
    share = sum(everything) / len(everything)
    details: JSON = {
        "protocol": "share of (picture, attribute named by its caption) that the judge reads as named",
        "named": len(everything),
        "attributes": {attribute: round(sum(hits) / len(hits), 4) for attribute, hits in right.items()},
        "values": {
            attribute: {value: {"value": round(sum(hits) / len(hits), 4), "n": len(hits)} for value, hits in sorted(values.items())}
            for attribute, values in by_value.items()
        },
        "unnamed": round(sum(unnamed) / len(unnamed), 4) if unnamed else None,
        "standard_error": math.sqrt(share * (1 - share) / len(everything)),
        "pictures_sha256": picture_hash(pictures),
        "judge": {"data": judge.record.data, "sha256": judge.record.sha256},
    }
    return Measurement(name, share, len(pictures), details)
