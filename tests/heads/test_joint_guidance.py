"""Guidance inside a joint head: over the noise level, rescaled, and by a weaker model; against Euler's steps written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg
from torch import Tensor

from jielong.backbones.none import NoBackbone
from jielong.conditions.classes import ClassCondition
from jielong.config.guidance import Guidance
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.generation.generator import Generator
from jielong.heads.base import HeadContext
from jielong.heads.consistency import Consistency
from jielong.heads.continuous import GuidedDenoiser, IterativeHead
from jielong.heads.diffusion import Diffusion
from jielong.heads.flow_matching import FlowMatching
from jielong.heads.mean_flow import MeanFlow
from jielong.heads.shortcut import Shortcut
from jielong.heads.softmax import Softmax
from jielong.networks.denoiser import MLP
from jielong.networks.dit import DiT
from jielong.orders.at_once import AtOnce

LAYOUT, STEPS, ITEMS = Layout((3,), channels=2), 10, 4
NETWORK = DiT(layers=1, width=16, heads=2)
FLOW = FlowMatching(network=NETWORK, steps=STEPS)
INTERVAL = Guidance(kind="interval", scale=3.0, start=0.25, stop=0.65)


def head_of(settings: Any, seed: int = 0) -> IterativeHead:
    torch.manual_seed(seed)
    head: IterativeHead = settings.build(6, LAYOUT)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return head.eval()


def model_of(settings: Any = FLOW, seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    condition = ClassCondition(["cat", "dog"], 8, 0.1)
    model = Generator(
        LAYOUT, AtOnce().build(), NoBackbone(width=6).build(LAYOUT, 8), settings.build(6, LAYOUT), condition, torch.nn.Identity()
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def rows_of(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Blocks that the network is evaluated for, of each call."""
    seen, inner = list[int](), model.head.network.predict
    monkeypatch.setattr(model.head.network, "predict", lambda x, times, states: (seen.append(len(x)), inner(x, times, states))[1])
    return seen


