"""The GAN head: closed forms of its losses and penalties, its two phases, and what conditions it compares."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.backbones.transformer import Transformer
from jielong.config.sampling import SamplingConfig
from jielong.core.phases import MAIN, trained_parameters
from jielong.core.rng import Draws, PerSampleRNG
from jielong.core.tokens import Layout
from jielong.generation.generator import Generator
from jielong.heads.base import HeadContext, Mismatch
from jielong.heads.gan import DISCRIMINATOR, GAN, GANHead
from jielong.networks.conditioning import Conditioning
from jielong.networks.identity import Identity
from jielong.networks.vectors import VectorEncoder
from jielong.orders.at_once import AtOnce
from jielong.orders.raster import Raster

LAYOUT = Layout((4, 4), channels=3)
SMALL = {"residual": {"channels": [16, 8], "blocks": 1, "group": 8}}
NETWORKS: dict[str, dict[str, Any]] = {
    "residual": {"generator": SMALL, "discriminator": SMALL},
    "dcgan": {
        "generator": {"dcgan": {"channels": [16, 8], "norm": "group"}},
        "discriminator": {"dcgan": {"channels": [16, 8], "norm": "none"}},
    },
    "dit": {"generator": {"joint": {"network": {"dit": {"layers": 1, "width": 16, "heads": 2}}}}, "discriminator": SMALL, "noise": 2},
    "mlp": {"generator": {"mlp": {"layers": 1, "width": 16}}, "discriminator": {"mlp": {"layers": 1, "width": 16}}},
}
LOSSES = ("non_saturating", "hinge", "relativistic")


def built(condition: int | None = 5, networks: str = "residual", **settings: Any) -> GANHead:
    torch.manual_seed(0)
    head = GAN.model_validate({"noise": 4, "condition": 8, **NETWORKS[networks], **settings}).build(6, LAYOUT, condition)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    return head.double()


def conditions(count: int = 3, seed: int = 1) -> Conditioning:
    states = torch.randn(count, 2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Conditioning(states, torch.tensor([[True, True]] * (count - 1) + [[True, False]]), states.mean(1))


def batch(count: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(count, 16, size, generator=generator, dtype=torch.float64) for size in (6, 3))  # type: ignore[return-value]


def context(phase: str = MAIN, seed: int = 1, **more: Any) -> HeadContext:
    return HeadContext(coords=LAYOUT.coordinates(), condition=conditions(seed=seed), phase=phase, draws=Draws(torch.arange(3)), **more)


class Constant(VectorEncoder):
    """Features ``sum of tokens`` or nothing, so that logits are chosen by the logit layer."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.flatten(1).sum(1, keepdim=True)


def scored(head: GANHead, *logits: float) -> None:
    """Let the discriminator's calls of :meth:`logits` return these constants in turn, with a gradient of zero."""
    given = iter(logits)
    head.discriminator.logits = lambda features, vector: 0 * features.sum(1) + next(given)  # type: ignore[method-assign]


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("loss", LOSSES)
def test_both_phases_have_a_loss_of_each_item_and_gradients_for_their_parameters(networks: str, loss: str) -> None:
    head, (hidden, targets) = built(networks=networks, loss=loss, mismatched=1.0), batch()
    mismatch = Mismatch(conditions(seed=3), torch.ones(3, 1, dtype=torch.bool))
    for phase, module in ((MAIN, head.generator), (DISCRIMINATOR, head.discriminator)):
        found = head.loss(hidden, targets, context(phase, mismatch=mismatch))
        assert found.shape == (3,)
        gradients = torch.autograd.grad(found.sum(), list(module.parameters()), allow_unused=True)
        assert all(each is not None and bool(each.isfinite().all()) for each in gradients)
    one = head.sample(hidden, PerSampleRNG(0, range(3)), SamplingConfig(), context()).values
    assert one.shape == targets.shape
    still = head.sample(hidden, PerSampleRNG(0, range(3)), SamplingConfig(temperature=0), context()).values
    again = head.sample(hidden, PerSampleRNG(9, range(3)), SamplingConfig(temperature=0), context()).values
    torch.testing.assert_close(still, again)
    assert float((one - still).detach().abs().max()) > 1e-6


