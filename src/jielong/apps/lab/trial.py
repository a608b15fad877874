"""What an experiment is: a claim in one sentence, a way to measure it, and the bounds by which it is judged."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jielong.apps.lab.statistics import Estimate
from jielong.apps.lab.verdict import Check
from jielong.config import recipe
from jielong.system import System, load
from jielong.training import experiment
from jielong.training.trainer import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_trials: dict[str, type[Trial]] = {}


@dataclass(frozen=True)
class Outcome:
    """What a trial measured.

    Attributes:
        checks: What the claim stands or falls by.
        figures: Everything measured, by name.
        draw: Draws the plot on an empty matplotlib figure.
        size: Of the plot, width and height in inches.
        provenance: What the figures depend on: models, data, settings.
        remarks: Sentences that a reader needs beside the figures.
    """

    checks: Sequence[Check]
    figures: Mapping[str, Estimate]
    draw: Callable[[Figure], None]
    size: tuple[float, float] = (8.0, 4.5)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Bench:
    """Where a trial works.

    Attributes:
        folder: Scratch space for training runs.
        seed: Of everything drawn at random.
        budget: Share of the full experiment: 1 as designed, less for a look, a few thousandths for tests.
        tell: Told what is being done.
    """

    folder: Path
    seed: int = 0
    budget: float = 1.0
    tell: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise ValueError(f"the budget is a share of the full experiment, above 0, not {self.budget:g}")

    def scaled(self, full: int, least: int = 1) -> int:
        """``full`` times the budget, but ``least`` at least."""
        return max(least, round(full * self.budget))

    def train(
        self,
        name: str,
        text: str,
        overrides: Sequence[str] = (),
        *,
        seconds: float | None = None,
        tokens: Path | None = None,
    ) -> tuple[System, Summary]:
        """Train a recipe's text in the scratch folder.

        Args:
            name: Of the run's folder.
            text: The recipe.
            overrides: ``a.b=c`` changes to it.
            seconds: Wall time instead of the recipe's samples.
            tokens: A token file to train a generator on, instead of the user's cache.

        Returns:
            The trained system, and how the run ended.
        """
        self.tell(f"training {name}")
        chosen, out = recipe.parse(text, f"the experiment's recipe {name}", overrides), self.folder / name
        summary = experiment.run(chosen, out, tokens=tokens, budget=seconds, progress=False, evaluate=False)
        return load(str(out), "cpu"), summary


class Trial(ABC):
    """One claim on trial. Declaring a subclass with a name registers it::

    class Collapse(Trial, name="collapse"):
        claim = "..."
    """

    name: ClassVar[str] = ""
    claim: ClassVar[str] = ""
    needs: ClassVar[Sequence[str]] = ()
    """Shipped models that it uses."""

    def __init_subclass__(cls, name: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name:
            cls.name = name
            _trials[name] = cls

    @abstractmethod
    def run(self, bench: Bench) -> Outcome:
        """Measure."""


def trials() -> dict[str, type[Trial]]:
    """All experiments by name; imports their package so that they have registered themselves."""
    package = importlib.import_module("jielong.apps.lab.experiments")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_trials.items()))
