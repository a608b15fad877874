"""Flow matching whose network predicts the data: ``v = (x_1 - x_t) / (1 - t)`` in the loss and in sampling (JiT)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.config.sampling import SamplingConfig
from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import HeadContext
from jielong.heads.flow_matching import FlowMatching, FlowMatchingHead, Times
from jielong.networks.denoiser import JointDenoiser

LAYOUT = Layout((3,), channels=2)
CONTEXT = HeadContext(coords=LAYOUT.coordinates())


class Shrunk(JointDenoiser[Any]):
    """The best prediction of data ``N(0, s^2)`` at time ``t``: of ``x`` or, as ``v``, of the velocity that follows from it."""

    def __init__(self, of_x: bool, deviation: float = 0.5) -> None:
        super().__init__(1, 1, 1)
        self.of_x, self.variance = of_x, deviation**2

    def prepare(self, hidden: Tensor, coords: Tensor, mask: Tensor | None = None, condition: object = None) -> Any:
        return Kept()

    def predict(self, x: Tensor, times: Tensor | None, prepared: object) -> Tensor:
        assert times is not None
        t = times[..., None]
        data = t * self.variance * x / ((1 - t) ** 2 + t**2 * self.variance)
        return data if self.of_x else (data - x) / (1 - t)


class Kept:
    def repeat(self, count: int) -> Kept:
        return self

    def rows(self, index: Tensor) -> Kept:
        return self


def head(prediction: str, **settings: Any) -> FlowMatchingHead:
    return FlowMatchingHead(Shrunk(prediction == "x"), LAYOUT, FlowMatching(prediction=prediction, diffusion_batch_mul=2, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("sampler", ["euler", "heun", "sde", "dpmpp_2m"])
def test_draws_are_those_of_the_velocity(sampler: str, guidance: float) -> None:
    hidden, context = torch.zeros(4, 3, 1), HeadContext(torch.zeros(4, 3, 1), guidance, coords=CONTEXT.coords)
    drawn = [
        head(kind, sampler=sampler, steps=12).sample(hidden, PerSampleRNG(0, range(4)), SamplingConfig(), context).values
        for kind in ("x", "v")
    ]
    torch.testing.assert_close(*drawn, rtol=1e-4, atol=1e-5)


def test_the_loss_is_that_of_the_velocity_but_for_times_next_to_the_data() -> None:
    targets, hidden, keys = 0.5 * torch.randn(200, 3, 2), torch.zeros(200, 3, 1), torch.arange(200)
    times = Times(mean=1.5)
    losses = [head(kind, times=times).loss(hidden, targets, HeadContext(coords=CONTEXT.coords, draws=Draws(keys))) for kind in ("x", "v")]
    late = (times.draw(Draws(keys).copies(2)) > 0.95).view(2, -1).any(0)
    assert 0 < int(late.sum()) < 100
    torch.testing.assert_close(losses[0][~late], losses[1][~late], rtol=1e-4, atol=1e-5)
    assert bool((losses[0][late] < losses[1][late]).all())
