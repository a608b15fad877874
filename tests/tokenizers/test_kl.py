"""The continuous tokenizer: closed forms, a measured scale, draws that belong to a picture, and what NextStep-1 adds."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from jielong.autoencoders.convolutional import Convolutional
from jielong.autoencoders.seanet import SEANet
from jielong.autoencoders.vit import ViT
from jielong.config.registry import RecipeError, parse_part
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.data.sets import Batch
from jielong.media.kinds.audio import audio_medium
from jielong.media.kinds.image import image_medium
from jielong.networks.posterior import DiagonalGaussian
from jielong.tokenizers.kl import KL, KLTokenizer, outlier_penalty
from jielong.training.generator_objective import GeneratorObjective
from jielong.training.objective import StepRNG

MEDIA = image_medium(3, (8, 12))
DIM = 5


def make(**settings: object) -> KLTokenizer:
    torch.manual_seed(0)
    tokenizer = KL(**{"autoencoder": Convolutional(channels=(8,), blocks=(1,), patch=4), "dim": DIM} | settings).build(MEDIA)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in tokenizer.encoder.out.parameters():  # type: ignore[union-attr]
            parameter += 0.5  # latents whose means are not zero
    return tokenizer


def pictures(batch: int = 6, seed: int = 1) -> Tensor:
    return torch.rand(batch, *MEDIA.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# --- the posterior --------------------------------------------------------------------------------------------------------------------


def test_the_divergence_is_the_closed_form() -> None:
    known = DiagonalGaussian(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, math.log(4)]))
    torch.testing.assert_close(known.kl(), torch.tensor([0.0, 0.5, 0.5 * (3 - math.log(4))]))
    given = DiagonalGaussian.of(torch.randn(7, 2 * DIM, generator=torch.Generator().manual_seed(0)) * 3)
    expected = kl_divergence(Normal(given.mean, given.std()), Normal(0.0, 1.0))
    torch.testing.assert_close(given.kl(), expected)


def test_a_standardised_distribution_is_that_of_standardised_numbers() -> None:
    given = DiagonalGaussian.of(torch.randn(4, 2 * DIM, generator=torch.Generator().manual_seed(0)))
    shift, scale = torch.linspace(-1, 1, DIM), torch.linspace(0.1, 3, DIM)
    normal = torch.randn(4, DIM, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(given.standardized(shift, scale).sample(normal), (given.sample(normal) - shift) * scale)


# --- tokens ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("autoencoder", [Convolutional(channels=(8, 8), patch=2), ViT(patch=4, layers=1, width=16, heads=2)])
def test_the_layout_is_derived_and_nothing_is_quantized(autoencoder: object) -> None:
    tokenizer = KL(autoencoder=autoencoder, dim=DIM).build(MEDIA).eval()  # type: ignore[arg-type]
    assert tokenizer.layout == Layout((2, 3), DIM)
    assert (tokenizer.layout.discrete, tokenizer.layout.bits) == (False, None)
    tokens = tokenizer.encode(pictures())
    assert tokens.values.shape == (6, 6, DIM)
    assert tokens.values.dtype == torch.float32
    rebuilt = tokenizer.decode(tokens)
    assert rebuilt.shape == (6, *MEDIA.shape)
    assert rebuilt.abs().max() <= 1
    torch.testing.assert_close(rebuilt, tokenizer(pictures()).media.clamp(-1, 1), rtol=1e-4, atol=1e-5)


def test_the_loss_is_weighted_nats_over_colour_values() -> None:
    tokenizer = make(weight=0.25)
    posterior = tokenizer.posterior(pictures())
    nats = kl_divergence(Normal(posterior.mean, posterior.std()), Normal(0.0, 1.0)).sum((1, 2)).mean()
    result = tokenizer(pictures())
    torch.testing.assert_close(result.losses["kl"], 0.25 * nats / (3 * 8 * 12))
    torch.testing.assert_close(result.figures["kl_nats"], nats.detach())
    assert not result.figures["kl_nats"].requires_grad


@pytest.mark.parametrize("standardize", ["channel", "all"])
@pytest.mark.parametrize("normalize", ["channel", None])
def test_the_measured_scale_gives_unit_deviation_and_comes_off_again(standardize: str, normalize: str | None) -> None:
    tokenizer = make(standardize=standardize, normalize=normalize).train()
    before = tokenizer.eval().decode(tokenizer.encode(pictures()))
    tokenizer.train().calibrate(pictures(60, seed=2).split(7))
    assert tokenizer.training
    mean, log_variance = tokenizer.eval().encode_to_cache(pictures(60, seed=2)).values.chunk(2, dim=-1)
    axes = (0, 1) if standardize == "channel" else (0, 1, 2)
    torch.testing.assert_close(mean.mean(axes), torch.zeros(mean.mean(axes).shape), rtol=0, atol=1e-5)
    total = mean.square().mean(axes) + log_variance.exp().mean(axes)
    torch.testing.assert_close(total, torch.ones(total.shape), rtol=1e-4, atol=0)
    drawn = tokenizer.sample_cached(tokenizer.encode_to_cache(pictures(60, seed=2)), PerSampleRNG(0, range(60))).values
    assert drawn.std() == pytest.approx(1, abs=0.1)  # 1,800 numbers: six deviations
    if standardize == "all":
        assert tokenizer.scale.unique().numel() == 1
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(pictures())), before, rtol=1e-4, atol=1e-5)


def test_the_scale_is_in_the_checkpoint_and_normalize_in_the_description() -> None:
    tokenizer = make()
    tokenizer.calibrate([pictures()])
    state = tokenizer.state_dict()
    assert {"shift", "scale"} <= set(state)
    again = make()
    again.load_state_dict(state)
    assert torch.equal(again.encode(pictures()).values, tokenizer.encode(pictures()).values)
    assert "normalize=channel" in repr(make(normalize="channel"))


def test_a_channel_that_says_nothing_does_not_explode() -> None:
    tokenizer = make()
    with torch.no_grad():
        tokenizer.encoder.out.weight.zero_()  # type: ignore[union-attr, operator]
        tokenizer.encoder.out.bias[DIM:] = -30  # type: ignore[union-attr, index]
    tokenizer.calibrate([pictures()])
    assert torch.isfinite(tokenizer.scale).all()
    assert torch.isfinite(tokenizer.encode_to_cache(pictures()).values).all()


def test_it_cannot_be_measured_on_nothing() -> None:
    with pytest.raises(ValueError, match="measured on training media, and there are none"):
        make().calibrate([])


# --- draws ----------------------------------------------------------------------------------------------------------------------------


def test_kept_tokens_decode_as_the_mean_and_are_drawn_anew() -> None:
    tokenizer = make().eval()
    tokenizer.calibrate([pictures()])
    kept = tokenizer.encode_to_cache(pictures())
    assert kept.layout == tokenizer.cached_layout == Layout((2, 3), 2 * DIM)
    assert torch.equal(tokenizer.decode(kept), tokenizer.decode(tokenizer.encode(pictures())))
    first, second = (tokenizer.sample_cached(kept, PerSampleRNG(seed, range(6))) for seed in (0, 1))
    assert first.layout == tokenizer.layout
    assert (first.values - second.values).abs().min() > 0
    part = tokenizer.sample_cached(Tokens(kept.values[2:5], kept.layout), PerSampleRNG(0, range(2, 5)))
    assert torch.equal(part.values, first.values[2:5]), "a picture's draw does not depend on the batch"


def test_draws_have_the_posteriors_mean_and_variance() -> None:
    tokenizer, count = make(), 20_000
    mean, log_variance = torch.tensor([-1.0, 0.0, 2.0, 0.5, 3.0]), torch.tensor([-2.0, 0.0, 1.0, -30.0, -1.0])
    kept = Tokens(torch.cat([mean, log_variance]).expand(count // 6 + 1, 6, 2 * DIM), tokenizer.cached_layout)
    drawn = tokenizer.sample_cached(kept, PerSampleRNG(3, range(len(kept)))).values.flatten(0, 1)
    std = torch.exp(log_variance / 2)
    assert ((drawn.mean(0) - mean).abs() <= 6 * std / math.sqrt(count) + 1e-6).all()
    assert ((drawn.std(0) / std - 1).abs() <= 6 / math.sqrt(2 * count))[std > 1e-3].all()


def latents_of(tokenizer: KLTokenizer, media: Tensor, rng: PerSampleRNG | None) -> Tensor:
    """What the decoder is given in training, ``(B, D, h, w)``."""
    seen: list[Tensor] = []
    handle = tokenizer.decoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    tokenizer(media, rng=rng)
    handle.remove()
    return seen[0].detach()


@pytest.mark.parametrize("settings", [{}, {"normalize": "channel", "noise": 0.5}])
def test_a_pictures_round_trip_does_not_depend_on_its_batch(settings: dict[str, object]) -> None:
    tokenizer = make(**settings)
    whole = tokenizer(pictures(), rng=PerSampleRNG(4, range(10, 16)))
    halves = [
        tokenizer(pictures()[rows], rng=PerSampleRNG(4, range(10 + rows.start, 10 + rows.stop))) for rows in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(torch.cat([half.media for half in halves]), whole.media, rtol=1e-4, atol=1e-5)
    other = tokenizer(pictures(), rng=PerSampleRNG(5, range(10, 16)))
    assert (other.media - whole.media).abs().mean() > 1e-3


def test_gradients_reach_mean_and_variance() -> None:
    tokenizer = make(weight=0.0)
    tokenizer(pictures(), rng=PerSampleRNG(0, range(6))).media.square().mean().backward()
    of_mean, of_variance = tokenizer.encoder.out.weight.grad.split(DIM)  # type: ignore[union-attr, operator]
    assert of_mean.abs().sum() > 0
    assert of_variance.abs().sum() > 0


def test_normalised_tokens_have_mean_zero_and_mean_square_one() -> None:
    latents = latents_of(make(normalize="channel"), pictures() * 0.1, None)
    torch.testing.assert_close(latents.mean(1), torch.zeros(6, 2, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(latents.square().mean(1), torch.ones(6, 2, 3), rtol=1e-3, atol=0)
    assert not torch.allclose(latents_of(make(), pictures() * 0.1, None).square().mean(1), torch.ones(6, 2, 3), rtol=1e-2)


def test_the_noise_of_a_picture_has_its_own_strength() -> None:
    """``u n`` has a variance of ``u^2`` within a picture, and ``E u^2 = gamma^2 / 3`` over pictures."""
    gamma, count = 0.8, 600
    quiet, loud = make(normalize="channel"), make(normalize="channel", noise=gamma)
    media = pictures(1).expand(count, -1, -1, -1)
    added = latents_of(loud, media, PerSampleRNG(0, range(count))) - latents_of(quiet, media, PerSampleRNG(0, range(count)))
    strengths = added.flatten(1).std(1)
    assert strengths.max() < gamma * 1.8
    assert strengths.min() < 0.05 * gamma
    # The square of u has a standard deviation of gamma^2 sqrt(4 / 45).
    assert abs(strengths.square().mean() / gamma**2 - 1 / 3) < 6 * (math.sqrt(4 / 45) + 0.1) / math.sqrt(count)


def test_a_heavy_weight_makes_the_posterior_the_prior_and_a_light_one_lets_it_reconstruct() -> None:
    errors, nats = {}, {}
    media = pictures(2)
    for weight in (1e-6, 10.0):
        tokenizer = make(weight=weight).train()
        optimizer = torch.optim.Adam(tokenizer.parameters(), 1e-2)
        for step in range(60):
            result = tokenizer(media, rng=PerSampleRNG(step, range(2)))
            error = (result.media - media).square().mean()
            optimizer.zero_grad()
            (error + result.losses["kl"]).backward()
            optimizer.step()
        errors[weight], nats[weight] = float(error.detach()), float(result.figures["kl_nats"])
    assert errors[1e-6] < 0.5 * errors[10.0]
    assert nats[10.0] < 0.5 < 10 < nats[1e-6]


class Listener(nn.Module):
    """In a generator's place: remembers the tokens it is to learn."""

    condition = None
    head = SimpleNamespace(on_train_step=lambda samples_seen: None, loss_ranks_weights=True)

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout, self.heard = layout, []  # type: ignore[var-annotated]

    def loss(self, tokens: Tokens, *_: object) -> Tensor:
        assert tokens.layout == self.layout
        self.heard.append(tokens.values)
        return torch.zeros(())


