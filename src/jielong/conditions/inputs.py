"""Named inputs of conditions: how a data set, a Python call, the command line and an evaluation supply their values."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from jielong.config.registry import RecipeError
from jielong.core.text import shown
from jielong.data.order import spread

if TYPE_CHECKING:
    from jielong.core.medium import Medium
    from jielong.data.sets import Batch, MediaSet


@dataclass(frozen=True)
class HeldoutItems:
    """Held-out items for which an evaluation generates, one each."""

    source: str  # name of the set
    batch: Batch  # the items, with their media
    classes: Sequence[str]  # names of the set's classes
    medium: Medium
    # For each item another recording of its speaker, (C, T); None where the speaker is unknown.
    prompts: Sequence[Tensor | None] | None = None
    duration_scale: float = 1.0  # factor on the durations of the real recordings
    sources: Sequence[Tensor] | None = None  # of pairs: what each item was made from, (C, *size)
    columns: Mapping[str, Sequence[object]] = field(default_factory=dict)  # other columns of the set, a value an item

    @property
    def recordings(self) -> list[Tensor]:
        """Each item's media without the padding after its end."""
        media, lengths = self.batch.media, self.batch.lengths
        return [item if lengths is None else item[..., : int(lengths[index])] for index, item in enumerate(media)]


class ConditionInput(ABC):
    """One named input of a condition, and how its values are supplied."""

    name: ClassVar[str]  # its name, and the option on the command line (--name)
    noun: ClassVar[str]  # what a value is, for messages
    help: ClassVar[str]  # help of the command-line option
    metavar: ClassVar[str] = "TEXT"  # its placeholder there
    sets_duration: ClassVar[bool] = False  # the values are durations in seconds, which generated items have exactly
    speech: ClassVar[bool] = False  # the model generates speech
    file: ClassVar[bool] = False  # a value is a file, which a request over HTTP holds in base64
    may_be_empty: ClassVar[bool] = False  # an item of a data set may have an empty value
    generated: ClassVar[bool] = False  # an earlier stage supplies the values: commands have no option for them
    paired: ClassVar[bool] = False  # the values are what items of a set of pairs were made from

    @property
    def keyword(self) -> str:
        """The argument of :meth:`jielong.system.System.generate`: the name, unless that is reserved in Python."""
        return self.name

    @property
    def option(self) -> str:
        """The option on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @abstractmethod
    def from_batch(self, batch: Batch, medium: Medium) -> Sequence[object] | None:
        """One value per item of a training batch; ``None`` where some items have none.

        Args:
            batch: Items; ``media`` is empty where the set was tokenized beforehand, so values that are computed from media are looked up by
                key, after :meth:`~jielong.conditions.base.Condition.precompute`.
        """

    def from_heldout(self, items: HeldoutItems) -> Sequence[object] | None:
        """One value per held-out item, for evaluation; those of :meth:`from_batch` by default."""
        return self.from_batch(items.batch, items.medium)

    def for_samples(self, data: MediaSet, count: int) -> Sequence[object] | None:
        """Up to ``count`` values for the sample grid of training; those of held-out items by default."""
        return self.from_batch(data.batch(spread(len(data), count)), data.medium)

    def check(self, data: MediaSet, source: str) -> None:  # noqa: B027 - not every input needs a check
        """Check that a training set can supply values. Raises ``ValueError`` if it cannot."""

    def missing(self, data: MediaSet) -> list[int]:
        """Indices of the items for which a set has no value; none by default."""
        return []

    def listed(self, value: object) -> Sequence[object]:
        """The values of a Python argument, which is one value or a sequence of them."""
        return list(value) if isinstance(value, Iterable) and not self.is_single(value) else [value]

    def is_single(self, value: object) -> bool:
        """Whether a Python argument is one value."""
        return isinstance(value, str | Path)

    def parse(self, text: str) -> object:
        """The value of a command-line option; the text itself by default. Raises ``ValueError`` if the text does not describe a value."""
        return text

    def from_json(self, value: object) -> object:
        """The value of a request over HTTP: by default a text, as on the command line. Raises ``ValueError`` if it describes none."""
        if not isinstance(value, str):
            raise ValueError(f"expected a text, got {shown(value)}")
        return self.parse(value)

    def caption(self, value: object) -> str:
        """Caption of an item that is generated with this value; empty for none."""
        return ""


class InputError(ValueError):
    """A missing, unknown or misfitting input; the message names the Python argument, :meth:`on_command_line` the option.

    ``message``: with ``{name}`` in place of each input; ``inputs``: the inputs that it names.
    """

    def __init__(self, message: str, inputs: Sequence[ConditionInput]) -> None:
        self._message, self._inputs = message, inputs
        super().__init__(self.naming(lambda each: f"`{each.keyword}`"))

    def on_command_line(self) -> str:
        """The message with options in place of arguments."""
        return self.naming(lambda each: each.option)

    def naming(self, name: Callable[[ConditionInput], str]) -> str:
        """The message with each input as ``name`` writes it."""
        text = self._message
        for each in self._inputs:
            text = text.replace("{" + each.name + "}", name(each))
        return text


def broadcast(
    given: Mapping[ConditionInput, object], inputs: Sequence[ConditionInput], count: int, model: str
) -> tuple[dict[str, list[object]], int]:
    """Values of a call, one per item: each input has one value or as many as the longest, and each set of values ``count`` items.

    ``count``: items per set of values. Raises ``InputError`` if the model has no such input, or the numbers of values differ.

    Returns values by input name, and the number of items; 0 if nothing is given.
    """
    for each in given:
        if each.name not in {known.name for known in inputs}:
            takes = " and ".join("{" + known.name + "}" for known in inputs)
            fault = f"{model} takes {takes}, not" if inputs else f"{model} was trained without a condition and takes no"
            raise InputError(f"{fault} {{{each.name}}}", [*inputs, each])
    columns = {each: each.listed(value) for each, value in given.items()}
    longest = max(map(len, columns.values()), default=0)
    for each, values in columns.items():
        if len(values) not in (1, longest):
            raise mismatch(each, longest, len(values))
    rows = [index for index in range(longest) for _ in range(count)]
    return {each.name: [values[index % len(values)] for index in rows] for each, values in columns.items()}, len(rows)


def bytes_from_json(value: object, what: str) -> bytes:
    """The bytes of a file in a request over HTTP, in base64: whoever sends a request must not name files of the server.

    Raises ``ValueError``, which says ``what`` was expected, if it is no base64 or empty.
    """
    try:
        content = base64.b64decode(value if isinstance(value, str) else "", validate=True)
    except ValueError:
        content = b""
    if not content:
        raise ValueError(f"expected the bytes of {what} in base64, got {shown(value)}")
    return content


def mismatch(each: ConditionInput, expected: int, got: int) -> InputError:
    """The error of an input that has neither one value nor one for each item."""
    return InputError(f"{{{each.name}}}: expected 1 or {expected} values, got {got}", [each])


def check_sound(each: ConditionInput, data: MediaSet, source: str) -> None:
    """Check that a set holds sound. Raises ``RecipeError`` if it does not."""
    if not data.medium.timed:
        raise RecipeError(f"the recipe is conditioned on {each.noun}, but {source} holds no sound: remove that condition")
