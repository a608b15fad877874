"""Frame by frame: what is seen and predicted, cached against naive sampling, and VideoMAR's temperatures, for each order inside a frame."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from jielong.backbones.transformer import Transformer
from jielong.conditions.classes import ClassCondition
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.base import NO_CONTEXT, HeadContext, SampleOutput
from jielong.heads.diffusion import Diffusion, DiffusionHead
from jielong.heads.flow_matching import FlowMatching
from jielong.heads.gaussian_mixture import GaussianMixture
from jielong.networks.backbone import BackboneInputs
from jielong.networks.denoiser import MLP
from jielong.networks.dit import DiT
from jielong.networks.rope import Rotary
from jielong.orders.at_once import AtOnce
from jielong.orders.base import Order, OrderSettings, Step
from jielong.orders.frames import Frames
from jielong.orders.masked import Masked
from jielong.orders.next_scale import NextScale
from jielong.orders.raster import Raster
from jielong.orders.ratio import Ratio
from jielong.orders.tasks import Tasks

CLIP = Layout((4, 2, 3), channels=2)
FRAME, N = 6, CLIP.positions
MASKED = Masked(choose="random", steps=3, ratio=Ratio(kind="truncated_normal"))
NETWORK = MLP(layers=1, width=16)
PER_TOKEN, NOISY = FlowMatching(network=NETWORK, steps=3), Diffusion(network=NETWORK, steps=3)
JOINT = FlowMatching(network=DiT(layers=1, width=16, heads=2), steps=2, diffusion_batch_mul=1)
INSIDE: dict[str, OrderSettings] = {"masked": MASKED, "confidence": Masked(steps=2), "raster": Raster(), "at_once": AtOnce()}
EACH = pytest.mark.parametrize("inside", INSIDE)
PATHS: Any = ["prefix", "cross", "adaln"]


def built(settings: OrderSettings, path: Any = "prefix", layout: Layout = CLIP, head: Any = None, seed: int = 0) -> Generator:
    """A small generator with a condition, all weights away from their start."""
    torch.manual_seed(seed)
    order = settings.build()
    joint = isinstance(settings, Frames) and isinstance(settings.inside, AtOnce)
    confident = isinstance(settings, Frames) and settings.inside == INSIDE["confidence"]
    head = head or (JOINT if joint else GaussianMixture(components=2) if confident else PER_TOKEN)
    backbone = Transformer(layers=2, width=16, heads=1, condition=path).build(layout, 8)
    embedding = order.embedding(SimpleNamespace(layout=layout), 16)  # type: ignore[arg-type]
    model = Generator(layout, order, backbone, head.build(16, layout), ClassCondition(["cat", "dog"], 8, 0.1), embedding)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tokens(count: int = 2, layout: Layout = CLIP) -> Tokens:
    return Tokens(torch.randn(count, layout.positions, layout.channels, generator=torch.Generator().manual_seed(1)), layout)


def prepared(model: Generator, count: int) -> object:
    assert model.condition is not None
    return model.condition.prepare(["cat", "dog"] * (count // 2) + ["cat"] * (count % 2))


# --- training ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drawn", ["batch", "item"])
def test_a_step_masks_one_block_and_cuts_what_follows(drawn: Any) -> None:
    layout = Layout((5, 2, 3), channels=2)
    order = Frames(inside=MASKED, group=2, given=1, drawn=drawn).build()
    frame = layout.coordinates()[:, 0]
    seen = set[int]()
    for seed in range(12):
        view = order.view(layout, PerSampleRNG(seed, range(6)))
        groups = [set((frame[mask] // 2).tolist()) for mask in view.loss_mask]
        assert all(len(group) == 1 for group in groups), "one block an item"
        chosen = torch.tensor([min(group) for group in groups])
        assert int(chosen.min()) >= 1, "a given block is not trained"
        seen |= set(chosen.tolist())
        assert drawn == "item" or len(set(chosen.tolist())) == 1
        assert torch.equal(view.known, (frame // 2 <= chosen[:, None]) & ~view.loss_mask), "all before is known, nothing behind"
        assert view.extent == min(5, 2 * int(chosen.max()) + 2)
        share = view.loss_mask.sum(1) / ((frame // 2)[None] == chosen[:, None]).sum(1)
        assert float(share.min()) >= 0.7
    assert seen == {1, 2}


def test_all_blocks_are_masked_at_one_ratio() -> None:
    layout = Layout((5, 4, 5), channels=2)
    order = Frames(inside=MASKED, given=1, drawn="all").build()
    counts = set[int]()
    for seed in range(12):
        view = order.view(layout, PerSampleRNG(seed, range(6)))
        assert view.extent is None
        assert torch.equal(view.known, ~view.loss_mask)
        assert not bool(view.loss_mask[:, :20].any()), "the given frame is known"
        count = view.loss_mask.sum(1)
        assert len(set(count.tolist())) == 1, "one ratio a batch, as MAR"
        assert 0.7 * 80 <= int(count[0]) <= 80
        counts.add(int(count[0]))
        if int(count[0]) < 72:
            assert bool((view.known[:, 20:40].any(1) & view.loss_mask[:, 20:40].any(1)).any()), "frames of the past are masked in part"
    assert len(counts) > 3


def test_masks_of_all_blocks_are_those_of_masked_without_given_frames() -> None:
    theirs = MASKED.build().view(CLIP, PerSampleRNG(3, range(4)))
    ours = Frames(inside=MASKED, drawn="all").build().view(CLIP, PerSampleRNG(3, range(4)))
    assert torch.equal(ours.loss_mask, theirs.loss_mask)


def test_an_item_draws_the_same_masks_in_any_batch() -> None:
    layout = Layout((5, 2, 3), channels=2)
    order = Frames(inside=MASKED.model_copy(update={"ratio": Ratio(kind="truncated_normal", per="item")}), group=2, drawn="item").build()
    together = order.view(layout, PerSampleRNG(3, range(8))).loss_mask
    alone = torch.cat([order.view(layout, PerSampleRNG(3, [row])).loss_mask for row in range(8)])
    assert torch.equal(alone, together)


def test_ratios_begin_at_what_videomar_draws() -> None:
    settings = Frames()
    assert isinstance(settings.inside, Masked)
    assert (settings.inside.ratio.kind, settings.inside.ratio.lowest, settings.inside.ratio.high) == ("truncated_normal", 0.7, 1.0)


@pytest.mark.parametrize("given", [0, 1])
@pytest.mark.parametrize("inside", ["raster", "at_once"])
def test_one_pass_predicts_all_blocks_that_are_not_given(inside: str, given: int) -> None:
    view = Frames(inside=INSIDE[inside], given=given).build().view(CLIP, PerSampleRNG(0, range(2)))
    assert torch.equal(view.loss_mask, (CLIP.coordinates()[:, 0] >= given).expand(2, -1))
    assert view.extent is None


@EACH
@pytest.mark.parametrize("path", PATHS)
def test_everything_learns(inside: str, path: Any) -> None:
    model = built(Frames(inside=INSIDE[inside]), path).train()
    loss = sum((model.loss(tokens(), prepared(model, 2), PerSampleRNG(seed, range(2))) for seed in range(4)), torch.tensor(0.0))
    loss.backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == set()


def hidden_of(model: Generator, values: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Hidden vectors at the predicted positions ``(n, D)``, and the frames of the view, for one item."""
    states = model.training_states(Tokens(values, CLIP), prepared(model, 1), PerSampleRNG(seed, [0]))
    return states.hidden[0], states.loss_mask[0]