def test_losses_of_constant_logits_are_the_closed_forms() -> None:
    hidden, targets = batch()
    forms: dict[str, tuple[Callable[[float, float], float], Callable[[float, float], float]]] = {
        "non_saturating": (
            lambda real, fake: (math.log1p(math.exp(-real)) + math.log1p(math.exp(fake))) / 2,
            lambda real, fake: math.log1p(math.exp(-fake)),
        ),
        "hinge": (lambda real, fake: (max(0, 1 - real) + max(0, 1 + fake)) / 2, lambda real, fake: -fake),
        "relativistic": (lambda real, fake: math.log1p(math.exp(fake - real)), lambda real, fake: math.log1p(math.exp(real - fake))),
    }
    for loss, (of_discriminator, of_generator) in forms.items():
        for real, fake in ((0.0, 0.0), (0.7, -0.4), (-1.5, 2.0)):
            head = built(loss=loss, r1=1.0, r2=1.0)
            scored(head, real, fake)  # a constant has no slope, so penalties are 0
            found = head.loss(hidden, targets, context(DISCRIMINATOR))
            torch.testing.assert_close(found, torch.full((3,), of_discriminator(real, fake), dtype=torch.float64))
            scored(head, *((fake, real) if loss == "relativistic" else (fake,)))
            found = head.loss(hidden, targets, context())
            torch.testing.assert_close(found, torch.full((3,), of_generator(real, fake), dtype=torch.float64))


def test_where_logits_are_equal_the_losses_are_those_of_a_fair_coin() -> None:
    """The optimum where generated items have the distribution of real ones: 2 ln 2 for both sides' sum, ln 2 for the generator."""
    hidden, targets = batch()
    for loss in ("non_saturating", "relativistic"):
        head = built(loss=loss)
        nn.init.zeros_(head.discriminator.logit.weight)
        assert head.discriminator.projection is not None
        nn.init.zeros_(head.discriminator.projection.weight)
        for phase in (MAIN, DISCRIMINATOR):
            if loss == "non_saturating":
                nn.init.zeros_(head.discriminator.logit.bias)
            found = head.loss(hidden, targets, context(phase))
            torch.testing.assert_close(found, torch.full((3,), math.log(2), dtype=torch.float64))


def test_the_penalties_are_those_of_autograd_by_hand() -> None:
    hidden, targets = batch()
    plain, head = built(r1=0, r2=0), built(r1=3.0, r2=5.0)
    base, found = (each.loss(hidden, targets, context(DISCRIMINATOR)) for each in (plain, head))
    fake = head.decode(Draws(torch.arange(3)).normal(2, 4)[:, 1], hidden, context()).detach()
    squares = []
    for tokens in (targets, fake):
        for row in range(3):
            one = tokens[row : row + 1].clone().requires_grad_()
            alone = conditions().rows(slice(row, row + 1))
            (slope,) = torch.autograd.grad(head.discriminator(one, alone)[0], one)
            squares.append(slope.square().sum())
    expected = base + 1.5 * torch.stack(squares[:3]) + 2.5 * torch.stack(squares[3:])
    torch.testing.assert_close(found, expected)


def test_the_penalty_of_a_linear_discriminator_is_half_its_weights_square() -> None:
    hidden, targets = batch()
    for r1, r2 in ((2.0, 0.0), (0.0, 2.0)):
        head, without = built(None, r1=r1, r2=r2), built(None, r1=0, r2=0)
        for each in (head, without):
            each.discriminator.encoder = Constant()
            each.discriminator.logit = nn.Linear(1, 1).double()
            nn.init.constant_(each.discriminator.logit.weight, 0.3)
        found = [each.loss(hidden, targets, replace(context(DISCRIMINATOR), condition=None)) for each in (head, without)]
        torch.testing.assert_close(found[0] - found[1], torch.full((3,), 0.3**2 * 48, dtype=torch.float64))


