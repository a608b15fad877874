"""What is checked before a comparison trains: that media agree, and that every model can be built and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jielong.apps.comparison.contestants import Entry
from jielong.apps.comparison.measuring import measure
from jielong.config.schema import Recipe
from jielong.core.json import JSON
from jielong.data.sets import MediaSet
from jielong.media.kinds.base import kind_of
from jielong.system import System, load_stages
from jielong.training.experiment import prepare

TRIED = 2
"""Held-out items that untrained models are measured on."""
KINDS, CHANNELS = "kinds of media", "channels"
_UNSET = (KINDS, CHANNELS)  # what no key of a recipe sets

Log = Callable[[str], None]


def common_medium(heldout: Mapping[str, MediaSet]) -> JSON:
    """Keys of the common medium, such as the size of pictures or the sample rate and duration of sounds.

    Raises:
        ValueError: if they differ.
    """
    keys: dict[str, JSON] = {label: {KINDS: kind_of(each.medium).name, CHANNELS: each.medium.channels} for label, each in heldout.items()}
    if len({str(each[KINDS]) for each in keys.values()}) == 1:
        keys = {label: each | kind_of(heldout[label].medium).keys_of(heldout[label].medium) for label, each in keys.items()}
    for name in next(iter(keys.values())):
        values = {label: each[name] for label, each in keys.items()}
        if any(value != next(iter(values.values())) for value in values.values()):
            listed = ", ".join(f"{label}: {value}" for label, value in values.items())
            advice = "compare only entries with the same one" if name in _UNSET else f"set data.{name} for all with --set"
            raise ValueError(f"different {name} ({listed}), so figures are not comparable: {advice}")
    medium = next(iter(heldout.values())).medium
    return kind_of(medium).keys_of(medium)


def check_untrained(entry: Entry, recipe: Recipe, data: str, log: Log) -> None:
    """Build a recipe's model and measure it untrained on a few items, so that what fails there fails before the budget is spent.

    Args:
        entry: The entry.
        recipe: Its recipe at the budget.
        data: Name or path of the data set.
        log: Receives which figures need packages that are not installed.

    Raises:
        ValueError: with the entry's name, if that fails.
    """
    log(f"{entry.label}: checking")
    try:
        built = prepare(recipe, data)
        for model in (built.tokenizer, *([] if built.generator is None else [built.generator])):
            model.eval().requires_grad_(False)
        system = System(entry.label, recipe, built.tokenizer, built.generator, load_stages(recipe, built.media))
        omitted = measure(system, data, TRIED, recipe.train.seed).omitted
    except (ValueError, RuntimeError, ImportError, ArithmeticError) as error:
        raise ValueError(f"{entry.label}: {error or type(error).__name__}") from error
    for name, reason in omitted.items():
        if "not installed" in reason:
            log(f"{entry.label}: without {name}: {reason}")
