"""The order at_once in a generator: with and without a backbone, on sound and on pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.backbones.none import NoBackbone
from jielong.backbones.transformer import Transformer
from jielong.conditions.classes import ClassCondition
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.callbacks import StepEvent
from jielong.generation.generator import Generator
from jielong.generation.inpainting import kept
from jielong.heads.base import HeadContext
from jielong.heads.consistency import Consistency
from jielong.heads.continuous import GuidedDenoiser
from jielong.heads.diffusion import Diffusion
from jielong.heads.diffusion_schedule import Schedule
from jielong.heads.flow_matching import FlowMatching
from jielong.heads.mean_flow import MeanFlow
from jielong.heads.shortcut import Shortcut
from jielong.heads.softmax import Softmax
from jielong.networks.backbone import BackboneInputs
from jielong.networks.denoiser import MLP
from jielong.networks.dit import DiT
from jielong.orders.at_once import AtOnce
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster

SOUND, PICTURE = Layout((7,), channels=3), Layout((3, 4), channels=2)
DIT = DiT(layers=1, width=16, heads=2)
JOINT = FlowMatching(network=DIT, steps=3, diffusion_batch_mul=2)
BACKBONES = {"none": NoBackbone(width=16), "transformer": Transformer(layers=1, width=16, heads=2, condition="cross")}
EACH = pytest.mark.parametrize("layout", [SOUND, PICTURE], ids=["sound", "picture"])
WITH = pytest.mark.parametrize("backbone", BACKBONES.values(), ids=BACKBONES)


def built(layout: Layout, backbone: Any, head: Any = JOINT, classes: bool = False, order: Any = AtOnce()) -> Generator:
    torch.manual_seed(0)
    condition = ClassCondition(["cat", "dog"], 8, 0.1) if classes else None
    autoencoder = backbone.build(layout, 8 if classes else None)
    built_order = order.build()
    model = Generator(layout, built_order, autoencoder, head.build(16, layout), condition, built_order.embedding(None, 16))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def tokens(layout: Layout, count: int = 4) -> Tokens:
    return Tokens(torch.randn(count, layout.positions, layout.channels, generator=torch.Generator().manual_seed(1)), layout)


@EACH
@WITH
def test_everything_learns(layout: Layout, backbone: Any) -> None:
    model = built(layout, backbone, classes=True)
    loss = model.loss(tokens(layout), model.condition.prepare(["cat", "dog", "dog", "cat"]))  # type: ignore[union-attr]
    loss.backward()
    assert loss.ndim == 0
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == set()


@EACH
@WITH
def test_samples_are_independent_of_batch_and_cache(layout: Layout, backbone: Any) -> None:
    model = built(layout, backbone, classes=True)
    classes = ["cat", "dog", "cat", "dog", "dog"]
    together = model.eval().generate(classes, guidance=2.0, seed=3).values
    torch.testing.assert_close(model.eval().generate(classes, guidance=2.0, seed=3, batch=2).values, together, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.eval().generate(classes, guidance=2.0, seed=3, cache=False).values, together, rtol=1e-4, atol=1e-4)
    assert float((together[1] - together[3]).abs().min()) > 1e-5
    torch.testing.assert_close(model.eval().generate(classes, guidance=0.0, seed=3).values, model.eval().generate(count=5, seed=3).values)


def test_all_is_drawn_in_one_step() -> None:
    seen: list[int] = []
    model = built(SOUND, BACKBONES["none"], FlowMatching(network=MLP(layers=1, width=8), steps=2))
    model.eval().generate(count=2, on_step=lambda moment: seen.append(int(moment.new.sum())))
    assert seen == [2 * 7]


WATCHED = [
    *((FlowMatching(network=DIT, steps=4, sampler=sampler), 4) for sampler in ("euler", "sde")),
    *((FlowMatching(network=DIT, steps=6, sampler=sampler), 3) for sampler in ("midpoint", "heun")),
    *((Diffusion(network=DIT, steps=4, sampler=sampler), 4) for sampler in ("ddpm", "ddim")),
    (Diffusion(network=DIT, steps=5, sampler="edm"), 3),
    (Shortcut(network=DIT, steps=4), 4),
    (MeanFlow(network=DIT, steps=3), 3),
    (Consistency(network=DIT, steps=3), 3),
]


@pytest.mark.parametrize(("head", "count"), WATCHED, ids=[f"{head.name}-{getattr(head, 'sampler', '')}" for head, _ in WATCHED])
def test_state_callback_of_a_joint_head_does_not_change_samples(head: Any, count: int) -> None:
    model, seen = built(SOUND, BACKBONES["none"], head, classes=True), list[StepEvent]()
    request: dict[str, Any] = {"conditions": ["cat", "dog"], "guidance": 2.0, "seed": 3, "lengths": [7, 7]}
    plain = model.eval().generate(**request).values
    assert torch.equal(model.eval().generate(**request, on_step=seen.append).values, plain)
    *states, last = seen
    assert len(seen) == count
    assert [moment.step for moment in seen] == list(range(1, len(seen) + 1))
    assert all(bool(moment.shown.all()) and not moment.known.any() and not moment.new.any() for moment in states)
    assert last.known.all()
    assert last.new.all()
    assert torch.equal(last.values, plain)
    assert all(float((moment.values - plain).abs().max()) > 1e-3 for moment in states)


SMALL = MLP(layers=1, width=8)


def states_of(head: Any, steps: int, tokens: int = 7) -> list[torch.Tensor]:
    built_head, states = head.build(16, Layout((tokens,), channels=3)), list[torch.Tensor]()
    drawn = built_head.draw(
        GuidedDenoiser(built_head.network, torch.zeros(2, tokens, 16), HeadContext(on_state=states.append)),
        PerSampleRNG(0, range(2)),
        steps,
        1.0,
    )
    assert torch.equal(states[-1], drawn)
    return states


@pytest.mark.parametrize(
    ("head", "times"),
    [
        (FlowMatching(network=SMALL), [0.25, 0.5, 0.75, 1.0]),
        (FlowMatching(network=SMALL, sampler="midpoint"), [0.5, 1.0]),
        (FlowMatching(network=SMALL, sampler="heun"), [0.5, 1.0]),
        (Shortcut(network=SMALL), [0.25, 0.5, 0.75, 1.0]),
        (MeanFlow(network=SMALL), [0.25, 0.5, 0.75, 1.0]),
    ],
    ids=lambda case: f"{case.name}-{getattr(case, 'sampler', '')}" if not isinstance(case, list) else "",
)
def test_a_constant_velocity_is_followed_state_by_state(head: Any, times: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuidedDenoiser, "__call__", lambda self, x, *times, share: torch.full_like(x, 0.5))
    start = PerSampleRNG(0, range(2)).normal(7, 3)
    for state, time in zip(states_of(head, 4), times, strict=True):
        torch.testing.assert_close(state, start + 0.5 * time)


@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 8), ("ddim", 8), ("euler", 8), ("dpmpp_2m", 8), ("unipc", 8), ("edm", 15)])
def test_states_of_diffusion_have_the_variance_of_tokens(sampler: Any, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of unit normal tokens: their best predicted noise at ``a x_0 + s e`` is ``s x``, which the network is made to say."""
    head = Diffusion(network=SMALL, variance="fixed", sampler=sampler)
    plan = Schedule.of("cosine")

    def exact(self: GuidedDenoiser, x: torch.Tensor, time: float, share: float) -> tuple[torch.Tensor, None]:
        step = min(
            int(time * len(plan)), len(plan) - 2
        )  # edm asks between steps, in a straight line over the logarithm of noise over signal
        sigma = (plan.sigma[step].log() + (time * len(plan) - step) * (plan.sigma[step + 1] / plan.sigma[step]).log()).exp()
        return x * float(sigma / (1 + sigma**2).sqrt()), None

    monkeypatch.setattr(GuidedDenoiser, "branches", exact)
    states = states_of(head, steps, tokens=2000)
    assert len(states) == 8
    for state in states:
        assert float(state.std()) == pytest.approx(1, abs=0.35)