@pytest.mark.parametrize("loss", LOSSES)
def test_mismatched_pairs_count_as_their_weight_says(loss: str) -> None:
    """Right pair r, generated pair g, wrong pairs w of two conditions, v of generated tokens; unpaired items keep the first loss alone."""
    right, generated, wrong, other = 0.8, -0.3, (0.5, -0.6), (0.2, 0.1)
    hidden, targets = batch()

    def against(a: float, b: float) -> float:
        real, fake = torch.tensor(a), torch.tensor(b)
        if loss == "relativistic":
            return float(F.softplus(fake - real))
        if loss == "hinge":
            return float(F.relu(1 - real) + F.relu(1 + fake)) / 2
        return float(F.softplus(-real) + F.softplus(fake)) / 2

    head = built(loss=loss, mismatched=0.5, mismatched_generated=0.25, mismatches=2, r1=0, r2=0)
    calls = iter([right, generated, wrong, other])

    def logits(features: Tensor, vector: Tensor | None) -> Tensor:
        value = torch.tensor(next(calls), dtype=torch.float64)
        return value.expand(3) if value.ndim == 0 else value.repeat(3)

    head.discriminator.logits = logits  # type: ignore[method-assign]
    paired = torch.tensor([[True, True], [True, False], [False, False]])
    found = head.loss(hidden, targets, context(DISCRIMINATOR, mismatch=Mismatch(conditions(6), paired)))
    for row in range(3):
        terms, weights = [against(right, generated)], [1.0]
        for pair in range(2):
            if paired[row, pair]:
                terms += [against(right, wrong[pair]), against(right, other[pair])]
                weights += [0.25, 0.125]
        expected = sum(t * w for t, w in zip(terms, weights, strict=True)) / sum(weights)
        assert float(found[row]) == pytest.approx(expected, rel=1e-6)


def test_a_head_that_compares_conditions_needs_them() -> None:
    hidden, targets = batch()
    with pytest.raises(ValueError, match="mismatched compares conditions, and this recipe has none"):
        built(None, mismatched=1.0)
    with pytest.raises(ValueError, match=r"give HeadContext\(mismatch="):
        built(mismatched=1.0).loss(hidden, targets, context(DISCRIMINATOR))


@pytest.mark.parametrize("reads", ["projection", "concatenation"])
def test_the_discriminator_reads_the_condition_and_sends_it_no_gradient(reads: str) -> None:
    head, (hidden, targets) = built(reads=reads), batch()
    states = conditions().states.clone().requires_grad_()
    given = Conditioning(states, conditions().mask, states.mean(1))
    first = head.discriminator(targets, given)
    assert float((first - head.discriminator(targets, conditions(seed=4))).detach().abs().min()) > 1e-6
    (none,) = torch.autograd.grad(first.sum(), states, allow_unused=True)
    assert none is None
    (some,) = torch.autograd.grad(head.loss(hidden, targets, replace(context(), condition=given)).sum(), states)
    assert bool(some.any())  # through the generator


def test_projection_is_linear_in_features_and_in_the_vector() -> None:
    """``w f + b + (V c) f / sqrt(F)``, written out."""
    score = built().discriminator
    assert score.projection is not None
    features, vector = torch.randn(2, 16, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64)
    expected = features @ score.logit.weight[0] + score.logit.bias + ((vector @ score.projection.weight.T) * features).sum(1) / 4
    torch.testing.assert_close(score.logits(features, vector), expected)


def test_pooled_conditions_do_not_depend_on_padding() -> None:
    pooled = built().discriminator.pooled
    assert pooled is not None
    given = conditions()
    filled = given.states.clone()
    filled[2, 1] = math.nan
    torch.testing.assert_close(pooled(Conditioning(filled, given.mask, given.pooled)), pooled(given))


