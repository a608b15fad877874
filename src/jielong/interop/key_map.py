"""Names and layouts of other programs' weights in ours, as a table that is complete both ways.

A row names tensors of theirs, tensors of ours, and the :class:`Transform` between them. ``{i}`` in a name stands for a number,
``{half:encoder|decoder}`` for what the regular expression behind the colon matches; a field has the same value on both sides, and its
expression is written on one of them::

    KeyMap(
        rows=(
            Row("blocks.{i}.ffn.fc1.{kind:weight|bias}", "layers.{i}.up.{kind}"),
            Row(("blocks.{i}.q.weight", "blocks.{i}.k.weight"), "layers.{i}.qk.weight", joined(2)),
        ),
        dropped=(Dropped("mask", "a constant that is computed"),),
    )
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jielong.training.checkpoint import CheckpointError

Weights = Mapping[str, Tensor]
Names = str | tuple[str, ...]

LISTED = 10
"""Most names of a kind in an error."""
_FIELD = re.compile(r"\{(\w+)(?::((?:[^{}]|\{\d*,?\d*\})+))?\}")
_NUMBER = r"\d+"


class KeyMapError(CheckpointError):
    """Weights that a key map does not describe; the text lists their names."""


@dataclass(frozen=True)
class Transform:
    """How tensors of theirs become tensors of ours.

    Attributes:
        words: What it does, for the report of an import; empty where tensors are taken as they are.
        forward: Tensors of theirs, in the order of the row's names, to those of ours.
        backward: Its inverse; ``None`` if it has none.
    """

    words: str
    forward: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    backward: Callable[[Sequence[Tensor]], Sequence[Tensor]] | None = None


def each(words: str, forward: Callable[[Tensor], Tensor], backward: Callable[[Tensor], Tensor] | None = None) -> Transform:
    """A transform of every tensor by itself."""
    inverse = None if backward is None else lambda tensors, back=backward: [back(tensor) for tensor in tensors]
    return Transform(words, lambda tensors: [forward(tensor) for tensor in tensors], inverse)


AS_IS = each("", lambda tensor: tensor, lambda tensor: tensor)


def transposed(first: int = 0, second: int = 1) -> Transform:
    """Two dimensions exchanged."""
    return each("transposed", lambda tensor: tensor.transpose(first, second), lambda tensor: tensor.transpose(first, second))


def squeezed(*dims: int) -> Transform:
    """Dimensions of size 1, counted from the front, left out."""
    return each("squeezed", lambda tensor: tensor.squeeze(dims), lambda tensor: _unsqueezed(tensor, dims))


def unsqueezed(*dims: int) -> Transform:
    """Dimensions of size 1 put in, counted from the front of ours."""
    return each("given dimensions of size 1", lambda tensor: _unsqueezed(tensor, dims), lambda tensor: tensor.squeeze(dims))


def _unsqueezed(tensor: Tensor, dims: Sequence[int]) -> Tensor:
    for dim in sorted(dims):
        tensor = tensor.unsqueeze(dim)
    return tensor


def joined(count: int, dim: int = 0) -> Transform:
    """``count`` tensors of theirs, of one size, are one of ours along ``dim``."""
    return Transform("joined", lambda tensors: [torch.cat(list(tensors), dim)], lambda tensors: tensors[0].chunk(count, dim))


def split(count: int, dim: int = 0) -> Transform:
    """One tensor of theirs is ``count`` of ours, of one size, along ``dim``."""
    return Transform("split", lambda tensors: tensors[0].chunk(count, dim), lambda tensors: [torch.cat(list(tensors), dim)])


def given(value: Tensor) -> Transform:
    """A tensor of ours that theirs have not; the row names none of theirs."""
    return Transform("added", lambda _: [value], lambda _: [])


@dataclass(frozen=True)
class Row:
    """Tensors of theirs that give tensors of ours. All fields of the names are in the first of ours.

    Attributes:
        theirs: Their name or names; ``()`` where theirs have none (:func:`given`).
        ours: Our name or names.
        transform: From theirs to ours.
    """

    theirs: Names
    ours: Names
    transform: Transform = AS_IS


@dataclass(frozen=True)
class Dropped:
    """Tensors of theirs that ours need not: known, and there or not.

    Attributes:
        theirs: Their name, with fields.
        reason: Why, for the report of an import.
    """

    theirs: str
    reason: str


@dataclass(frozen=True)
class _Step:
    """A row with its fields filled in."""

    row: Row
    theirs: tuple[str, ...]
    ours: tuple[str, ...]


@dataclass(frozen=True)
class KeyMap:
    """A table of rows; of several that fit a name of ours the first counts.

    Attributes:
        rows: What becomes of tensors.
        dropped: Tensors of theirs that are left out.
    """

    rows: Sequence[Row]
    dropped: Sequence[Dropped] = ()

    def apply(self, weights: Weights, expected: Weights) -> dict[str, Tensor]:
        """Our state dict from their weights.

        Args:
            weights: Theirs, by name.
            expected: The state dict of our model, for its names and shapes; tensors on ``meta`` are enough.

        Raises:
            KeyMapError: listing all names that are missing or unexpected, or of another shape; or names of ours that no row gives.
        """
        steps = self._steps(expected)
        needed = dict.fromkeys(name for step in steps for name in step.theirs)
        missing = [name for name in needed if name not in weights]
        unexpected = [name for name in weights if name not in needed and self._reason(name) is None]
        if missing or unexpected:
            faults = [_listing("missing", missing), _listing("unexpected", unexpected)]
            raise KeyMapError(f"these are weights of another model, or of another size: {'; '.join(filter(None, faults))}")
        state: dict[str, Tensor] = {}
        for step in steps:
            state |= zip(step.ours, step.row.transform.forward([weights[name] for name in step.theirs]), strict=True)
        other = [
            f"{name} {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if state[name].shape != tensor.shape
        ]
        if other:
            raise KeyMapError(f"these weights have other sizes than the model that they are read as: {_listing('tensors', other)}")
        return {name: state[name] for name in expected}

    def invert(self, state: Weights) -> dict[str, Tensor]:
        """Their weights from our state dict; what an import leaves out is not there.

        Raises:
            KeyMapError: naming the rows that have no inverse.
        """
        steps, weights = self._steps(state), dict[str, Tensor]()
        without = [f"{step.ours[0]} ({step.row.transform.words})" for step in steps if step.row.transform.backward is None]
        if without:
            raise KeyMapError(f"these weights cannot be exported, as there is no way back for {_listing('tensors', without)}")
        for step in steps:
            back = step.row.transform.backward
            weights |= zip(step.theirs, back([state[name] for name in step.ours]) if back else (), strict=True)
        return weights

    def changes(self, weights: Weights, expected: Weights) -> list[str]:
        """What :meth:`apply` does beside renaming, a line for each kind of transform and each reason to leave tensors out."""
        steps = self._steps(expected)
        done = Counter(step.row.transform.words for step in steps for _ in step.ours if step.row.transform.words)
        needed = {name for step in steps for name in step.theirs}
        left = Counter(filter(None, (self._reason(name) for name in weights if name not in needed)))
        return [f"{count} {words}" for words, count in done.items()] + [f"{count} left out: {reason}" for reason, count in left.items()]

    def _reason(self, name: str) -> str | None:
        return next((drop.reason for drop in self.dropped if _pattern(drop.theirs).fullmatch(name)), None)

    def _steps(self, ours: Weights) -> list[_Step]:
        """The rows that give names of ours, once for each value of their fields."""
        table = [(row, _pattern(_names(row.ours)[0], _kinds(row))) for row in self.rows]
        steps = []
        for name in ours:
            for row, pattern in table:
                if match := pattern.fullmatch(name):
                    fields = match.groupdict()
                    steps.append(_Step(row, _filled(row.theirs, fields), _filled(row.ours, fields)))
                    break
        covered = {name for step in steps for name in step.ours}
        if uncovered := [name for name in ours if name not in covered]:
            raise KeyMapError(f"the key map has no row for {_listing('tensors of ours', uncovered)}")
        return steps


SAME = KeyMap((Row("{name:.+}", "{name:.+}"),))
"""The map of weights that have our names already."""


def numbers(weights: Weights, pattern: str) -> int:
    """How many values the one field of a pattern takes in names, such as the layers of ``blocks.{i}.norm.weight``."""
    found = _pattern(pattern)
    return len({match[1] for name in weights if (match := found.fullmatch(name))})


def _names(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _kinds(row: Row) -> dict[str, str]:
    """The regular expression of each field for which one is written on either side."""
    names = (*_names(row.theirs), *_names(row.ours))
    return {field[1]: field[2] for name in names for field in _FIELD.finditer(name) if field[2]}


def _pattern(name: str, kinds: Mapping[str, str] | None = None) -> re.Pattern[str]:
    """A name with fields as a regular expression; a field that comes again must match the same text."""
    seen: set[str] = set()
    parts, end = [], 0
    for field in _FIELD.finditer(name):
        parts.append(re.escape(name[end : field.start()]))
        parts.append(f"(?P={field[1]})" if field[1] in seen else f"(?P<{field[1]}>{field[2] or (kinds or {}).get(field[1], _NUMBER)})")
        seen.add(field[1])
        end = field.end()
    return re.compile("".join(parts) + re.escape(name[end:]))


def _filled(names: Names, fields: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(_FIELD.sub(lambda field: fields[field[1]], name) for name in _names(names))


def _listing(kind: str, names: Sequence[str]) -> str:
    """``3 missing (a, b, c)``, with the first :data:`LISTED` names; empty for none."""
    more = f", and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return f"{len(names):,} {kind} ({', '.join(names[:LISTED])}{more})" if names else ""