@pytest.mark.parametrize("cached", [True, False])
def test_a_generator_learns_from_new_draws_each_time_it_sees_a_picture(cached: bool) -> None:
    tokenizer = make()
    tokenizer.calibrate([pictures()])
    listener = Listener(tokenizer.layout)
    objective = GeneratorObjective(listener, tokenizer, lambda batch: None, None, lambda *a: None, lambda *a: {})  # type: ignore[arg-type, return-value]
    media, kept = (torch.empty(6, 0), tokenizer.encode_to_cache(pictures()).values) if cached else (pictures(), None)
    for seen in (0, 6, 6):
        draws = StepRNG(PerSampleRNG(0, range(seen, seen + 6)), torch.Generator().manual_seed(0))
        objective(Batch(media, None, None, list("abcdef"), kept), "model", seen, draws)
    first, second, again = listener.heard
    assert torch.equal(second, again), "the same place of the stream, the same draw"
    assert (first - second).abs().min() > 0
    expected, mean = (
        tokenizer.sample_cached(tokenizer.encode_to_cache(pictures()), PerSampleRNG(0, range(6))).values,
        tokenizer.encode(pictures()).values,
    )
    assert torch.equal(first, expected)
    assert not torch.equal(first, mean)


# --- what does not fit ----------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused() -> None:
    tokenizer = make()
    with pytest.raises(ValueError, match=r"reads \(channels, rows, columns\) = \(3, 8, 12\), not"):
        tokenizer.encode(torch.zeros(1, 3, 12, 8))
    with pytest.raises(ValueError, match="these tokens are not this tokenizer's"):
        tokenizer.decode(Tokens(torch.zeros(1, 6, DIM + 1), Layout((2, 3), DIM + 1)))
    with pytest.raises(ValidationError, match="outgrows noise of a fixed size"):
        KL(noise=0.5)
    with pytest.raises(ValidationError, match="next to nothing of 2 numbers"):
        KL(dim=2, normalize="channel")
    with pytest.raises(RecipeError, match="Extra inputs are not permitted"):
        parse_part("tokenizer", {"kl": {"quantizer": "vector"}})