def test_states_stand_in_their_block_and_tokens_before_it_are_known() -> None:
    model, seen = built(SOUND, BACKBONES["transformer"], order=Raster()), list[StepEvent]()
    plain = model.eval().generate(count=2, seed=1).values
    assert torch.equal(model.eval().generate(count=2, seed=1, on_step=seen.append).values, plain)
    assert [int(moment.new[0].sum()) for moment in seen] == 7 * [0, 0, 1]
    for place, moment in enumerate(seen):
        drawn, drawing = divmod(place + 1, 3)
        assert moment.known[0].sum() == drawn
        assert moment.shown[0].sum() == drawn + (drawing > 0)
        assert torch.equal(moment.values[:, :drawn], plain[:, :drawn])


def test_a_moment_says_which_items_it_is_of() -> None:
    seen: list[StepEvent] = []
    built(SOUND, BACKBONES["none"]).eval().generate(count=3, lengths=[3, 7, 3], on_step=seen.append)
    assert [tuple(moment.rows) for moment in seen] == [(0, 2)] * 3 + [(1,)] * 3


@WITH
def test_no_token_is_read(backbone: Any) -> None:
    """The hidden vectors are the same whatever the tokens are, so an untrained head's loss depends on the targets alone."""
    model = built(SOUND, backbone)
    first, second = tokens(SOUND).values, torch.zeros(4, 7, 3)
    known = torch.ones(4, 7, dtype=torch.bool)
    inputs = [model.embeddings(values, known, slice(0, 7), model.position_vectors(model.plan)) for values in (first, second)]
    assert torch.equal(*inputs)
    assert float((inputs[0][:, 1:] - inputs[0][:, :-1]).abs().min()) > 0