def test_an_alternating_step_is_two_steps_by_hand() -> None:
    """The generator's update with the discriminator fixed, then the discriminator's against the new generator, bit for bit."""
    hidden, targets = batch()
    head = built(loss="relativistic", r1=0.5, r2=0.5)
    other = copy.deepcopy(head)
    moved = trained_parameters({MAIN: head, **head.phases})
    for phase in (MAIN, DISCRIMINATOR):
        for parameter in head.parameters():
            parameter.grad = None
        head.loss(hidden, targets, context(phase)).mean().backward()
        torch.optim.SGD(moved[phase], lr=0.1).step()

    noise = Draws(torch.arange(3)).normal(2, 4)
    generate = lambda at: other.decode(noise[:, at], hidden, context())  # noqa: E731
    score = lambda tokens: other.discriminator(tokens, conditions())  # noqa: E731
    generator, discriminator = list(other.generator.parameters()), list(other.discriminator.parameters())
    loss = F.softplus(score(targets).detach() - score(generate(0))).mean()
    for parameter, gradient in zip(generator, torch.autograd.grad(loss, generator), strict=True):
        parameter.data -= 0.1 * gradient
    real, fake = targets.clone().requires_grad_(), generate(1).detach().requires_grad_()
    of_real, of_fake = score(real), score(fake)
    slopes = [torch.autograd.grad(s.sum(), x, create_graph=True)[0] for s, x in ((of_real, real), (of_fake, fake))]
    loss = (F.softplus(of_fake - of_real) + sum(0.25 * slope.square().sum((1, 2)) for slope in slopes)).mean()
    for parameter, gradient in zip(discriminator, torch.autograd.grad(loss, discriminator), strict=True):
        parameter.data -= 0.1 * gradient
    for one, two in zip(head.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


CLIP = Layout((4, 4, 4), channels=3)
OF_CLIPS: dict[str, Any] = {
    "generator": {"dcgan": {"channels": [8, 8], "norm": "group", "time_halvings": 1}},
    "discriminator": {"dcgan": {"channels": [8, 8], "norm": "none"}},
    "frame_discriminator": SMALL,
}


def of_clips(condition: int | None = 5, **settings: Any) -> tuple[GANHead, Tensor, Tensor]:
    """A head with two discriminators; hidden vectors and tokens of three clips."""
    torch.manual_seed(0)
    head = GAN.model_validate({"noise": 4, "condition": 8, **OF_CLIPS, **settings}).build(6, CLIP, condition)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    generator = torch.Generator().manual_seed(2)
    hidden, targets = (torch.randn(3, 64, size, generator=generator, dtype=torch.float64) for size in (6, 3))
    return head.double(), hidden, targets


def on_clips(phase: str = MAIN, **more: Any) -> HeadContext:
    return replace(context(phase, **more), coords=CLIP.coordinates())


@pytest.mark.parametrize("frames", [None, 2])
def test_an_alternating_step_with_two_discriminators_is_two_steps_by_hand(frames: int | None) -> None:
    """Losses of clips and, meaned over the frames that are read, of single frames are added, on both sides, with their penalties."""
    head, hidden, targets = of_clips(loss="relativistic", r1=0.5, r2=0.25, frames=frames)
    other = copy.deepcopy(head)
    moved = trained_parameters({MAIN: head, **head.phases})
    for phase in (MAIN, DISCRIMINATOR):
        for parameter in head.parameters():
            parameter.grad = None
        head.loss(hidden, targets, on_clips(phase)).mean().backward()
        torch.optim.SGD(moved[phase], lr=0.1).step()

    draws = Draws(torch.arange(3))
    noise, keys = draws.normal(2, 4), draws.uniform(2, 4)
    score_clip, score_frame = other.discriminator, other.discriminator.frames
    assert score_frame is not None

    def logits(tokens: Tensor, at: int) -> tuple[Tensor, Tensor]:
        """Of the clips ``(3,)`` and of their chosen frames ``(3, K)``, frame by frame."""
        chosen = keys[:, at].argsort(1)[:, : frames or 4]
        of_frames = [
            torch.stack([score_frame(tokens[row : row + 1, 16 * f : 16 * f + 16], conditions().rows(slice(row, row + 1)))[0] for f in each])
            for row, each in enumerate(chosen.tolist())
        ]
        return score_clip(tokens, conditions()), torch.stack(of_frames)

    generate = lambda at: other.decode(noise[:, at], hidden, on_clips())  # noqa: E731
    generator, discriminator = list(other.generator.parameters()), list(other.discriminator.parameters())
    real, fake = logits(targets, 0), logits(generate(0), 0)
    loss = F.softplus(real[0].detach() - fake[0]).mean() + F.softplus(real[1].detach() - fake[1]).mean()
    for parameter, gradient in zip(generator, torch.autograd.grad(loss, generator), strict=True):
        parameter.data -= 0.1 * gradient
    tokens = targets.clone().requires_grad_(), generate(1).detach().requires_grad_()
    real, fake = logits(tokens[0], 1), logits(tokens[1], 1)
    loss = F.softplus(fake[0] - real[0]).mean() + F.softplus(fake[1] - real[1]).mean()
    for each, at, weight in ((real, tokens[0], 0.5), (fake, tokens[1], 0.25)):
        for one in each:
            (slope,) = torch.autograd.grad(one.sum(), at, create_graph=True)
            share = 1 if one.ndim == 1 else one.shape[1]  # frames share no pixels, so their squares add up
            loss = loss + weight / 2 * slope.square().sum() / 3 / share
    for parameter, gradient in zip(discriminator, torch.autograd.grad(loss, discriminator), strict=True):
        parameter.data -= 0.1 * gradient
    for one, two in zip(head.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_both_discriminators_compare_conditions_and_have_figures(loss: str) -> None:
    head, hidden, targets = of_clips(loss=loss, mismatched=1.0, mismatched_generated=0.5, mismatches=2, frames=3)
    mismatch, found = Mismatch(conditions(6, seed=3), torch.tensor([[True, True], [True, False], [False, False]])), dict[str, Tensor]()
    whole = head.loss(hidden, targets, on_clips(DISCRIMINATOR, mismatch=mismatch, on_figure=found.__setitem__))
    names = ("real", "fake", "adversarial", "mismatched_real", "mismatched_fake", "r1", "r2")
    assert set(found) == {f"{critic}_{name}" for critic in ("discriminator", "frame_discriminator") for name in names}
    assert {figure.shape for figure in found.values()} == {(3,)}
    # An item without other conditions keeps the plain loss and the penalties, of both discriminators.
    alone = sum(
        found[f"{critic}_adversarial"] + (found[f"{critic}_r1"] + found[f"{critic}_r2"]) / 2
        for critic in sorted({"discriminator", "frame_discriminator"})
    )
    torch.testing.assert_close(whole[2].detach(), alone[2])  # type: ignore[index]
    assert float((whole[0].detach() - alone[0]).abs()) > 1e-6  # type: ignore[index]
    gradients = torch.autograd.grad(whole.sum(), list(head.discriminator.parameters()), allow_unused=True)
    assert all(each is not None and bool(each.isfinite().all()) for each in gradients)
    found.clear()
    head.eval().loss(hidden, targets, on_clips(on_figure=found.__setitem__))
    assert set(found) == {f"{critic}_{name}" for critic in ("discriminator", "frame_discriminator") for name in ("real", "fake")}


def test_a_frame_discriminator_that_wins_is_told_of() -> None:
    head, *_ = of_clips()
    advice = head.advice({"discriminator_adversarial": 0.4, "frame_discriminator_adversarial": 0.001})
    assert advice is not None
    assert advice.startswith("the frame discriminator separates")


def test_networks_of_clips_halve_time_where_they_are_told_to() -> None:
    for halvings, frames in ((None, 4), (2, 4), (1, 6), (0, 5)):
        settings = {"channels": [8, 8], "norm": "group", **({} if halvings is None else {"time_halvings": halvings})}
        layout = Layout((frames, 8, 12), channels=2)
        head = GAN.model_validate({"noise": 3, "generator": {"dcgan": settings}, "discriminator": {"dcgan": settings}}).build(6, layout)
        hidden = torch.zeros(2, layout.positions, 6)
        drawn = head.sample(hidden, PerSampleRNG(0, range(2)), SamplingConfig()).values
        assert drawn.shape == (2, layout.positions, 2)
        assert head.discriminator(drawn, None).shape == (2,)
    with pytest.raises(ValueError, match="6 frames cannot be halved 2 times, but 1: set time_halvings: 1"):
        GAN.model_validate({"generator": {"dcgan": {"channels": [8, 8]}}}).build(6, Layout((6, 8, 8), channels=2))
    with pytest.raises(ValueError, match="time_halvings is of clips, and these tokens have 2 axes"):
        GAN.model_validate({"generator": {"dcgan": {"channels": [8, 8], "time_halvings": 1}}}).build(6, LAYOUT)
    with pytest.raises(ValueError, match="time_halvings: 3 of 2 layers cannot halve time"):
        GAN.model_validate({"generator": {"dcgan": {"channels": [8, 8], "time_halvings": 3}}})
    with pytest.raises(ValueError, match="along rows and columns, and these have 3 axes: take dcgan"):
        GAN().build(6, CLIP)
    with pytest.raises(ValueError, match="frame_discriminator reads frames of clips, and these tokens have a grid"):
        GAN.model_validate({"frame_discriminator": SMALL}).build(6, LAYOUT)
    with pytest.raises(ValueError, match="frames: clips have 4 frames, not 5"):
        of_clips(frames=5)
    with pytest.raises(ValueError, match="frames: 2 is of a second discriminator, and there is none"):
        GAN.model_validate({"frames": 2})


def test_held_out_items_have_the_logits_of_both_kinds() -> None:
    hidden, targets = batch()
    for loss in LOSSES:
        head, found = built(loss=loss).eval(), dict[str, Tensor]()
        head.loss(hidden, targets, context(on_figure=found.__setitem__))
        torch.testing.assert_close(found["discriminator_real"], head.discriminator(targets, conditions()).detach())
        assert found["discriminator_fake"].shape == (3,)


def test_a_discriminator_that_wins_outright_is_told_of() -> None:
    hidden, targets = batch()
    for loss in LOSSES:
        head, found = built(loss=loss), dict[str, Tensor]()
        for real, fake, wins in ((8.0, -8.0, True), (0.5, -0.5, False)):
            scored(head, real, fake)
            head.loss(hidden, targets, context(DISCRIMINATOR, on_figure=found.__setitem__))
            advice = head.advice({name: float(figure.mean()) for name, figure in found.items()})
            assert (advice is not None) == wins
    assert built().advice({}) is None


def test_two_points_are_both_drawn() -> None:
    """Data +-1 with a one-dimensional noise: a generator that collapses draws one of them."""
    torch.manual_seed(0)
    layout = Layout((1,), channels=1)
    small = {"mlp": {"layers": 2, "width": 32}}
    settings = {"noise": 1, "generator": small, "discriminator": small, "r1": 0.3, "r2": 0.3}
    head = GAN.model_validate(settings).build(2, layout)
    moved = trained_parameters({MAIN: head, **head.phases})
    optimizers = {phase: torch.optim.Adam(each, lr=3e-3, betas=(0.0, 0.99)) for phase, each in moved.items()}
    hidden = torch.zeros(128, 1, 2)
    for step in range(400):
        targets = (torch.randint(2, (128, 1, 1)) * 2.0) - 1
        for phase, optimizer in optimizers.items():
            for parameter in head.parameters():
                parameter.grad = None
            head.loss(hidden, targets, HeadContext(phase=phase, draws=Draws(torch.arange(128) + 1000 * step))).mean().backward()
            optimizer.step()
    with torch.no_grad():
        drawn = head.sample(torch.zeros(400, 1, 2), PerSampleRNG(0, range(400)), SamplingConfig()).values.flatten()
    assert 0.3 < float((drawn > 0).float().mean()) < 0.7
    assert float((drawn.abs() - 1).abs().mean()) < 0.25


def test_what_does_not_fit_is_refused() -> None:
    head, (hidden, targets) = built(), batch()
    rng = PerSampleRNG(0, range(3))
    with pytest.raises(ValueError, match="guidance 3: the GANHead maps noise to tokens in one evaluation"):
        head.sample(hidden, rng, SamplingConfig.model_validate({"guidance": 3.0}), context())
    with pytest.raises(ValueError, match="draws a token in one evaluation"):
        head.sample(hidden, rng, SamplingConfig(num_inference_steps=4), context())
    with pytest.raises(ValueError, match="padding"):
        head.loss(hidden, targets, context(mask=torch.zeros(3, 16, dtype=torch.bool)))
    with pytest.raises(ValueError, match="gan head needs continuous tokens"):
        GAN().build(6, Layout((4, 4), vocabulary=8))
    with pytest.raises(ValueError, match="tokens of 4 x 4 cannot be halved 3 times, but 2"):
        GAN.model_validate({"generator": {"residual": {"channels": [64, 32, 16, 8]}}}).build(6, LAYOUT)
    with pytest.raises(ValueError, match="along rows and columns, and these have 1 axes: take mlp or joint"):
        GAN().build(6, Layout((16,), channels=3))
    with pytest.raises(ValueError, match="16 channels do not divide the 24 inside"):
        GAN.model_validate({"generator": {"residual": {"channels": [12]}}})
    with pytest.raises(ValueError, match="the network mlp reads one token at a time"):
        GAN.model_validate({"generator": {"joint": {"network": {"mlp": {}}}}}).build(6, LAYOUT)
    with pytest.raises(ValueError, match="draws all tokens together, and here are several blocks: choose order: at_once"):
        Generator(LAYOUT, Raster().build(), Transformer(layers=1, width=16, heads=2).build(LAYOUT, None), built(None))
    Generator(LAYOUT, AtOnce().build(), Identity(6), built(None))
