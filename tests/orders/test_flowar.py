"""FlowAR: scales of one continuous latent, drawn coarse to fine by a joint flow-matching head; against definitions and closed forms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.conditions.base import BuildContext
from jielong.conditions.classes import Class
from jielong.config.guidance import Guidance
from jielong.config.recipe import parse
from jielong.config.registry import RecipeError
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.base import HeadContext
from jielong.heads.flow_matching import FlowMatching, FlowMatchingHead, Times
from jielong.media.kinds.image import image_medium
from jielong.networks.conditioning import Conditioning
from jielong.networks.denoiser import JointDenoiser
from jielong.networks.dit import DiT
from jielong.networks.transformer import Transformer, TransformerConfig
from jielong.orders.next_scale import Divide, NextScale, halved, lifted
from jielong.system import System, build_generator, build_tokenizer, load
from jielong.tokenizers.patches import Patches
from jielong.tokenizers.pixels import Pixels
from jielong.tokenizers.scaled import ScaledTokenizer
from jielong.training import experiment, token_cache

SCALES = ((1, 1), (2, 2), (4, 4))
STARTS = (0, 1, 5, 21)
N = STARTS[-1]
CLASSES = ["cat", "dog", "bird"]
ALARM = 5.0  # standard errors: chance alone exceeds them about once in two million


def tokenizer(patch: int = 4, scales: tuple[tuple[int, int], ...] = SCALES) -> ScaledTokenizer:
    side = patch * scales[-1][0]
    return ScaledTokenizer(Patches(patch=patch).build(image_medium(3, (side, side))), scales)


def make(condition: bool = False, order: NextScale = NextScale(divide=Divide()), channels: int = 3, **head: Any) -> Generator:
    """A small generator over three scales, all weights away from their start."""
    layout = Layout((4, 4), channels, None, SCALES)
    built, network = order.build(), DiT(layers=1, width=24, heads=2, modulation="position")
    torch.manual_seed(0)
    given = Class(width=12, cfg_dropout=0.1).build(BuildContext(CLASSES)) if condition else None
    backbone = Transformer(TransformerConfig(layers=2, width=24, heads=2), axes=3, condition_width=12 if condition else None)
    settings = FlowMatching(network=network, steps=3, diffusion_batch_mul=1, **head)
    codec = ScaledTokenizer(Patches(patch=1).build(image_medium(channels, (4, 4))), SCALES)
    model = Generator(layout, built, backbone, settings.build(24, layout), given, built.embedding(codec, 24))
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model.eval()


def pyramid(count: int, channels: int = 3, deviation: float = 1.0, seed: int = 3) -> Tensor:
    """Tokens of all scales of a latent ``N(0, deviation^2)``, ``(B, N, C)``."""
    finest = deviation * torch.randn(count, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.cat([F.adaptive_avg_pool2d(finest, size).flatten(2).mT for size in SCALES], 1)


# --- scales ------------------------------------------------------------------------------------------------------------------------------


def test_positions_are_those_of_all_scales() -> None:
    for side, count in ((8, 85), (16, 341)):
        scales = halved((side, side))
        assert Layout((side, side), 4, None, scales).positions == count
        assert NextScale(divide=Divide()).scales_of(Layout((side, side), 4)) == scales
    assert NextScale(divide=Divide(scales=(1, 4, 16))).scales_of(Layout((16, 16), 4)) == ((1, 1), (4, 4), (16, 16))
    assert halved((3, 8)) == ((1, 1), (1, 2), (2, 4), (3, 8))


def test_every_scale_is_the_average_of_the_finest_and_the_finest_alone_is_decoded() -> None:
    codec, media = tokenizer(), torch.rand(2, 3, 16, 16) * 2 - 1
    source = codec.source.encode(media)
    tokens = codec.encode(media)
    assert tokens.values.shape == (2, N, 48)
    finest = source.values.mT.unflatten(2, (4, 4))
    for (start, stop), factor in zip(codec.pyramid.spans, (4, 2, 1), strict=True):
        torch.testing.assert_close(tokens.values[:, start:stop], F.avg_pool2d(finest, factor).flatten(2).mT)
    torch.testing.assert_close(tokens.values[:, 0], source.values.mean(1))
    other = tokens.values.clone()
    other[:, : STARTS[2]] = 7.0
    assert torch.equal(codec.decode(Tokens(other, codec.layout)), codec.source.decode(source))
    sampled = codec.sample_cached(codec.encode_to_cache(media), PerSampleRNG(0, range(2)))
    assert torch.equal(
        sampled.values, codec.scaled(codec.source.sample_cached(codec.source.encode_to_cache(media), PerSampleRNG(0, range(2)))).values
    )
    assert token_cache.tokenizer_identity(codec) == token_cache.tokenizer_identity(codec.source)


def test_the_picture_so_far_is_the_finest_known_scale() -> None:
    codec, media = tokenizer(), torch.rand(1, 3, 16, 16) * 2 - 1
    tokens, known = codec.encode(media), torch.arange(N)[None] < STARTS[2]
    shown = codec.decode_known(Tokens(tokens.values.masked_fill(~known[..., None], 9.0), codec.layout), known)
    maps = tokens.values[:, 1:5].mT.unflatten(2, (2, 2)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(shown, codec.source.decode(Tokens(maps.flatten(2).mT, codec.source.layout)))
    nothing = codec.decode_known(tokens, torch.zeros(1, N, dtype=torch.bool))
    torch.testing.assert_close(nothing, torch.zeros_like(media), rtol=0, atol=1e-6)


@pytest.mark.parametrize("up", ["bilinear", "nearest"])
def test_a_scale_reads_the_coarser_one_interpolated(up: Any) -> None:
    order = NextScale(divide=Divide(up=up))
    model, values = make(order=order), pyramid(2)
    inputs = model.order.inputs(model.embed, values, torch.ones(2, N, dtype=torch.bool), model.placeholder, 0, N)
    assert torch.equal(inputs[:, 0], model.placeholder.expand(2, -1))
    for scale in (1, 2):
        coarser = values[:, STARTS[scale - 1] : STARTS[scale]].mT.unflatten(2, SCALES[scale - 1])
        expected = model.embedding.linear(lifted(coarser, SCALES[scale], up).flatten(2).mT)  # type: ignore[operator, union-attr]
        torch.testing.assert_close(inputs[:, STARTS[scale] : STARTS[scale + 1]], expected)
    flat = torch.full((1, 3, 2, 2), 0.7)
    torch.testing.assert_close(lifted(flat, (4, 4), up), torch.full((1, 3, 4, 4), 0.7))


def test_a_scale_changes_hidden_vectors_of_finer_ones_alone() -> None:
    model, values = make(), pyramid(2)
    before = model.training_states(Tokens(values, model.layout)).hidden
    for scale in range(3):
        other = values.clone()
        other[:, STARTS[scale] : STARTS[scale + 1]] += 1.0
        differs = (model.training_states(Tokens(other, model.layout)).hidden != before).any(-1).any(0)
        assert not differs[: STARTS[scale + 1]].any(), scale
        assert differs[STARTS[scale + 1] :].all(), scale


# --- the loss ----------------------------------------------------------------------------------------------------------------------------


def losses_of_scales(head: FlowMatchingHead, values: Tensor) -> list[Tensor]:
    """Losses of each item at each scale, ``(B,)``."""
    coords, rng = Layout((4, 4), values.shape[2], None, SCALES).coordinates(), PerSampleRNG(0, range(len(values)))
    found = []
    for scale in range(3):
        span = slice(STARTS[scale], STARTS[scale + 1])
        context = HeadContext(coords=coords[span], draws=rng.draws(f"scale {scale}"))
        found.append(head.loss(torch.zeros(len(values), span.stop - span.start, 24), values[:, span], context).detach())
    return found


def near(each: Tensor, expected: float) -> bool:
    return abs(float(each.mean()) - expected) < ALARM * float(each.std()) / math.sqrt(len(each))


def test_the_untrained_loss_is_one_and_the_variance_of_the_scale() -> None:
    layout, values = Layout((4, 4), 3, None, SCALES), pyramid(4000)
    head = FlowMatching(network=DiT(layers=1, width=24, heads=2, modulation="position"), diffusion_batch_mul=1).build(24, layout)
    for scale, each in enumerate(losses_of_scales(head, values)):
        assert near(each, 1 + 1 / (16, 4, 1)[scale])


class ExactVelocity(JointDenoiser[Any]):
    """``E[x_1 - x_0 | x_t]`` of Gaussian tokens, of deviation :attr:`deviation`: ``x (t s^2 - (1 - t)) / ((1 - t)^2 + t^2 s^2)``."""

    deviation = 1.0

    def __init__(self) -> None:
        super().__init__(4, 24, 1)

    def prepare(self, hidden: Tensor, coords: Tensor, mask: Tensor | None = None, condition: Conditioning | None = None) -> Any:
        return _Nothing()

    def predict(self, x: Tensor, times: Tensor | None, prepared: Any) -> Tensor:
        assert times is not None
        t, square = times[:, None], self.deviation**2
        return x * (t * square - (1 - t)) / ((1 - t) ** 2 + t**2 * square)


class _Nothing:
    def repeat(self, count: int) -> _Nothing:
        return self


@pytest.mark.parametrize("standardize", [None, "scale"])
def test_the_least_loss_of_gaussian_tokens_is_half_pi_times_their_deviation(standardize: Any) -> None:
    layout, values = Layout((4, 4), 3, None, SCALES), pyramid(4000, deviation=1.5)
    settings = FlowMatching(times=Times(kind="uniform"), diffusion_batch_mul=1, standardize=standardize)
    head = FlowMatchingHead(network := ExactVelocity(), layout, settings)
    head.measure([Tokens(values, layout)])
    for scale, deviation in enumerate((1.5 / 4, 1.5 / 2, 1.5)):
        network.deviation = 1.0 if standardize else deviation
        assert near(losses_of_scales(head, values)[scale], network.deviation * math.pi / 2)


@pytest.mark.parametrize("weights", ["positions", "scales"])
def test_scales_or_positions_weigh_the_same(weights: Any) -> None:
    model, tokens = make(order=NextScale(divide=Divide(), weights=weights)), Tokens(pyramid(3), Layout((4, 4), 3, None, SCALES))
    loss = model.loss(tokens, None, PerSampleRNG(5, range(3)))
    states = model.training_states(tokens, None, PerSampleRNG(5, range(3)))
    draws = PerSampleRNG(5, range(3)).draws("head").each(3)
    torch.testing.assert_close(states.weights.sum(1), torch.ones(3))
    total, shares = torch.zeros(()), [1 / 21, 4 / 21, 16 / 21] if weights == "positions" else [1 / 3] * 3
    for scale, share in enumerate(shares):
        span = slice(STARTS[scale], STARTS[scale + 1])
        context = HeadContext(coords=model.plan.coords[span], draws=draws[:, scale])
        total = total + share * model.head.loss(states.hidden[:, span], tokens.values[:, span], context).mean()
    torch.testing.assert_close(loss, total)


def test_coarser_scales_are_noised_as_inputs_of_training_alone() -> None:
    noisy = make(order=NextScale(divide=Divide(noise=0.3)))
    tokens, rng = Tokens(pyramid(2), noisy.layout), lambda: PerSampleRNG(5, range(2))
    exact = make().training_states(tokens, None, rng())
    assert torch.equal(noisy.training_states(tokens, None, rng()).hidden, exact.hidden), "in evaluation"
    states = noisy.train().training_states(tokens, None, rng())
    assert torch.equal(states.targets, tokens.values)
    assert torch.equal(states.hidden[:, 0], exact.hidden[:, 0])
    assert (states.hidden[:, 1:] != exact.hidden[:, 1:]).any(-1).all()
    one = noisy.training_states(Tokens(tokens.values[1:], tokens.layout), None, PerSampleRNG(5, [1]))
    torch.testing.assert_close(one.hidden[0], states.hidden[1])
    added = noisy.order.training_values(torch.zeros(500, N, 3), PerSampleRNG(0, range(500)))
    assert near(added.flatten().square(), 0.3**2)


def test_standardised_tokens_have_deviation_one_and_come_back() -> None:
    model = make(standardize="scale")
    head, tokens = model.head, Tokens(pyramid(200, deviation=1.7) + 0.4, model.layout)
    assert isinstance(head, FlowMatchingHead)
    assert head.measures
    head.measure(Tokens(part, model.layout) for part in tokens.values.split(64))
    assert head.standard is not None
    for scale in range(3):
        part = tokens.values[:, STARTS[scale] : STARTS[scale + 1]]
        unit = head.standard.standardised(part, scale)
        torch.testing.assert_close(unit.mean((0, 1)), torch.zeros(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(unit.std((0, 1), correction=0), torch.ones(3))
        torch.testing.assert_close(head.standard.restored(unit, scale), part)
    with pytest.raises(ValueError, match="training items, and there are none"):
        head.measure([])
    # What the next scale reads is not standardised: the same generator without it, on tokens of another scale.
    plain, states = make(), list[Tensor]()
    plain.load_state_dict(model.state_dict(), strict=False)
    drawn = model.generate(count=2, seed=1, on_step=lambda event: states.append(event.values)).values
    assert torch.equal(states[-1], drawn)
    first = plain.generate(count=2, seed=1).values[:, 0]
    torch.testing.assert_close(drawn[:, 0], first * head.standard.deviation[0] + head.standard.mean[0])


# --- sampling ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", [None, "scale"])
def test_cached_equals_uncached_at_any_batch_size(standardize: Any) -> None:
    model = make(condition=True, standardize=standardize)
    model.head.measure([Tokens(pyramid(50), model.layout)])
    scales: list[float] = []
    given, guidance = [0, 1, 2, 0], Guidance(scale=2.5, kind="ramp")
    drawn = model.generate(given, seed=1, guidance=guidance, on_step=lambda event: scales.append(event.guidance)).values
    torch.testing.assert_close(model.generate(given, seed=1, guidance=guidance, cache=False).values, drawn, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.generate(given, seed=1, guidance=guidance, batch=3).values, drawn, rtol=1e-4, atol=1e-4)
    assert sorted(set(scales)) == [1.0, 1.75, 2.5]
    assert not torch.allclose(drawn, model.generate(given, seed=1).values)


def test_pictures_of_two_colours_come_out_in_both_and_never_in_the_average() -> None:
    layout = Layout((2, 2), 1, None, ((1, 1), (2, 2)))
    order = NextScale(divide=Divide(), weights="scales").build()
    torch.manual_seed(0)
    head = FlowMatching(network=DiT(layers=1, width=32, heads=2, modulation="position"), diffusion_batch_mul=1, steps=16).build(24, layout)
    codec = ScaledTokenizer(Patches(patch=1).build(image_medium(1, (2, 2))), layout.scales)  # type: ignore[arg-type]
    backbone = Transformer(TransformerConfig(layers=1, width=24, heads=2), axes=3)
    model = Generator(layout, order, backbone, head, None, order.embedding(codec, 24))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(300):
        colours = torch.where(torch.rand(64, 1, 1, generator=torch.Generator().manual_seed(step)) < 0.5, 1.0, -1.0)
        loss = model.loss(Tokens(colours.expand(-1, 5, -1), layout), None, PerSampleRNG(step, range(64)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    drawn = model.eval().generate(count=64, seed=1).values[..., 0]
    assert ((drawn.sign() == drawn[:, :1].sign()).all(1) & (drawn.abs() > 0.5).all(1)).all()
    assert 10 < int((drawn[:, 0] > 0).sum()) < 54  # of 64 equally likely ones; beyond with a chance below 1e-7


# --- recipes -----------------------------------------------------------------------------------------------------------------------------

RECIPE = """data: {set: emoji, size: 16}
tokenizer: {patches: {patch: 4}}
order: {next_scale: {divide: {scales: [1, 2, 4]}, weights: scales}}
backbone: {transformer: {layers: 1, width: 24, heads: 2}}
head:
  flow_matching:
    network: {dit: {layers: 1, width: 24, heads: 2, modulation: position}}
    standardize: scale
    steps: 2