def test_single_codes_are_independent() -> None:
    """The loss is a sum over positions, and codes are drawn as often, alone and in pairs, as its terms say."""
    layout, count = Layout((3, 2), channels=1, vocabulary=5), 4000
    model = built(layout, BACKBONES["transformer"], Softmax())
    torch.nn.init.normal_(model.head.logits.weight, std=1.0)  # type: ignore[union-attr, arg-type]

    def loss(codes: Tensor) -> float:
        return float(model.loss(Tokens(codes.view(1, 6, 1), layout)).detach())

    zeros = torch.zeros(6, dtype=torch.long)
    terms = torch.tensor([[loss(zeros.scatter(0, torch.tensor(place), code)) for code in range(5)] for place in range(6)])
    for codes in torch.randint(5, (4, 6), generator=torch.Generator().manual_seed(0)):
        expected = loss(zeros) + float((terms.gather(1, codes[:, None])[:, 0] - terms[:, 0]).sum())
        assert loss(codes) == pytest.approx(expected, abs=1e-5)
    chances = (-6 * terms).softmax(1)  # the loss is a mean over positions
    assert float(chances.std()) > 0.05
    drawn = model.eval().generate(count=count, batch=count).values[..., 0]
    seen = torch.nn.functional.one_hot(drawn, 5).double()
    pairs = torch.einsum("bpv,bqw->pvqw", seen, seen) / count
    wanted = torch.einsum("pv,qw->pvqw", chances.double(), chances.double())
    apart = ~torch.eye(6, dtype=torch.bool)
    sigma = (wanted * (1 - wanted) / count).sqrt()
    assert float(((seen.mean(0) - chances) / (chances * (1 - chances) / count).sqrt()).abs().max()) < 4.5
    assert float(((pairs - wanted) / sigma).transpose(1, 2)[apart].abs().max()) < 5


def test_single_vectors_are_independent_and_joint_ones_are_not() -> None:
    """Correlations between the numbers of different positions: below 5 / sqrt(count), but for a head that sees the whole block."""
    count = 6000

    def correlation(head: Any) -> float:
        values = built(SOUND, BACKBONES["none"], head).eval().generate(count=count, batch=count).values
        each = (values - values.mean(0)) / values.std(0)
        among = torch.einsum("bpc,bqd->pqcd", each, each) / count
        return float(among[~torch.eye(SOUND.positions, dtype=torch.bool)].abs().max())

    assert correlation(FlowMatching(network=MLP(layers=1, width=8), steps=2)) < 5 / count**0.5 < correlation(JOINT)


def test_a_block_of_one_token_may_be_joint_too() -> None:
    model = built(SOUND, BACKBONES["transformer"], order=Raster())
    first, other = tokens(SOUND), tokens(SOUND).values.clone()
    other[:, -1] += 1
    change = model.loss(Tokens(other, SOUND), rng=PerSampleRNG(0, range(4))) - model.loss(first, rng=PerSampleRNG(0, range(4)))
    assert abs(float(change.detach())) > 1e-3
    cached, naive = (model.eval().generate(count=2, seed=1, cache=cache).values for cache in (True, False))
    assert cached.shape == (2, 7, 3)
    torch.testing.assert_close(cached, naive)


@pytest.mark.parametrize(
    ("order", "backbone", "says"),
    [(Masked(), "transformer", "choose order: at_once"), (Raster(), "none", "needs order: at_once"), (Masked(), "none", "order: at_once")],
)
def test_what_cannot_be_is_refused(order: Any, backbone: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        built(SOUND, BACKBONES[backbone], order=order)


def test_what_is_kept_would_not_be_seen() -> None:
    with pytest.raises(ValueError, match="draws all tokens at once"):
        kept(PICTURE, AtOnce().build(), "upper")


def test_a_backbone_that_is_none_asks_for_what_it_was_built_for() -> None:
    model = built(SOUND, BACKBONES["none"], classes=True)
    with pytest.raises(ValueError, match="takes a condition"):
        model.backbone(BackboneInputs(torch.zeros(1, 7, 16), model.plan.coords, model.plan.blocks))


@WITH
def test_clips_are_independent_of_padding_and_batch(backbone: Any) -> None:
    model, lengths = built(SOUND, backbone, classes=True), torch.tensor([7, 3, 5, 3])
    classes = ["cat", "dog", "dog", "cat"]
    behind = torch.arange(7) >= lengths[:, None]
    losses = []
    for filler in (0.0, float("nan")):
        torch.manual_seed(5)
        values = tokens(SOUND).values.masked_fill(behind[..., None], filler)
        losses.append(model.loss(Tokens(values, SOUND, lengths), model.condition.prepare(classes)))  # type: ignore[union-attr]
    assert torch.equal(losses[0], losses[1])
    generated = model.eval().generate(classes, guidance=2.0, seed=3, lengths=lengths.tolist())
    assert generated.lengths is not None
    assert torch.equal(generated.lengths, lengths)
    assert not generated.values[behind].any()
    for row, length in enumerate(lengths.tolist()):
        alone = model.eval().generate(classes[: row + 1], guidance=2.0, seed=3, lengths=[length] * (row + 1)).values[row]
        torch.testing.assert_close(generated.values[row], alone, rtol=1e-4, atol=1e-4)