def draw(model: Generator, **options: Any) -> Tensor:
    return model.generate(["cat", "dog"] * (ITEMS // 2), seed=3, **options).values


HEADS = [
    FLOW, FLOW.model_copy(update={"sampler": "heun"}), FLOW.model_copy(update={"sampler": "unipc"}),
    Diffusion(network=NETWORK, steps=STEPS), Diffusion(network=NETWORK, steps=31, variance="fixed", prediction="edm", sampler="edm"),
    MeanFlow(network=NETWORK, steps=STEPS), Shortcut(network=NETWORK, steps=8), Consistency(network=NETWORK, steps=STEPS),
]  # fmt: skip
EACH = pytest.mark.parametrize("settings", HEADS, ids=[f"{each.name}-{getattr(each, 'sampler', '')}" for each in HEADS])


@EACH
def test_an_interval_saves_the_branch_outside(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(settings)
    rows = rows_of(model, monkeypatch)
    draw(model, guidance=INTERVAL)
    assert set(rows) == {ITEMS, 2 * ITEMS}
    # The first evaluation is of noise and the last of what is nearly data: both lie outside, and what is guided lies together.
    first, last = rows.index(2 * ITEMS), len(rows) - rows[::-1].index(2 * ITEMS)
    assert 0 < first < last < len(rows)
    assert rows[first:last] == [2 * ITEMS] * (last - first)


@EACH
def test_an_interval_of_everything_is_constant_guidance(settings: Any) -> None:
    model = model_of(settings)
    assert torch.equal(draw(model, guidance=Guidance(kind="interval", scale=3.0)), draw(model, guidance=3.0))
    assert not torch.equal(draw(model, guidance=INTERVAL), draw(model, guidance=3.0))


def evaluations(model: Generator, classes: list[str] | None) -> Callable[[Tensor, float], Tensor]:
    """The velocity with or without the condition, on the generator's hidden vectors."""
    seen = list[Tensor]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            model.head, "sample", lambda hidden, *rest: (seen.append(hidden), type(model.head).sample(model.head, hidden, *rest))[1]
        )
        model.generate(classes, None if classes else ITEMS)
    return GuidedDenoiser(model.head.network, seen[0], HeadContext(coords=LAYOUT.coordinates()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("guidance", "scale"),
    [
        (INTERVAL, lambda time: 3.0 if 0.25 <= time < 0.65 else 1.0),
        (Guidance(kind="linear", scale=3.0), lambda time: 1 + 2 * time),
        (Guidance(scale=3.0), lambda time: 3.0),
    ],
    ids=["interval", "linear", "constant"],
)
@torch.no_grad()
def test_the_scale_follows_the_time_of_flow_matching(guidance: Guidance, scale: Callable[[float], float]) -> None:
    model, classes = model_of(), ["cat", "dog"] * (ITEMS // 2)
    found = draw(model, guidance=guidance)
    conditional, null = evaluations(model, classes), evaluations(model, None)
    x = PerSampleRNG(3, range(ITEMS)).normal(3, 2)
    for step in range(STEPS):
        time = step / STEPS
        one, other = conditional(x, time), null(x, time)
        x = x + (other + scale(time) * (one - other)) / STEPS
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)


def test_noise_of_diffusion_is_one_over_one_plus_sigma(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interval of arXiv 2404.07724 for ImageNet-512, sigma from 0.28 to 2.9, for data of a deviation of a half."""
    head, asked = (
        head_of(Diffusion(network=NETWORK, steps=32, variance="fixed", prediction="edm", sampler="euler")),
        list[tuple[float, int]](),
    )
    inner = head.network.predict
    monkeypatch.setattr(
        head.network, "predict", lambda x, times, states: (asked.append((float(times[0, 0]), len(x))), inner(x, times, states))[1]
    )
    guidance = Guidance(kind="interval", scale=2.0, start=1 / (1 + 2.9 / 0.5), stop=1 / (1 + 0.28 / 0.5))
    context = HeadContext(torch.randn(2, 3, 6), coords=LAYOUT.coordinates(), guidance_at=guidance.at)
    with torch.no_grad():
        head.sample(torch.randn(2, 3, 6), PerSampleRNG(0, range(2)), SamplingConfig(), context)
    assert len(asked) == 32
    for time, rows in asked:
        sigma = torch.tensor(4 * time).exp()
        assert rows == (4 if 0.28 < float(sigma) <= 2.9 else 2)
    assert {rows for _, rows in asked} == {2, 4}


@pytest.mark.parametrize("rescale", [0.0, 0.3, 0.7, 1.0])
def test_rescaled_guidance_is_that_of_diffusers(rescale: float) -> None:
    head, hidden, null, x = head_of(FLOW), *torch.randn(2, ITEMS, 3, 6), torch.randn(ITEMS, 3, 2)
    context = HeadContext(null, 4.0, coords=LAYOUT.coordinates(), rescale=rescale)
    evaluate = GuidedDenoiser(head.network, hidden, context)
    with torch.no_grad():
        conditional, other = evaluate.branches(x, 0.3)
        assert other is not None
        expected = rescale_noise_cfg(other + 4 * (conditional - other), conditional, rescale)
        torch.testing.assert_close(evaluate(x, 0.3), expected)
        padded = torch.cat([x, torch.full((ITEMS, 1, 2), 9.0)], 1)
        mask = torch.tensor([True, True, True, False]).expand(ITEMS, 4)
        longer = replace(context, null=torch.cat([null, null[:, :1]], 1), coords=torch.arange(4)[:, None], mask=mask)
        found = GuidedDenoiser(head.network, torch.cat([hidden, hidden[:, :1]], 1), longer)(padded, 0.3)[:, :3]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_rescaling_keeps_a_draw_near_the_conditional_deviation() -> None:
    model = model_of()
    far, near, alone = (
        float(draw(model, **options).std()) for options in ({"guidance": 8.0}, {"guidance": 8.0, "guidance_rescale": 1.0}, {})
    )
    assert abs(near - alone) < abs(far - alone)


def test_what_is_rescaled_must_be_guided_and_joint() -> None:
    with pytest.raises(ValueError, match="guidance_rescale changes guided predictions, and guidance is off"):
        draw(model_of(), guidance_rescale=0.5)
    for head in (FlowMatching(network=MLP(layers=1, width=8)).build(6, LAYOUT), Softmax().build(6, Layout((3,), channels=1, vocabulary=5))):
        with pytest.raises(ValueError, match="guidance_rescale is of the predictions of an iterative head that draws a block together"):
            head.check_sampling(SamplingConfig(guidance_rescale=0.5))
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], not 1.5"):
        SamplingConfig(guidance_rescale=1.5)


def test_guidance_counted_after_a_step_is_not_for_joint_heads() -> None:
    with pytest.raises(ValueError, match=r"guides inside a draw of many: leave out guidance\.counted"):
        draw(model_of(), guidance=Guidance(scale=2.0, kind="linear", counted="after"))


@EACH
def test_autoguidance_by_the_model_itself_changes_nothing(settings: Any) -> None:
    model = model_of(settings)
    torch.testing.assert_close(draw(model, guidance=3.0, weaker=model), draw(model), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_autoguidance_leads_away_from_the_weaker_model() -> None:
    model, weaker = model_of(), model_of(FlowMatching(network=DiT(layers=1, width=8, heads=2)), seed=5)
    classes = ["cat", "dog"] * (ITEMS // 2)
    found = draw(model, guidance=2.5, weaker=weaker)
    one, other = evaluations(model, classes), evaluations(weaker, classes)
    x = PerSampleRNG(3, range(ITEMS)).normal(3, 2)
    for step in range(STEPS):
        slow = other(x, step / STEPS)
        x = x + (slow + 2.5 * (one(x, step / STEPS) - slow)) / STEPS
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(draw(model, guidance=0.0, weaker=weaker), draw(weaker, num_inference_steps=STEPS), rtol=1e-4, atol=1e-4)


def test_autoguidance_by_what_does_not_fit_is_refused() -> None:
    model, fixed = model_of(), Diffusion(network=NETWORK, variance="fixed")
    with pytest.raises(ValueError, match="guidance is off"):
        draw(model, weaker=model)
    with pytest.raises(ValueError, match="not of a FlowMatchingHead and a DiffusionHead"):
        draw(model, guidance=2.0, weaker=model_of(fixed))
    with pytest.raises(ValueError, match="prediction is epsilon, and v in the weaker model"):
        draw(model_of(fixed), guidance=2.0, weaker=model_of(fixed.model_copy(update={"prediction": "v"})))
    with pytest.raises(ValueError, match="a negative text take the place of the same null condition"):
        draw(model, guidance=2.0, weaker=model, negatives=["dog"] * ITEMS)
    single = model_of(FlowMatching(network=MLP(layers=1, width=8)))
    with pytest.raises(ValueError, match="autoguidance is for iterative heads that draw all tokens together"):
        draw(single, guidance=2.0, weaker=single)
