"""What each style of DiceBear can draw, by readable values of attributes, and which values exclude each other."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jielong_zoo.builders.faces.colours import CLOTHES, EYES, HAIR, SKIN

NATURAL = {"black": 3.0, "brown": 3.0, "blond": 2.0, "red": 2.0}
"""Weights of colours of hair; 1 for the others."""

Look = Mapping[str, tuple[str, ...]]
"""Parts of a drawing and their variants, any of which shows the same value."""
Attributes = dict[str, str | None]
"""Values by name; ``None`` where a style cannot show the attribute, or something hides it; ``none`` where it could be and is not."""
ATTRIBUTES = (
    *("hair", "hair_color", "hat", "hat_color", "skin", "eyes", "eye_color", "expression"),
    *("glasses", "facial_hair", "earrings", "clothes", "clothes_color"),
)
"""Columns of the set; ``style`` comes before them."""


@dataclass(frozen=True)
class Style:
    """A style of DiceBear.

    Attributes:
        name: Of its npm package, after ``@dicebear/``.
        title: In captions.
        title_zh: In Chinese ones.
        values: For each attribute its values, and the parts that show them.
        colours: For each attribute that is a colour, the options of DiceBear that take it.
        optional: Parts that are drawn with a probability: absent unless a value asks for them.
        fixed: Options that are the same in every picture.
        free: Parts that no attribute describes, and their variants.
        settle: Makes drawn values consistent: what is hidden becomes ``None``. Changes its argument.
        weights: Of values that are not all equally likely.
    """

    name: str
    title: str
    title_zh: str
    values: Mapping[str, Mapping[str, Look]]
    colours: Mapping[str, tuple[str, ...]]
    settle: Callable[[Attributes], None]
    optional: tuple[str, ...] = ()
    fixed: Look = field(default_factory=dict)
    free: Look = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def palette(self, attribute: str) -> Mapping[str, tuple[str, ...]]:
        """sRGB colours of an attribute by name."""
        return {"hair_color": HAIR, "skin": SKIN, "eye_color": EYES}.get(attribute, CLOTHES)

    def choices(self, attribute: str) -> list[str]:
        """Values that the style can show."""
        if attribute in self.values:
            return list(self.values[attribute])
        return list(self.palette(attribute)) if attribute in self.colours else []

    def draw(self, rng: random.Random) -> Attributes:
        """Values at random, consistent with each other."""
        drawn: Attributes = dict.fromkeys(ATTRIBUTES)
        for attribute in ATTRIBUTES:
            if choices := self.choices(attribute):
                weights = self.weights.get(attribute, NATURAL if attribute == "hair_color" else {})
                drawn[attribute] = rng.choices(choices, [weights.get(value, 1.0) for value in choices])[0]
        self.settle(drawn)
        return drawn

    def options(self, attributes: Attributes, seed: str) -> dict[str, list[str] | int]:
        """Options of DiceBear that draw these values; the seed chooses variants and shades that no attribute describes."""

        def choose(part: str, variants: tuple[str, ...]) -> str:
            return random.Random(f"{seed}/{part}").choice(variants)

        looks: dict[str, tuple[str, ...]] = {**self.free, **self.fixed}
        for attribute, value in attributes.items():
            looks |= self.values.get(attribute, {}).get(value or "", {})
        if attributes["hair_color"] == "black" and "head_black" in looks:
            looks["head"] = looks.get("head", ()) + looks["head_black"]
        looks.pop("head_black", None)
        options: dict[str, list[str] | int] = {f"{part}Probability": 0 for part in self.optional}
        for part, variants in looks.items():
            options[part] = [choose(part, variants)]
            if part in self.optional:
                options[f"{part}Probability"] = 100
        for attribute, names in self.colours.items():
            value = attributes[attribute]
            if value is not None:
                shade = choose(attribute, self.palette(attribute)[value])
                options |= {name: [shade] for name in names}
        return options


def variants(part: str, values: Mapping[str, str]) -> dict[str, Look]:
    """Values that one part shows, each by variants separated by spaces; by its absence if there are none."""
    return {name: {part: tuple(variants.split())} if variants else {} for name, variants in values.items()}