@EACH
def test_nothing_later_changes_anything_earlier_in_training(inside: str) -> None:
    """Values and gradients: frame by frame, what is predicted depends on the frames before it and on what is known of its own."""
    model = built(Frames(inside=INSIDE[inside]))
    frame = CLIP.coordinates()[:, 0]
    for seed in range(6):
        values = tokens(1).values.requires_grad_()
        hidden, predicted = hidden_of(model, values, seed)
        for t in sorted(set(frame[: len(predicted)][predicted].tolist())):
            asked = predicted & (frame[: len(predicted)] == t)
            (gradient,) = torch.autograd.grad(hidden[asked].sum(), values, retain_graph=True)
            reached = gradient[0].abs().sum(-1) > 0
            assert not bool(reached[frame > t].any())
            assert bool(reached[frame < t].all()) or inside == "raster", "all tokens before are read"
            if inside == "raster":
                assert bool(reached[frame < t][: FRAME * t].all())
            if inside == "at_once":
                assert not bool(reached[frame == t].any())
            if inside in ("masked", "confidence"):
                assert not bool(reached[: len(predicted)][predicted].any()), "no target is shown"
            other = torch.where((frame > t)[:, None], values.detach() + 1, values.detach())
            assert torch.equal(hidden_of(model, other, seed)[0][asked], hidden[asked])


