"""Next-scale: what stands at a scale, what may be read, and that caching, guidance and smoothing change nothing they should not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from jielong.autoencoders.convolutional import Convolutional
from jielong.conditions.base import BuildContext
from jielong.conditions.classes import Class
from jielong.config.guidance import Guidance
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout, Tokens
from jielong.generation.callbacks import StepEvent
from jielong.generation.generator import Generator
from jielong.heads.base import HeadContext
from jielong.heads.softmax import Softmax
from jielong.media.kinds.image import image_medium
from jielong.networks.backbone import BackboneInputs
from jielong.networks.transformer import Transformer, TransformerConfig
from jielong.orders.next_scale import NextScale, ScaleEmbedding
from jielong.orders.raster import Raster
from jielong.quantizers.multi_scale import MultiScale
from jielong.tokenizers.pixels import Pixels
from jielong.tokenizers.vq import VQ, VQTokenizer

CODES = 24
SCALES = ((1, 1), (2, 2), (4, 4))
STARTS = (0, 1, 5, 21)
N = 21
CLASSES = ["cat", "dog", "bird"]


def tokenizer(first: int = 1) -> VQTokenizer:
    torch.manual_seed(1)
    quantizer = MultiScale(codebook_size=CODES, scales=tuple(dict.fromkeys((first, 2, 4))))
    built = VQ(autoencoder=Convolutional(channels=(8, 8), blocks=(1, 1), patch=2), dim=5, quantizer=quantizer).build(
        image_medium(3, (16, 16))
    )
    built.quantizer.codebook.codebook.copy_(torch.randn(CODES, 5))  # type: ignore[union-attr, operator]
    return built.eval().requires_grad_(False)


def make(path: str | None = "adaln", first: int = 1) -> Generator:
    """A small generator, all weights away from their start."""
    cut = tokenizer(first)
    order = NextScale().build()
    torch.manual_seed(0)
    condition = None if path is None else Class(width=12, cfg_dropout=0.1).build(BuildContext(CLASSES))
    backbone = Transformer(
        TransformerConfig(layers=2, width=24, heads=2, condition=path or "prefix"), axes=3, condition_width=12 if path else None
    )  # type: ignore[arg-type]
    model = Generator(cut.layout, order, backbone, Softmax().build(24, cut.layout), condition, order.embedding(cut, 24))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def codes(batch: int = 2, seed: int = 3) -> Tensor:
    return torch.randint(0, CODES, (batch, N, 1), generator=torch.Generator().manual_seed(seed))


def given(model: Generator, count: int = 4) -> list[int] | None:
    return None if model.condition is None else [i % len(CLASSES) for i in range(count)]


def logits_of(model: Generator, values: Tensor) -> Tensor:
    """Logits of one whole pass, ``(B, N, V)``."""
    known = torch.ones(values.shape[:2], dtype=torch.bool)
    inputs = model.embeddings(values, known, slice(0, N), model.position_vectors(model.plan))
    condition = model.condition and model.condition(model.condition.prepare(given(model, len(values)) or []))
    return model.head.scores(model.backbone(BackboneInputs(inputs, model.plan.coords, model.plan.blocks, condition)))[..., 0, :]  # type: ignore[operator]


# --- what stands where ---------------------------------------------------------------------------------------------------------------


def test_blocks_are_scales() -> None:
    layout = tokenizer().layout
    order = NextScale().build()
    assert layout.scales == SCALES
    assert order.spans(layout) == [(0, 1), (1, 5), (5, 21)]
    assert order.shifted
    view = order.view(layout, PerSampleRNG(0, range(3)))
    assert view.loss_mask.shape == (3, N)
    assert view.loss_mask.all()


def test_a_scale_reads_the_sum_of_the_coarser_ones_averaged_down() -> None:
    model, cut = make(), tokenizer()
    embedding, values = model.embedding, codes()
    read = embedding(values)
    totals = list(cut.quantizer.pyramid.running(cut.quantizer.embed(values), cut.quantizer.kernels))  # type: ignore[union-attr, operator]
    for scale in (1, 2):
        expected = torch.nn.functional.adaptive_avg_pool2d(totals[scale - 1], SCALES[scale]).flatten(2).transpose(1, 2)
        torch.testing.assert_close(read[:, STARTS[scale] - 1 : STARTS[scale + 1] - 1], embedding.linear(expected))  # type: ignore[operator]


def test_the_placeholder_fills_the_first_scale_even_if_it_is_not_one_position() -> None:
    for first, count in ((1, 1), (2, 4)):
        model = make(first=first)
        positions = model.layout.positions
        values = codes()[:, :positions]
        known = torch.ones(values.shape[:2], dtype=torch.bool)
        inputs = model.order.inputs(model.embed, values, known, model.placeholder, 0, positions)
        assert inputs.shape == (2, positions, 24)
        assert torch.equal(inputs[:, :count], model.placeholder.expand(2, count, -1))
        start = model.order.spans(model.layout)[-1][0]
        torch.testing.assert_close(model.order.inputs(model.embed, values, known, model.placeholder, start, positions), inputs[:, start:])


def test_the_frozen_part_moves_with_the_model_but_no_checkpoint_stores_it() -> None:
    model = make()
    stored = {name for name in model.state_dict() if name.startswith("embedding")}
    assert stored == {"embedding.linear.weight", "embedding.linear.bias"}
    assert {name for name, _ in model.embedding.named_buffers()} == {"codes", "weights", "biases"}
    assert {name for name, _ in model.embedding.named_parameters()} == {"linear.weight", "linear.bias"}


# --- what may be read ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, "prefix", "cross", "adaln"])
def test_tokens_of_a_scale_change_logits_of_finer_scales_only(path: str | None) -> None:
    model, values = make(path), codes()
    before = logits_of(model, values)
    for changed in range(N):
        other = values.clone()
        other[:, changed] = (other[:, changed] + 1) % CODES
        differs = (logits_of(model, other) != before).any(-1).any(0)
        scale = sum(changed >= start for start in STARTS[1:])
        assert not differs[: STARTS[scale + 1]].any(), changed
        assert differs[STARTS[scale + 1] :].all() or scale == 2, changed


def test_gradients_reach_the_vectors_of_coarser_scales_only() -> None:
    model = make(None)
    vectors = model.embedding.vectors(codes(1)).clone().requires_grad_()  # type: ignore[operator]
    for position in range(N):
        (gradient,) = torch.autograd.grad(logits_of(model, vectors)[0, position].sum(), vectors, allow_unused=True)
        scale = sum(position >= start for start in STARTS[1:])
        reached = torch.zeros(N, dtype=torch.bool) if gradient is None else gradient[0].abs().sum(-1) > 0
        assert torch.equal(reached, torch.arange(N) < STARTS[scale]), position


# --- sampling and training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, "prefix", "cross", "adaln"])
@pytest.mark.parametrize("smooth", [False, True])
def test_cached_equals_uncached(path: str | None, smooth: bool) -> None:
    model = make(path)
    guidance = Guidance(scale=2.5, kind="ramp") if path else 1.0
    cached = model.generate(given(model), 4, seed=1, guidance=guidance, soft_codes=smooth)
    plain = model.generate(given(model), 4, seed=1, guidance=guidance, soft_codes=smooth, cache=False)
    # The last mixtures' temperature of 0.0135 multiplies rounding errors of the logits a hundredfold.
    torch.testing.assert_close(cached.values, plain.values, rtol=0, atol=1e-2 if smooth else 0)
    assert cached.values.unique().numel() > 3


@pytest.mark.parametrize("path", [None, "prefix", "adaln"])
def test_cached_hidden_vectors_are_those_of_one_whole_pass(path: str | None) -> None:
    model = make(path)
    seen: list[Tensor] = []
    handle = model.backbone.register_forward_hook(lambda module, arguments, result: seen.append(result))
    tokens = model.generate(given(model), 4, seed=2)
    handle.remove()
    assert [hidden.shape[1] for hidden in seen] == [1, 4, 16]
    whole = logits_of(model, tokens.values)
    torch.testing.assert_close(model.head.scores(torch.cat(seen, 1))[..., 0, :], whole, rtol=1e-4, atol=1e-4)  # type: ignore[operator]


def test_the_first_loss_is_ln_v_and_learning_reaches_every_weight() -> None:
    model = make("prefix")
    model.head.logits.weight.data.zero_()  # type: ignore[union-attr, operator]
    tokens = Tokens(codes(), model.layout)
    prepared = model.condition.prepare([0, 1])  # type: ignore[union-attr]
    loss = model.loss(tokens, prepared)
    assert loss.item() == pytest.approx(math.log(CODES), rel=1e-6)
    model.head.logits.weight.data.normal_()  # type: ignore[union-attr, operator]
    model.train()
    model.loss(tokens, prepared, PerSampleRNG(3, range(2))).backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if name != "condition.null")


def test_a_few_steps_overfit_one_image() -> None:
    model = make(None).train()
    tokens = Tokens(codes(1), model.layout)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(tokens)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert torch.equal(model.eval().generate(count=1, sampling=SamplingConfig(temperature=0)).values, tokens.values)


def test_guidance_rises_scale_by_scale() -> None:
    model = make()
    scales: list[float] = []
    model.generate(given(model), guidance=Guidance(scale=2.5, kind="ramp"), on_step=lambda moment: scales.append(moment.guidance))
    assert scales == [1.0, 1.75, 2.5]  # VAR's cfg 1.5: 1 + 1.5 k / (K - 1)


def test_kept_tokens_stay_and_are_read() -> None:
    model, start = make(), Tokens(codes(4, seed=9), make().layout)
    known = torch.arange(N) < 5
    drawn = model.generate(given(model), seed=5, start=start, known=known)
    assert torch.equal(drawn.values[:, :5], start.values[:, :5])
    assert torch.equal(drawn.values, model.generate(given(model), seed=5, start=start, known=known, cache=False).values)
    other = Tokens((start.values + 1) % CODES, start.layout)
    assert not torch.equal(model.generate(given(model), seed=5, start=other, known=known).values[:, 5:], drawn.values[:, 5:])


# --- mixtures of codes -----------------------------------------------------------------------------------------------------------------


def test_smooth_sampling_mixes_codes_and_the_tokenizer_decodes_the_mixture() -> None:
    model, cut = make(), tokenizer()
    drawn = model.generate(given(model), seed=3, soft_codes=True)
    assert drawn.layout == replace(cut.layout, channels=5, vocabulary=None)
    assert drawn.values.shape == (4, N, 5)
    distance = torch.cdist(drawn.values, model.embedding.codes[None]).amin(-1)  # type: ignore[operator]
    assert distance[:, 0].min() > 1e-3, "a mixture at the first step"
    assert distance[:, 5:].median() < 1e-3, "nearly one code at the last"
    assert cut.decode(drawn).shape == (4, 3, 16, 16)
    # Of single codes the mixture is the code, and the picture the same.
    values = codes()
    vectors = Tokens(model.embedding.vectors(values), drawn.layout)  # type: ignore[operator]
    assert torch.equal(cut.decode(vectors), cut.decode(Tokens(values, cut.layout)))
    greedy = SamplingConfig(temperature=0)
    hard = model.generate(given(model), seed=3, sampling=greedy)
    soft = model.generate(given(model), seed=3, sampling=greedy, soft_codes=True)
    torch.testing.assert_close(soft.values, model.embedding.vectors(hard.values))  # type: ignore[operator]


def test_weights_of_a_mixture_are_the_published_ones() -> None:
    head = make().head
    hidden = torch.randn(2, 4, 24, generator=torch.Generator().manual_seed(0))
    for progress, temperature in ((0.0, 0.27), (0.5, 0.27 * 0.525), (1.0, 0.0135)):
        gumbel = PerSampleRNG(4, range(2)).gumbel(4, 1, CODES)
        expected = (((1 + progress) * head.scores(hidden) + gumbel) / temperature).softmax(-1)  # type: ignore[operator]
        mixture = head.soft_codes(hidden, PerSampleRNG(4, range(2)), SamplingConfig(), HeadContext(progress=progress))
        torch.testing.assert_close(mixture, expected)
    kept = head.soft_codes(hidden, PerSampleRNG(4, range(2)), SamplingConfig(top_k=3), HeadContext(progress=0.0))
    assert ((kept > 0).sum(-1) <= 3).all()


# --- partial pictures ------------------------------------------------------------------------------------------------------------------


def test_a_picture_so_far_is_the_sum_of_the_known_scales() -> None:
    model, cut = make(), tokenizer()
    moments: list[StepEvent] = []
    tokens = model.generate(given(model), seed=1, on_step=moments.append)
    assert [int(moment.known[0].sum()) for moment in moments] == [1, 5, 21]
    pictures = [cut.decode_known(Tokens(moment.values, cut.layout), moment.known) for moment in moments]
    assert torch.equal(pictures[-1], cut.decode(tokens))
    again = cut.decode_known(Tokens((tokens.values + torch.arange(N)[:, None].ge(5)) % CODES, cut.layout), moments[1].known)
    assert torch.equal(again, pictures[1]), "what is not known does not matter"
    assert not torch.equal(pictures[0], pictures[1])


def test_a_scale_of_which_nothing_is_known_adds_not_even_a_bias() -> None:
    cut, values = tokenizer(), codes(batch=3)
    for parameter in cut.quantizer.phi.parameters():  # type: ignore[union-attr]
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    known = torch.arange(N) < torch.tensor([1, 5, 21])[:, None]
    totals = list(cut.quantizer.pyramid.running(cut.quantizer.embed(values), cut.quantizer.kernels))  # type: ignore[union-attr, operator]
    running = torch.stack([total[item] for item, total in enumerate(totals)])  # of item k the sum of scales 0 to k
    torch.testing.assert_close(cut.quantizer.assemble(cut.quantizer.embed(values), known).permute(0, 3, 1, 2), running, rtol=0, atol=0)
    torch.testing.assert_close(cut.decode_known(Tokens(values, cut.layout), known), cut.decoder(running).clamp(-1, 1))


# --- what does not fit -----------------------------------------------------------------------------------------------------------------


def test_tokens_on_one_grid_are_refused() -> None:
    order = NextScale().build()
    pixels = Pixels(levels=4).build(image_medium(1, (4, 4)))
    for refused in (lambda: order.embedding(pixels, 24), lambda: order.blocks(Layout((4, 4), 1, 9))):
        with pytest.raises(ValueError, match=r"needs a multi-scale tokenizer.*quantizer: multi_scale"):
            refused()
    layout = tokenizer().layout
    backbone = Transformer(TransformerConfig(layers=1, width=24, heads=2), axes=3)
    model = Generator(layout, order, backbone, Softmax().build(24, layout))
    with pytest.raises(ValueError, match=r"give the generator order.embedding"):
        model.loss(Tokens(codes(), layout))
    plain = Generator(layout, Raster().build(), backbone, Softmax().build(24, layout)).eval()
    with pytest.raises(ValueError, match="soft_codes feeds mixtures of codes to the next scale"):
        plain.generate(count=1, soft_codes=True)


def test_other_orders_run_over_scales_too() -> None:
    layout = tokenizer().layout
    backbone = Transformer(TransformerConfig(layers=1, width=24, heads=2), axes=3)
    model = Generator(layout, Raster().build(), backbone, Softmax().build(24, layout)).eval()
    assert model.generate(count=2).values.shape == (2, N, 1)
    assert isinstance(make().embedding, ScaleEmbedding)
