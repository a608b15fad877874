"""The `adapter:` section of a recipe: what is trained in place of a model's weights, for a subject of few pictures."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from jielong.config.registry import Config

NAME = re.compile(r"@[A-Za-z0-9_]{1,40}")
"""How subjects are called: no text has such a word by chance, and it is one word for every text encoder."""
PLACE = "{name}"
"""What stands for the name in a template of captions."""
Method = Literal["lora", "textual-inversion", "both"]


def check_name(name: str) -> str:
    """The name of an adapter. Raises ``ValueError`` if it cannot be one."""
    if NAME.fullmatch(name) is None:
        right = re.sub(r"\W", "_", name).strip("_")[:40] or "me"
        raise ValueError(f"{name!r} may be a word of any text, so a name is @ and up to 40 letters, digits and underscores: write @{right}")
    return name


def names_in(text: str, name: str) -> bool:
    """Whether a text has a name as a word."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


class LoraSettings(Config):
    """Low-rank updates of linear maps: ``W + alpha / rank B A`` with ``A`` random and ``B`` zero at first (LoRA, arXiv 2106.09685).

    Attributes:
        rank: Rows of ``A``.
        alpha: Scale of the update times ``rank``; by default ``rank``.
        targets: Which maps of a network's repeated blocks: ``attention`` (to queries, keys and values, and from what was attended to),
            ``mlp`` (all others but those of adaptive norms), ``modulation`` (of adaptive norms), or names of maps such as ``qkv``. A path
            with dots, such as ``backbone.blocks.0-3`` or ``head.*.attention``, means all linear maps and convolutions there, in blocks or
            not.
    """

    rank: PositiveInt = 8
    alpha: PositiveFloat | None = None
    targets: tuple[str, ...] = Field(default=("attention", "mlp"), min_length=1)

    @property
    def scale(self) -> float:
        """``alpha / rank``."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class TextualInversionSettings(Config):
    """A new word for the subject, whose vectors are all that is trained of the text encoder (textual inversion, arXiv 2208.01618).

    Attributes:
        vectors: Rows of the encoder's input embedding that the word takes.
        noun: The subject's class, such as ``person``, whose tokens the vectors begin as; by default they begin as the mean of all.
    """

    vectors: PositiveInt = 1
    noun: str | None = Field(default=None, min_length=1)


class PriorSettings(Config):
    """Prior preservation: the loss on pictures of the subject's class is added (DreamBooth, arXiv 2208.12242, equation 2).

    Attributes:
        set: The class pictures with their captions: a set's name, or a folder.
        pictures: How many of them are used, evenly spread.
        weight: Factor of their loss; each batch has as many of them as pictures of the subject.
    """

    set: str
    pictures: PositiveInt = 200
    weight: PositiveFloat = 1.0


class AdapterSettings(Config):
    """An adapter of the model ``train.init_from``, whose own weights stay as they are.

    Attributes:
        name: The subject's name in captions, such as ``@me``.
        captions: Of pictures without one, each a template with ``{name}``.
        lora: Low-rank updates of the backbone and the head.
        textual_inversion: A new word of the text condition.
        prior: Prior preservation; off by default.
        licence: Whose the pictures are and under which terms, for the adapter's record.
    """

    name: str
    captions: tuple[str, ...] = Field(default=(f"a picture of {PLACE}",), min_length=1)
    lora: LoraSettings | None = None
    textual_inversion: TextualInversionSettings | None = None
    prior: PriorSettings | None = None
    licence: str | None = None

    _check_name = field_validator("name")(check_name)

    @field_validator("captions")
    @classmethod
    def _check_captions(cls, captions: tuple[str, ...]) -> tuple[str, ...]:
        for caption in captions:
            if PLACE not in caption:
                raise ValueError(f"the template {caption!r} has no {PLACE}, where the subject's name goes: write 'a picture of {PLACE}'")
        return captions

    @model_validator(mode="after")
    def _trains_something(self) -> AdapterSettings:
        if self.lora is None and self.textual_inversion is None:
            raise ValueError("an adapter trains nothing: add lora: {}, textual_inversion: {}, or both")
        return self

    @property
    def method(self) -> Method:
        """What is trained, in a word."""
        if self.lora is not None and self.textual_inversion is not None:
            return "both"
        return "textual-inversion" if self.lora is None else "lora"

    def captions_of_subject(self) -> tuple[str, ...]:
        """The templates with the name."""
        return tuple(caption.replace(PLACE, self.name) for caption in self.captions)
