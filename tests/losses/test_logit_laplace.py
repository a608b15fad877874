"""The logit-Laplace likelihood against its density, its sampling, and a tokenizer that predicts it."""

from __future__ import annotations

import math

import pytest
import torch

from jielong.autoencoders.convolutional import Convolutional
from jielong.config.recipe import RecipeError, parse
from jielong.core.rng import PerSampleRNG
from jielong.data.sets import Batch
from jielong.losses.base import LossContext, LossTerms
from jielong.losses.regression import (
    LEAST_LOG_SCALE,
    MARGIN,
    LogitLaplace,
    LogitLaplaceLoss,
    from_unit,
    logit_laplace_median,
    to_unit,
)
from jielong.media.kinds.image import image_medium
from jielong.quantizers.vector import Vector
from jielong.tokenizers.vq import VQ, VQTokenizer
from jielong.training.objective import StepRNG
from jielong.training.tokenizer_objective import TokenizerObjective

LOSS = LogitLaplaceLoss(LogitLaplace())


def maps(location: float, raw: float, shape: tuple[int, ...] = (1, 1, 1, 1)) -> torch.Tensor:
    return torch.cat([torch.full(shape, location), torch.full(shape, raw)], dim=1)


def density(location: float, raw: float, values: torch.Tensor) -> torch.Tensor:
    """``f(y)`` at ``values`` in (0, 1), through the loss, one value a call."""
    return torch.tensor([math.exp(-float(LOSS(maps(location, raw), from_unit(y).float().view(1, 1, 1, 1)))) for y in values])


@pytest.mark.parametrize(("location", "raw"), [(0.0, 0.0), (1.3, -1.0), (-0.7, 0.5)])
def test_the_density_integrates_to_one_and_its_median_is_the_sigmoid_of_the_location(location: float, raw: float) -> None:
    # The trapezoidal rule on even steps of t = logit y, of which dy = y (1 - y) dt; the kink at mu is a node. Beyond 8 lies exp(-8 / b).
    steps = torch.linspace(-8, 8, 801).double() + location
    y = torch.sigmoid(steps)
    weight = density(location, raw, y).double() * y * (1 - y)
    half = 0.5 * (1 - math.exp(-8 / math.exp(raw)))
    for part in (slice(0, 401), slice(400, 801)):
        assert float(torch.trapezoid(weight[part], steps[part])) == pytest.approx(half, abs=5e-3)
    assert float(to_unit(logit_laplace_median(maps(location, raw)))) == pytest.approx(1 / (1 + math.exp(-location)), rel=1e-5)


def test_pictures_are_kept_from_the_ends_and_come_back() -> None:
    x = torch.linspace(-1, 1, 257)
    assert float(to_unit(x)[0]) == pytest.approx(MARGIN)
    assert float(to_unit(x)[-1]) == pytest.approx(1 - MARGIN)
    torch.testing.assert_close(from_unit(to_unit(x)), x)


def test_the_loss_is_the_published_formula_with_a_floor_under_the_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 6, 4, 5, generator=generator), torch.rand(2, 3, 4, 5, generator=generator) * 2 - 1
    y, mu, log_b = to_unit(target).double(), predicted[:, :3].double(), predicted[:, 3:].double()
    log_b = LEAST_LOG_SCALE + (1 + (log_b - LEAST_LOG_SCALE).exp()).log()
    wanted = -((-(y.logit() - mu).abs() / log_b.exp()).exp() / (2 * log_b.exp() * y * (1 - y))).log().mean()
    assert float(LOSS(predicted, target)) == pytest.approx(float(wanted), rel=1e-5)
    assert float(LogitLaplaceLoss(LogitLaplace(weight=0.5))(predicted, target)) == pytest.approx(float(wanted) / 2, rel=1e-5)
    # A raw scale is nearly the scale itself, until the floor; even an exact guess is then worth no more than the floor allows.
    exact = torch.logit(to_unit(torch.tensor(0.2)))
    best = LEAST_LOG_SCALE + math.log(2) + math.log(float(to_unit(torch.tensor(0.2)) * (1 - to_unit(torch.tensor(0.2)))))
    assert float(LOSS(maps(float(exact), -40.0), torch.full((1, 1, 1, 1), 0.2))) == pytest.approx(best, abs=1e-2)