train: {samples: 16, batch: 8, warmup: 8, sample_every: 16, save_every: 16}
"""


def built(text: str) -> System:
    recipe = parse(text)
    codec = build_tokenizer(recipe, image_medium(3, (16, 16))).eval()
    return System("built", recipe, codec, build_generator(recipe, codec, []).eval())


def test_a_run_measures_each_scale_and_its_checkpoint_holds_that(tmp_path: Path) -> None:
    summary = experiment.run(parse(RECIPE), tmp_path / "run", device="cpu", progress=False)
    assert summary.samples == 16
    system = load(str(tmp_path / "run"), "cpu")
    assert isinstance(system.tokenizer, ScaledTokenizer)
    assert system.generator is not None
    standard = system.generator.head.standard
    deviation = standard.deviation.mean(1)  # type: ignore[union-attr, operator]
    assert 0 < float(deviation[0]) < float(deviation[1]) < float(deviation[2])
    assert system.generate(count=2).tensor.shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("scales: [1, 2, 4]", "scales: [1, 4, 2]"), r"scales must grow from coarse to fine"),
        (("scales: [1, 2, 4]", "scales: [1, 2, 8]"), r"divide.scales end at \(8, 8\), but the tokens' grid is \(4, 4\): end there"),
        (("{divide: {scales: [1, 2, 4]}, weights: scales}", "{}"), r"several scales, but the continuous .* one grid: divide them"),
        (("{patches: {patch: 4}}", "{pixels: {levels: 4}}"), r"divide: averages over areas .* are codes, which have no averages"),
        (
            ("next_scale: {divide: {scales: [1, 2, 4]}, weights: scales}", "raster: {}"),
            r"standardize: scale is for tokens of several scales",
        ),
        (("dit: {layers: 1, width: 24, heads: 2, modulation: position}", "mlp: {}"), r"standardize: scale .* draws token by token"),
    ],
)
def test_what_does_not_fit_is_refused(change: tuple[str, str], says: str) -> None:
    assert change[0] in RECIPE
    with pytest.raises((ValueError, RecipeError), match=says):
        built(RECIPE.replace(*change))


def test_codes_and_other_scales_are_not_divided() -> None:
    for source in (Pixels(levels=4).build(image_medium(1, (4, 4))), tokenizer()):
        with pytest.raises(ValueError, match="averages over areas are of numbers on a grid of rows and columns"):
            ScaledTokenizer(source, SCALES)
    with pytest.raises(ValueError, match=r"have scales .*leave `divide` out"):
        NextScale(divide=Divide()).scales_of(tokenizer().layout)
