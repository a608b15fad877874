"""What judges have in common: the items they are given, and how an evaluation finds the judge of a set.

A data set names its judge (:attr:`jielong.data.source.Source.judge`; in Parquet under ``judge`` of the metadata ``jielong``); the judge
called ``strokes`` is the constant ``JUDGE`` of the module :mod:`jielong.evaluation.judges.strokes`.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from jielong.core.medium import Medium
from jielong.data.sets import MediaSet
from jielong.evaluation.attributes import JudgeError
from jielong.evaluation.context import EvalContext, EvalResult
from jielong.evaluation.provenance import Measurement

REAL = "_real"
"""Suffix of the same figures of real items, the most that a system can reach."""


@dataclass(frozen=True, eq=False)
class JudgedItems:
    """Items that were generated or decoded, and what they were to be.

    Attributes:
        made: ``(N, C, *size)`` in [-1, 1].
        real: The held-out items in their place, of the same shape.
        rows: The other columns of each of these.
        medium: Of both.
        given: Names of the inputs that a generator was given of each held-out item; ``None`` of decoded items, which were given whole.
    """

    made: Tensor
    real: Tensor
    rows: Sequence[dict[str, Any]]
    medium: Medium
    given: frozenset[str] | None = None


class Judge(ABC):
    """Reads what items of a set show.

    Attributes:
        columns: Columns of the set that it reads.
        names: Of its figures.
    """

    columns: ClassVar[tuple[str, ...]]
    names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def figures(self, items: JudgedItems) -> dict[str, Measurement]:
        """Figures of ``items.made``, some or all of :attr:`names`.

        Raises:
            JudgeError: if it cannot read such items.
        """


def judge_called(name: str) -> Judge:
    """The judge of that name.

    Raises:
        JudgeError: if there is none.
    """
    module = f"{__package__}.{name.replace('-', '_')}"
    if not name.replace("-", "_").isidentifier() or importlib.util.find_spec(module) is None:
        raise JudgeError(f"there is no judge called {name!r}; a newer version of jielong may have it")
    judge: Judge = importlib.import_module(module).JUDGE
    return judge


def judged(context: EvalContext, made: Tensor) -> EvalResult:
    """Figures of generated or decoded items by the judge that the set names, and of the real ones; none where it names none."""
    media = context.media
    if media.source.judge is None:
        return EvalResult()
    try:
        judge = judge_called(media.source.judge)
    except JudgeError as error:
        return EvalResult(omitted={media.source.judge: str(error)})
    if missing := [column for column in judge.columns if column not in media.columns]:
        reason = f"{media.name} lacks the column {missing[0]!r}, which its judge {media.source.judge!r} reads"
        return EvalResult(omitted=dict.fromkeys(judge.names, reason))
    given = None if context.system.generator is None else frozenset(context.system.inputs)
    items = JudgedItems(made.cpu().float(), context.real, rows_of(media, context.rows), media.medium, given)
    try:
        figures = judge.figures(items)
        real = judge.figures(replace(items, made=items.real))
    except JudgeError as error:
        return EvalResult(omitted=dict.fromkeys(judge.names, str(error)))
    return EvalResult(figures | {f"{name}{REAL}": replace(each, name=f"{name}{REAL}") for name, each in real.items()})


def rows_of(media: MediaSet, rows: Sequence[int]) -> list[dict[str, Any]]:
    """The columns of items."""
    places = [media.resolve(row) for row in rows]
    return [{name: values[place] for name, values in media.columns.items()} for place in places]


def share(name: str, hits: Sequence[bool], protocol: str, **details: object) -> Measurement:
    """The share of what is right, with its standard error.

    Raises:
        JudgeError: if there is nothing to judge.
    """
    if not hits:
        raise JudgeError(f"none of these items has anything that {name} judges")
    value = sum(hits) / len(hits)
    return Measurement(
        name, value, len(hits), {"protocol": protocol, "standard_error": math.sqrt(value * (1 - value) / len(hits)), **details}
    )