def test_the_best_scale_is_the_error_and_the_floor_lets_a_gradient_through() -> None:
    """d/d ln b of ``|e| / b + ln b`` is ``1 - |e| / b``: zero at ``b = |e|``."""
    target = torch.zeros(1, 1, 1, 1)  # phi = 1/2, logit 0
    for error in (0.3, 1.0, 2.0):
        predicted = maps(error, math.log(error)).requires_grad_()
        LOSS(predicted, target).backward()
        assert float(predicted.grad[0, 1]) == pytest.approx(0, abs=0.03)
        assert float(predicted.grad[0, 0]) == pytest.approx(1 / error, rel=0.05)
    predicted = maps(1.0, LEAST_LOG_SCALE - 3).requires_grad_()
    LOSS(predicted, target).backward()
    assert float(predicted.grad[0, 1]) < -1, "a scale below the floor that was too sure is called back"


def test_maps_that_are_not_two_a_channel_are_refused() -> None:
    for wrong in [(1, 3, 4, 4), (1, 4, 4, 4), (6, 4, 4)]:
        with pytest.raises(ValueError, match=r"two maps a channel|must have the same shape"):
            LOSS(torch.zeros(wrong), torch.zeros(1, 3, 4, 4))


TERMS = LossTerms.of([LogitLaplace()], LossContext(image_medium(3, (8, 8))))


def make() -> VQTokenizer:
    torch.manual_seed(0)
    settings = VQ(
        autoencoder=Convolutional(channels=(8,), blocks=(1,), patch=4),
        dim=4,
        quantizer=Vector(codebook_size=32),
        likelihood="logit_laplace",
    )
    return settings.build(image_medium(3, (8, 8)))


def test_a_tokenizer_that_predicts_it_shows_its_median_and_learns_from_it() -> None:
    tokenizer = make()
    media = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    objective = TokenizerObjective(tokenizer, TERMS, media, lambda model: {})
    result = tokenizer.eval()(media)
    assert result.likelihood is not None
    assert result.likelihood.shape == (4, 6, 8, 8)
    torch.testing.assert_close(result.media, logit_laplace_median(result.likelihood))
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(media)), result.media.clamp(-1, 1), rtol=1e-4, atol=1e-5)
    losses = objective(Batch(media, None, None, list("abcd")), "model", 0, StepRNG(PerSampleRNG(0, range(4)), torch.Generator()))
    assert losses.parts["logit_laplace"] == LOSS(result.likelihood, media)
    losses.total.backward()
    assert all(float(channel.abs().sum()) > 0 for channel in tokenizer.last_layer.grad.flatten(1))


def test_the_loss_and_what_it_reads_go_together() -> None:
    recipe = "tokenizer: {vq: {LIKELIHOOD}}\nlosses: {LOSS: {}}\ntrain: {samples: 10}\n"
    both = recipe.replace("LIKELIHOOD", "likelihood: logit_laplace").replace("LOSS", "logit_laplace")
    assert parse(both).tokenizer.likelihood == "logit_laplace"  # type: ignore[union-attr]
    assert parse(parse(both).to_yaml()) == parse(both)
    with pytest.raises(RecipeError, match="the loss logit_laplace needs a tokenizer that predicts a distribution"):
        parse(recipe.replace("LIKELIHOOD", "").replace("LOSS", "logit_laplace"))
    with pytest.raises(RecipeError, match=r"predicts a distribution that no loss reads: add losses: \{logit_laplace: \{\}\}"):
        parse(recipe.replace("LIKELIHOOD", "likelihood: logit_laplace").replace("LOSS", "regression"))
    plain = VQ(autoencoder=Convolutional(channels=(8,), blocks=(1,), patch=4), dim=4).build(image_medium(3, (8, 8)))
    media = torch.zeros(2, 3, 8, 8)
    objective = TokenizerObjective(plain.eval(), TERMS, media, lambda model: {})
    with pytest.raises(ValueError, match="needs a tokenizer that predicts a distribution"):
        objective(Batch(media, None, None, ["a", "b"]), "model", 0, StepRNG(PerSampleRNG(0, range(2)), torch.Generator()))