@pytest.mark.parametrize("inside", ["masked", "at_once"])
def test_the_loss_is_of_what_the_view_predicts(inside: str) -> None:
    """Changing a token behind the drawn frame, or one that is known, changes no target: only masked tokens of the frame have a loss."""
    model = built(Frames(inside=INSIDE[inside], drawn="item"))
    states = model.training_states(tokens(3), prepared(model, 3), PerSampleRNG(4, range(3)))
    assert torch.equal(states.weights > 0, states.loss_mask)
    torch.testing.assert_close(states.weights.sum(1), torch.ones(3))


# --- sampling ----------------------------------------------------------------------------------------------------------------------------


def agree(model: Generator, **options: Any) -> Tensor:
    """Draw with and without a cache, and in two batches."""
    classes = ["cat", "dog", "dog"]
    drawn = model.generate(classes, seed=3, guidance=2.0, **options).values
    torch.testing.assert_close(model.generate(classes, seed=3, guidance=2.0, cache=False, **options).values, drawn, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.generate(classes, seed=3, guidance=2.0, batch=2, **options).values, drawn, rtol=1e-5, atol=1e-5)
    return drawn


@EACH
@pytest.mark.parametrize("path", PATHS)
def test_cached_is_naive_at_any_batch_size(inside: str, path: Any) -> None:
    agree(built(Frames(inside=INSIDE[inside]), path))


@EACH
def test_groups_of_frames_and_a_shorter_last_one(inside: str) -> None:
    layout = Layout((3, 2, 3), channels=2)
    model = built(Frames(inside=INSIDE[inside], group=2), layout=layout)
    agree(model)
    if inside != "raster":
        assert model.plan.spans == [(0, 12), (12, 18)]


def test_every_finished_frame_enters_the_cache_whole() -> None:
    """The passes of a frame leave nothing behind; the clean pass after it does, and later frames are never passed with it."""
    model, calls = built(Frames(inside=MASKED)), list[tuple[int, bool, bool]]()

    def keep(module: Any, arguments: tuple[BackboneInputs, Any, bool], kwargs: Any, result: Tensor) -> None:
        inputs, _, commit = arguments
        assert inputs.known is not None
        calls.append((int(inputs.coords[0, 0]), commit, bool(inputs.known.all())))

    model.backbone.register_forward_hook(keep, with_kwargs=True)
    model.generate(["cat"], seed=1)
    steps = [(t, False, False) for t in range(4) for _ in range(3)]
    clean = [(t, True, True) for t in range(3)]
    assert calls == sorted([*steps, *clean], key=lambda call: (call[0], call[1]))


@EACH
def test_later_frames_change_nothing_before_them(inside: str) -> None:
    """A clip of which the last frame is given, and another: what is drawn before it is the same."""
    model, given = built(Frames(inside=INSIDE[inside])), tokens(1)
    known = CLIP.coordinates()[:, 0] == 3
    other = Tokens(given.values + 1, CLIP)
    drawn = [model.generate(["dog"], start=start, known=known, seed=2).values for start in (given, other)]
    assert torch.equal(drawn[0][:, :18], drawn[1][:, :18])
    assert torch.equal(drawn[0][:, 18:], given.values[:, 18:])


@EACH
def test_a_given_first_frame_is_kept_and_read(inside: str) -> None:
    model, given = built(Frames(inside=INSIDE[inside], given=1)), tokens(1)
    known = CLIP.coordinates()[:, 0] < 1
    drawn = agree(model, start=given, known=known)
    assert torch.equal(drawn[:, :FRAME], given.values[:, :FRAME].expand(3, -1, -1))
    other = agree(model, start=Tokens(given.values + 1, CLIP), known=known)
    assert float((other - drawn)[:, FRAME:].abs().max()) > 1e-3
    with pytest.raises(ValueError, match="is not given the first frame of tokens"):
        model.generate(["cat"])


def test_raster_inside_is_raster() -> None:
    """With learned positions of frames the two are one model."""
    framed, plain = built(Frames(inside=Raster(), learned_time=True)), built(Raster())
    plain.load_state_dict(framed.state_dict())
    assert torch.equal(framed.generate(["cat", "dog"], seed=1).values, plain.generate(["cat", "dog"], seed=1).values)
    noise = PerSampleRNG(1, range(2))
    assert torch.equal(
        framed.loss(tokens(), prepared(framed, 2), noise), plain.loss(tokens(), prepared(plain, 2), PerSampleRNG(1, range(2)))
    )


