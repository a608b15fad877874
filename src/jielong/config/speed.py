"""How fast to draw: settings of the sampling loop, all off by default. No tensors here, so that recipes read at once."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from jielong.config.registry import Config

Schedule = Literal["cosine", "arccos", "linear", "square", "cubic"]
"""How the share of unknown tokens falls over the steps; see :func:`jielong.orders.ratio.masked_share`."""


class TwoStage(Config):
    """Structure slowly, then details fast (GtR, arXiv 2510.17171).

    First a checkerboard, the positions whose coordinates add up to an even number; then, with neighbours known on all sides, the rest.

    Attributes:
        detail_steps: How many of the steps are left for the rest.
    """

    detail_steps: int = Field(default=1, ge=1)


class Lazy(Config):
    """How lazy the steps of a masked block are; see :mod:`jielong.networks.lazy` (LazyMAR, arXiv 2503.12450).

    Attributes:
        refresh: Every so many steps all is computed anew; 1 is no laziness.
        share: Share of the positions that go through all layers in a lazy step, beside those that must; 1 is all of them.
        layers: First layers that always run at all positions.
        warmup: First steps that compute everything.
        condition: Whether the difference between conditional and unconditional hidden vectors is kept until the next refresh.
    """

    refresh: int = Field(default=4, ge=1)
    share: float = Field(default=0.25, ge=0, le=1)
    layers: int = Field(default=2, ge=1)
    warmup: int = Field(default=2, ge=1)
    condition: bool = True

    def fresh(self, step: int) -> bool:
        """Whether step ``step``, from 0, computes everything."""
        return step < self.warmup or (step - self.warmup) % self.refresh == 0
