"""EDM's preconditioning: the identities that define it (arXiv 2206.00364, appendix B.6), and the head that is made of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from jielong.core.rng import Draws
from jielong.core.tokens import Layout
from jielong.heads.continuous import GuidedDenoiser
from jielong.heads.diffusion import Diffusion, DiffusionHead
from jielong.heads.noise_levels import EDM, LogNormalNoise
from jielong.networks.denoiser import MLP

SIGMAS = torch.tensor([0.002, 0.05, 0.3, 0.5, 2.0, 80.0], dtype=torch.float64)
SPREADS = pytest.mark.parametrize("sigma_data", [0.5, 1.0])


def head_of(**settings: Any) -> DiffusionHead:
    torch.manual_seed(0)
    given = {"network": MLP(layers=1, width=8), "prediction": "edm", "variance": "fixed", **settings}
    return Diffusion.model_validate(given).build(4, Layout((1,), channels=2))


@SPREADS
def test_inputs_and_targets_have_unit_variance_and_errors_weight_one(sigma_data: float) -> None:
    """Exactly, from the variances of independent data and noise."""
    edm, one = EDM(sigma_data=sigma_data), torch.ones_like(SIGMAS)
    data, noise = sigma_data**2, SIGMAS**2
    skip, out = edm.c_skip(SIGMAS), edm.c_out(SIGMAS)
    torch.testing.assert_close(edm.c_in(SIGMAS) ** 2 * (data + noise), one)
    torch.testing.assert_close(((1 - skip) ** 2 * data + skip**2 * noise) / out**2, one)
    torch.testing.assert_close(edm.weight(SIGMAS) * out**2, one)
    torch.testing.assert_close(edm.c_noise(SIGMAS), SIGMAS.log() / 4)
    for factor in (0.9, 1.1):  # and c_skip amplifies errors of the network least
        other = factor * skip
        assert bool((((1 - other) ** 2 * data + other**2 * noise) > out**2).all())


def test_training_noise_is_log_normal() -> None:
    logs = EDM(mean=-0.4, std=1.7).draw(Draws.fresh(40_000, torch.device("cpu"))).log()
    assert float(logs.mean()) == pytest.approx(-0.4, abs=5 * 1.7 / 200)
    assert float(logs.std()) == pytest.approx(1.7, rel=5 / 280)


@SPREADS
def test_the_loss_is_the_weighted_error_of_the_denoiser(sigma_data: float) -> None:
    edm, head = EDM(sigma_data=sigma_data), head_of()
    targets, noise, sigma = torch.randn(6, 2), torch.randn(6, 2), SIGMAS.float()

    def network(x: Tensor, times: Tensor, rows: Tensor | None = None) -> Tensor:
        return torch.tanh(x * 2 + times)

    at = sigma[:, None]
    noisy = sigma_data * targets + at * noise
    denoised = edm.c_skip(at) * noisy + edm.c_out(at) * network(edm.c_in(at) * noisy, edm.c_noise(at))
    expected = (edm.weight(at) * (denoised - sigma_data * targets).square()).mean(-1)
    torch.testing.assert_close(head.edm_errors(edm, targets, noise, sigma, network), expected, rtol=2e-3, atol=1e-5)


@SPREADS
def test_estimates_in_sampling_are_those_of_the_denoiser(sigma_data: float) -> None:
    head, edm = head_of(edm={"sigma_data": sigma_data}), EDM(sigma_data=sigma_data)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    hidden, y = torch.randn(3, 1, 4), torch.randn(3, 1, 2)
    for value in (0.01, 0.5, 20.0):
        sigma = torch.tensor(value)
        out = GuidedDenoiser(head.network, hidden)(edm.c_in(sigma) * y, float(edm.c_noise(sigma)))
        expected = (edm.c_skip(sigma) * y + edm.c_out(sigma) * out) / sigma_data
        level = LogNormalNoise(edm).level_at(value / sigma_data)
        found = head._denoise(GuidedDenoiser(head.network, hidden), edm.c_in(sigma) * y, level)
        torch.testing.assert_close(found.data, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(level.signal * found.data + level.spread * found.noise, edm.c_in(sigma) * y, rtol=1e-4, atol=1e-5)


def test_an_untrained_head_errs_by_one_and_draws_unit_normals() -> None:
    """``F = 0`` gives ``D = c_skip y``, the best denoiser of ``N(0, sigma_data^2)``; the flow then carries noise to tokens one to one."""
    head = head_of()
    torch.manual_seed(1)
    assert float(head.loss(torch.zeros(20_000, 4), torch.randn(20_000, 2)).mean().detach()) == pytest.approx(1, abs=5 * (1 / 40_000) ** 0.5)
    noise = LogNormalNoise(EDM())
    level = noise.plan(18, karras=True).levels()
    assert [round(2 * each, 12) for each in (0.5 * level[0].sigma, 0.5 * level[-2].sigma)] == [160.0, 0.004]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"variance": "learned"}, "prediction: edm has no learned variance: add variance: fixed"),
        ({"schedule": "linear"}, "leave out schedule"),
        ({"start": 20.0}, "leave out start"),
        ({"prediction": "v", "edm": {}}, "leave one of them out"),
        ({"edm": {"sigma_min": 90.0}}, "sigma_min must be below sigma_max"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        head_of(**settings)