# --- temperatures ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [0, 1])
@pytest.mark.parametrize("inside", ["masked", "raster"])
def test_temperatures_of_videomar(monkeypatch: pytest.MonkeyPatch, inside: str, given: int) -> None:
    """1, 0.91, 0.901, ... from the first frame that is drawn on, times the temperature of the call."""
    seen: list[float] = []
    sample = DiffusionHead.sample

    def record(
        self: DiffusionHead, hidden: Tensor, rng: PerSampleRNG, sampling: SamplingConfig, context: HeadContext = NO_CONTEXT
    ) -> SampleOutput:
        seen.append(sampling.temperature)
        return sample(self, hidden, rng, sampling, context)

    monkeypatch.setattr(DiffusionHead, "sample", record)
    model = built(Frames(inside=INSIDE[inside], progressive_temperature=True), head=NOISY)
    start = {"start": tokens(1), "known": CLIP.coordinates()[:, 0] < 1} if given else {}
    model.generate(["cat"], temperature=0.5, **start)  # type: ignore[arg-type]
    frames = 4 - given
    expected = [0.5 * (0.9 + 10 ** -(t + 1)) for t in range(frames) for _ in range(len(seen) // frames)]
    assert seen == pytest.approx(expected)
    assert expected[:1] == pytest.approx([0.5])


def test_a_sampler_without_noise_has_no_progressive_temperature() -> None:
    model = built(Frames(inside=MASKED, progressive_temperature=True), head=NOISY)
    with pytest.raises(ValueError, match="the sampler ddim adds none"):
        model.generate(["cat"], sampler="ddim")


# --- settings and positions --------------------------------------------------------------------------------------------------------------


def test_what_frames_cannot_be_is_refused() -> None:
    for inside, message in [
        (NextScale(), "masked, raster or at_once, not next_scale"),
        (Raster(pattern="flatten"), "pattern flatten mixes codes of several frames"),
        (Masked(tasks=Tasks(upper=1)), "tasks give parts of a whole clip"),
    ]:
        with pytest.raises(ValidationError, match=message):
            Frames(inside=inside)
    with pytest.raises(ValueError, match="time, rows and columns"):
        Frames().build().blocks(Layout((4, 4), vocabulary=3))
    with pytest.raises(ValueError, match="nothing would be drawn"):
        Frames(given=2, group=2).build().blocks(CLIP)
    with pytest.raises(ValueError, match="a joint head draws a block as one"):
        built(Frames(inside=MASKED), head=JOINT)


@pytest.mark.parametrize("learned", [False, True])
def test_frames_have_learned_positions_only_where_told(learned: bool) -> None:
    order: Order = Frames(learned_time=learned).build()
    model = Generator(CLIP, order, Transformer(layers=1, width=16, heads=1).build(CLIP, None), PER_TOKEN.build(16, CLIP))
    sizes = [table.weight.shape[0] for table in model.position_embeddings]  # type: ignore[union-attr]
    assert sizes == ([4, 2, 3] if learned else [2, 3])


def test_the_most_confident_draws_need_a_head_with_confidence() -> None:
    Frames(inside=MASKED).check_head(PER_TOKEN)
    with pytest.raises(ValueError, match="the head flow_matching gives none"):
        Frames().check_head(PER_TOKEN)


def test_lazy_steps_are_of_one_block() -> None:
    with pytest.raises(ValueError, match="lazy steps are of one block"):
        Frames(inside=MASKED).build().check_sampling(SamplingConfig().override(lazy={"refresh": 2}))


def test_steps_are_those_of_the_order_inside() -> None:
    order = Frames(inside=Masked(steps=2, schedule="linear")).build()
    assert list(order.steps(6, None)) == [Step(0, 2, 6, 3), Step(1, 2, 3, 0)]
    assert order.gradual
    assert not Frames(inside=Raster()).build().gradual


def test_rotary_pairs_of_three_axes_are_runs_of_nearly_equal_length() -> None:
    """Time, rows and columns in this order; what does not divide goes to the first axes."""
    rotary = Rotary(64, 3)
    assert rotary.axis.bincount().tolist() == [11, 11, 10]
    assert rotary.frequency[[0, 11, 22]].tolist() == [1.0, 1.0, 1.0]
    torch.testing.assert_close(rotary.frequency[:11], 10_000.0 ** (-torch.arange(11.0) / 11))
