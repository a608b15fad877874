"""Base class of experiments: a claim in one sentence, its measurement and its checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from jielong.apps.lab.statistics import Estimate
from jielong.apps.lab.verdict import Check
from jielong.config import recipe
from jielong.core.modules import import_modules
from jielong.system import System, load
from jielong.training import experiment
from jielong.training.trainer import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_trials: dict[str, type[Trial]] = {}


@dataclass(frozen=True)
class Outcome:
    """Result of a trial's measurement.

    Attributes:
        checks: Checks that decide the verdict.
        figures: All measured figures, by name.
        draw: Draws the plot on an empty matplotlib figure.
        size: Width and height of the plot in inches.
        provenance: Models, data and settings behind the figures.
        remarks: Caveats.
        files: Further files of the result by name, such as an animation.
    """

    checks: Sequence[Check]
    figures: Mapping[str, Estimate]
    draw: Callable[[Figure], None]
    size: tuple[float, float] = (8.0, 4.5)
    provenance: Mapping[str, object] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """Environment of a trial.

    Attributes:
        folder: Scratch folder of training runs.
        seed: Random seed.
        budget: Fraction of the full experiment.
        log: Receives progress messages.
    """

    folder: Path
    seed: int = 0
    budget: float = 1.0
    log: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise ValueError(f"budget: expected a fraction of the full experiment above 0, got {self.budget:g}")

    def scaled(self, full: int, least: int = 1) -> int:
        """``full`` times the budget, at least ``least``."""
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
        """Train a recipe in the scratch folder.

        Args:
            name: Name of the run's folder.
            text: Text of the recipe.
            overrides: ``a.b=c`` changes to it.
            seconds: Wall time; the recipe's number of samples by default.
            tokens: Token file of the training set; the user's cache by default.

        Returns:
            The trained system and the run's summary.
        """
        self.log(f"training {name}")
        chosen, out = recipe.parse(text, f"the experiment's recipe {name}", overrides), self.folder / name
        summary = experiment.run(chosen, out, tokens=tokens, budget=seconds, progress=False, evaluate=False)
        summary.raise_if_interrupted()
        return load(str(out), "cpu"), summary


class Trial(ABC):
    """An experiment that tests one claim. A subclass with a name is registered::

    class Collapse(Trial, name="collapse"):
        claim = "..."
    """

    name: ClassVar[str] = ""
    claim: ClassVar[str] = ""
    needs: ClassVar[Sequence[str]] = ()
    """Names of required shipped models."""

    def __init_subclass__(cls, name: str = "") -> None:
        super().__init_subclass__()
        if name:
            cls.name = name
            _trials[name] = cls

    @abstractmethod
    def run(self, bench: Bench) -> Outcome:
        """Run the measurement."""


def trials() -> dict[str, type[Trial]]:
    """All experiments by name; imports their modules, which registers them."""
    import_modules("jielong.apps.lab.experiments")
    return dict(sorted(_trials.items()))