def test_outliers_cost_what_exceeds_three_standard_deviations() -> None:
    """One planted outlier among equal latents: its distance and the deviation it makes are closed forms."""
    count, height = 100, 8.0
    latents = torch.zeros(2, 3, count, 4)
    latents[0, 1, 7, 2] = height
    share = 1 / count
    distance, deviation = height * (1 - share), height * math.sqrt(share * (1 - share))
    wanted = (distance - 3 * deviation) / (2 * 3 * count)
    assert float(outlier_penalty(latents)) == pytest.approx(wanted, rel=1e-5)
    few = torch.randn(2, 1, 4, 4)  # four positions cannot lie further than the square root of 3 from their mean
    assert outlier_penalty(few) == 0
    tokenizer = KL(autoencoder=Convolutional(channels=(8,), blocks=(1,), patch=1), dim=2, outliers=10.0).build(image_medium(3, (8, 8)))
    media = torch.zeros(2, 3, 8, 8)
    media[:, :, 3, 3] = 50.0  # a patch is a pixel: one latent far from the others
    means = tokenizer.posterior(media).mean
    assert outlier_penalty(means) > 0
    torch.testing.assert_close(tokenizer(media).losses["outliers"], 10 * outlier_penalty(means))
    assert "outliers" not in make()(pictures()).losses
    with pytest.raises(ValueError, match=r"tokenizer\.kl\.outliers: these are outliers of a frame"):
        KL(autoencoder=SEANet(channels=4, ratios=(2,)), outliers=1.0).build(audio_medium(1, 32, 100))


