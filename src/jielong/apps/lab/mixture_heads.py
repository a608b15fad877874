"""Train heads on Gaussian mixtures, and measure the energy distance of their samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from jielong.apps.lab.mixtures import Mixtures, energy_distance
from jielong.apps.lab.statistics import Estimate, bootstrap
from jielong.apps.lab.toy_tasks import BATCH, LR, sample_head, train_head
from jielong.apps.lab.trial import Bench
from jielong.heads.base import Head, HeadSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS, COMPONENTS, CHANNELS, WIDTH = 8, 4, 8, 32
STEPS, ROUNDS, DRAWS = 1000, 32, 48
EXACT = "an exact sampler"
"""Figure of the lowest energy distance that can be measured."""
REMARK = "one training run per head: intervals are over samples, not over training runs"


@dataclass(frozen=True)
class MixtureTask:
    """Fixed mixtures, and data sampled from them.

    Attributes:
        truth: The mixtures.
        data: Their samples, ``(rounds, K, draws, C)``.
        steps: Training steps of a head.
        rounds: Independent rounds of samples.
        draws: Samples per hidden vector and round.
        seed: Seed of mixtures, data, training and sampling.
    """

    truth: Mixtures
    data: Tensor
    steps: int
    rounds: int
    draws: int
    seed: int

    @staticmethod
    def of(bench: Bench) -> MixtureTask:
        """The task at the budget of a bench."""
        steps, rounds, draws = bench.scaled(STEPS, 2), bench.scaled(ROUNDS, 4), bench.scaled(DRAWS, 4)
        truth = Mixtures.drawn(KINDS, COMPONENTS, CHANNELS, WIDTH, bench.seed)
        return MixtureTask(truth, truth.rounds(rounds, draws, bench.seed), steps, rounds, draws, bench.seed)

    def train(self, part: HeadSettings) -> Head:
        """A head trained on the mixtures."""
        return train_head(part, self.truth, self.steps, self.seed)

    def sample(self, head: Head, nfe: int | None) -> Tensor:
        """Samples of a head, ``(rounds, K, draws, C)``; ``nfe`` is for iterative heads."""
        return sample_head(head, self.truth, self.rounds, self.draws, self.seed, nfe)

    def distance(self, samples: Tensor) -> Tensor:
        """Energy distance of each round from the data, ``(rounds,)``."""
        return energy_distance(samples, self.data)

    def estimate(self, distance: Tensor) -> Estimate:
        """Mean over rounds of an energy distance."""
        return bootstrap(distance, self.seed, unit="energy distance")

    def exact_sampler(self) -> Estimate:
        """Energy distance of further samples of the mixtures themselves."""
        return self.estimate(self.distance(self.truth.rounds(self.rounds, self.draws, self.seed + 1)))

    def provenance(self) -> dict[str, object]:
        """Settings of training and measurement."""
        return {
            "steps": self.steps,
            "batch": BATCH,
            "learning_rate": f"{LR}, linear decay to 0",
            "rounds": self.rounds,
            "draws": f"{self.draws} per round for each of {KINDS} hidden vectors",
            "truth": f"{KINDS} mixtures of {COMPONENTS} normals in {CHANNELS} dimensions",
        }


def show_exact(axes: Axes, exact: Estimate) -> None:
    """The band of an exact sampler, on a logarithmic axis of energy distances."""
    axes.axhspan(max(exact.low, 0.0), max(exact.high, 0.0), color="#2a7", alpha=0.2, label=EXACT)
    axes.set(xscale="log", ylabel="energy distance from the data")
    axes.set_yscale("symlog", linthresh=1e-3)