# --- squares of latents ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_token_of_a_square_holds_its_latents() -> None:
    media, settings = image_medium(3, (16, 24)), {"autoencoder": Convolutional(channels=(8,), blocks=(1,), patch=4), "dim": DIM}
    plain, squares = (KL.model_validate({**settings, "patch": patch}).build(media).eval() for patch in (1, 2))
    squares.load_state_dict(plain.state_dict())
    for tokenizer in (plain, squares):
        tokenizer.shift.copy_(torch.linspace(-1, 1, DIM))
        tokenizer.scale.copy_(torch.linspace(0.5, 2, DIM))
    assert squares.layout == Layout((2, 3), 4 * DIM)
    assert repr(squares) != repr(plain), "token files of the two differ"
    shown = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    each = plain.encode(shown).values.unflatten(1, (4, 6))
    token = squares.encode(shown).values[:, 1 * 3 + 2]  # the square in the second row, third column
    assert torch.equal(token, torch.stack([each[:, 2, 4], each[:, 2, 5], each[:, 3, 4], each[:, 3, 5]], 1).flatten(1))
    assert torch.equal(squares.decode(squares.encode(shown)), plain.decode(plain.encode(shown)))
    assert torch.equal(squares(shown).media, plain(shown).media)
    cached = squares.encode_to_cache(shown)
    assert torch.equal(squares.mean_cached(cached).values, squares.encode(shown).values)
    drawn = squares.sample_cached(cached, PerSampleRNG(0, range(2))).values
    mean, log_variance = cached.values.chunk(2, -1)
    normal = PerSampleRNG(0, range(2)).normal(6, 4 * DIM)
    torch.testing.assert_close(drawn, mean + (log_variance / 2).exp() * normal)
    squares.calibrate([shown])
    plain.calibrate([shown])
    assert torch.equal(squares.scale, plain.scale)


def test_squares_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 x 3 latents do not divide into squares of 2 x 2"):
        make(patch=2)
