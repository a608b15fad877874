from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor

from jielong.networks.backbone import BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.rope import Rotary
from jielong.networks.transformer import Transformer, TransformerConfig

GRID = torch.cartesian_prod(torch.arange(3), torch.arange(5))  # 15 positions of a 3 x 5 grid
N, WIDTH, STATES, B = len(GRID), 32, 12, 3
RASTER = torch.arange(N)


def make(*, condition: str | None = None, condition_width: int | None = None, **changes: object) -> Transformer:
    """A small network with all weights, zero-initialised ones too, away from their start, so that nothing hides behind a zero."""
    settings = {"layers": 2, "width": WIDTH, "heads": 2, "condition": condition or "prefix"}
    net = Transformer(TransformerConfig(**settings | changes), axes=2, condition_width=condition_width if condition else None).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return net


def inputs(batch: int = B, n: int = N, seed: int = 2) -> Tensor:
    return torch.randn(batch, n, WIDTH, generator=torch.Generator().manual_seed(seed))


def condition(*, padded: bool = True) -> Conditioning:
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(B, 4, dtype=torch.bool)
    if padded:
        mask[0, 2:] = mask[1, 0] = False
    return Conditioning(torch.randn(B, 4, STATES, generator=generator), mask, torch.randn(B, STATES, generator=generator))


def blocks_of(size: int) -> Tensor:
    return RASTER // size


def test_equals_llama_on_the_same_weights() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, rms_norm_eps=1e-6,
        max_position_embeddings=64, attention_bias=False,
    )  # fmt: skip
    torch.manual_seed(0)
    llama = transformers.LlamaForCausalLM(config).eval()
    ours = Transformer(TransformerConfig(layers=3, width=64, heads=4, hidden=96, norm_eps=1e-6), axes=1).eval()
    for mine, theirs in zip(ours.blocks, llama.model.layers, strict=True):
        attention, mlp = theirs.self_attn, theirs.mlp
        mine.attention.qkv.weight.data = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
        mine.attention.out.weight.data = attention.o_proj.weight
        mine.feed_forward.up.weight.data = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        mine.feed_forward.down.weight.data = mlp.down_proj.weight
        for norm in (theirs.input_layernorm, theirs.post_attention_layernorm, llama.model.norm):
            norm.weight.data.uniform_(0.5, 1.5)
        mine.attention_norm.weight.data = theirs.input_layernorm.weight
        mine.forward_norm.weight.data = theirs.post_attention_layernorm.weight
    ours.norm.weight.data = llama.model.norm.weight
    ids = torch.randint(0, 50, (2, 20))
    hidden = ours(BackboneInputs(llama.model.embed_tokens(ids), torch.arange(20)[:, None], torch.arange(20)))
    torch.testing.assert_close(hidden, llama.model(ids).last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(llama.lm_head(hidden), llama(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 5, N])
@pytest.mark.parametrize("path", [None, "prefix", "prefix unpadded", "cross", "adaln"])
def test_cached_equals_uncached(path: str | None, size: int) -> None:
    kind = path.split()[0] if path else None
    net = make(condition=kind, condition_width=STATES)
    given = condition(padded=path != "prefix unpadded") if path else None
    x, blocks = inputs(), blocks_of(size)
    whole = net(BackboneInputs(x, GRID, blocks, given))
    cache = net.new_cache(B, N, prefix=4)
    steps = []
    for start in range(0, N, size):
        at = slice(start, start + size)
        steps.append(net(BackboneInputs(x[:, at], GRID[at], blocks[at], given if start == 0 else None), cache))
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=2e-5)
    assert cache.length == cache.capacity


@pytest.mark.parametrize("path", [None, "prefix"])
def test_a_cached_call_may_span_blocks(path: str | None) -> None:
    net = make(condition=path, condition_width=STATES)
    given = condition() if path else None
    x, blocks = inputs(), blocks_of(3)
    cache = net.new_cache(B, N, prefix=4)
    first = net(BackboneInputs(x[:, :6], GRID[:6], blocks[:6], given), cache)
    rest = net(BackboneInputs(x[:, 6:], GRID[6:], blocks[6:]), cache)
    torch.testing.assert_close(torch.cat((first, rest), 1), net(BackboneInputs(x, GRID, blocks, given)), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("path", [None, "prefix", "cross", "adaln"])
def test_an_uncommitted_call_leaves_the_cache(path: str | None) -> None:
    net = make(condition=path, condition_width=STATES)
    given = condition() if path else None
    x, blocks = inputs(), blocks_of(5)
    cache = net.new_cache(B, N, prefix=4)
    net(BackboneInputs(x[:, :5], GRID[:5], blocks[:5], given), cache)
    before = copy.deepcopy(cache)
    guess = net(BackboneInputs(inputs(seed=9)[:, 5:10], GRID[5:10], blocks[5:10]), cache, commit=False)
    assert cache.length == before.length
    assert torch.equal(cache.keys[..., : cache.length, :], before.keys[..., : cache.length, :])
    assert torch.equal(cache.values[..., : cache.length, :], before.values[..., : cache.length, :])
    clean = net(BackboneInputs(x[:, 5:10], GRID[5:10], blocks[5:10]), cache)
    assert torch.equal(clean, net(BackboneInputs(x[:, 5:10], GRID[5:10], blocks[5:10]), before))
    assert not torch.allclose(clean, guess)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("path", [None, "prefix", "cross", "adaln"])
def test_nothing_leaks_from_later_blocks(path: str | None, size: int) -> None:
    net = make(condition=path, condition_width=STATES)
    given = condition() if path else None
    x, blocks = inputs().requires_grad_(), blocks_of(size)
    hidden = net(BackboneInputs(x, GRID, blocks, given))
    for block in (0, 1, int(blocks.max()) - 1):
        seen = blocks <= block
        changed = torch.where(seen[:, None], x, inputs(seed=7))
        torch.testing.assert_close(net(BackboneInputs(changed, GRID, blocks, given))[:, seen], hidden[:, seen], rtol=0, atol=1e-6)
        (gradient,) = torch.autograd.grad(hidden[:, blocks == block].square().sum(), x, retain_graph=True)
        assert (gradient[:, ~seen] == 0).all()
        assert (gradient[:, seen].abs().amax(-1) > 0).all(), "a position sees all of its own and of earlier blocks"


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("path", ["prefix", "cross"])
def test_padding_of_the_condition_does_not_matter(path: str, cached: bool) -> None:
    net = make(condition=path, condition_width=STATES)
    given = condition()
    spoilt = Conditioning(given.states.masked_fill(~given.mask[..., None], float("nan")), given.mask, given.pooled)

    def run(conditioning: Conditioning) -> Tensor:
        return net(BackboneInputs(inputs(), GRID, blocks_of(5), conditioning), net.new_cache(B, N, 6) if cached else None)

    expected = run(given)
    assert torch.equal(run(spoilt), expected)
    torch.testing.assert_close(run(given.padded(6)), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(run(Conditioning(given.states, torch.ones_like(given.mask), given.pooled)), expected)


def test_gradients_are_finite_when_a_condition_is_all_padding() -> None:
    for path in ("prefix", "cross"):
        net = make(condition=path, condition_width=STATES)
        given = condition()
        given.mask[0] = False
        hidden = net(BackboneInputs(inputs(), GRID, blocks_of(5), given))
        hidden.sum().backward()
        assert hidden.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_the_prefix_sees_only_itself() -> None:
    net = make(condition="prefix", condition_width=STATES)
    keys = []
    for seed in (2, 7):
        cache = net.new_cache(B, N, 4)
        net(BackboneInputs(inputs(seed=seed), GRID, blocks_of(5), condition()), cache)
        keys.append(cache.keys[..., :4, :])
    assert torch.equal(*keys)


def test_items_of_a_batch_do_not_meet() -> None:
    net = make(condition="prefix", condition_width=STATES)
    together = net(BackboneInputs(inputs(), GRID, RASTER, condition()))
    for row in range(B):
        at = slice(row, row + 1)
        torch.testing.assert_close(
            net(BackboneInputs(inputs()[at], GRID, RASTER, condition().rows(at))), together[at], rtol=1e-4, atol=1e-5
        )


def test_rows_of_a_cache_go_on_alone() -> None:
    net = make(condition="prefix", condition_width=STATES)
    x, cache = inputs(), net.new_cache(B, N, 4)
    net(BackboneInputs(x[:, :5], GRID[:5], RASTER[:5], condition()), cache)
    some = cache.rows(slice(0, 2))
    alone = net(BackboneInputs(x[:2, 5:6], GRID[5:6], RASTER[5:6]), some)
    assert (some.length, cache.length) == (10, 9)
    torch.testing.assert_close(alone, net(BackboneInputs(x[:, 5:6], GRID[5:6], RASTER[5:6]), cache)[:2], rtol=1e-4, atol=1e-5)


def test_adaptive_blocks_start_as_the_identity() -> None:
    net = Transformer(TransformerConfig(layers=2, width=WIDTH, heads=2, condition="adaln"), axes=2, condition_width=STATES)
    torch.testing.assert_close(net(BackboneInputs(inputs(), GRID, RASTER, condition())), net.norm(inputs()))


@pytest.mark.parametrize(
    ("norm", "activation", "qk_norm", "bias", "path"),
    list(itertools.product(["rms", "layer"], ["swiglu", "gelu"], [False, True], [False, True], [None, "prefix", "cross", "adaln"])),
)
def test_every_combination_trains(norm: str, activation: str, qk_norm: bool, bias: bool, path: str | None) -> None:
    net = make(norm=norm, activation=activation, qk_norm=qk_norm, bias=bias, condition=path, condition_width=STATES, dropout=0.1).train()
    hidden = net(BackboneInputs(inputs(), GRID, blocks_of(5), condition() if path else None))
    assert hidden.shape == (B, N, WIDTH)
    hidden.square().sum().backward()
    unused = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A key bias shifts all scores of a query alike, which a softmax does not feel; so its gradient may round to zero, but it is there.
    assert [name for name in unused if "prefix" not in name or path == "prefix"] == []


def test_flops_and_bytes_are_those_of_the_tensors() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for path in (None, "cross"):
        net = make(condition=path, condition_width=STATES, heads=1)
        with FlopCounterMode(display=False) as counter:  # with gradients, attention is written as products it can count
            net(BackboneInputs(inputs(1), GRID, torch.zeros(N, dtype=torch.long), condition().rows(slice(1)) if path else None))
        assert counter.get_total_flops() == net.flops(N, prefix=4)
    net = make(condition="prefix", condition_width=STATES)
    assert net.new_cache(2, N, 4).nbytes == net.cache_bytes(2, N, 4)


def test_weights_follow_the_table() -> None:
    torch.manual_seed(0)
    net = Transformer(TransformerConfig(layers=8, width=256, heads=4, condition="adaln"), axes=2, condition_width=STATES)
    block = net.blocks[0]
    assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert block.feed_forward.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.02)
    assert (block.modulation.weight == 0).all()
    assert (net.last_modulation.weight == 0).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: TransformerConfig(layers=1, width=30, heads=4), "even multiple of heads"),
        (lambda: Rotary(3, 1, 10_000.0), "even width"),
        (lambda: TransformerConfig(layers=1, width=12, heads=4), "even width"),
        (lambda: make()(BackboneInputs(inputs(), GRID, RASTER, condition())), "takes no condition"),
        (lambda: make(condition="cross", condition_width=STATES)(BackboneInputs(inputs(), GRID, RASTER)), "none was given"),
        (lambda: make()(BackboneInputs(inputs(), GRID[:, :1], RASTER)), r"must be \(15, 2\)"),
        (lambda: make()(BackboneInputs(inputs(), GRID, RASTER.flip(0))), "must not decrease"),
        (lambda: make()(BackboneInputs(inputs(), GRID, RASTER), make().new_cache(B, 4)), "do not fit"),
        (lambda: make()(BackboneInputs(inputs(), GRID, RASTER), make().new_cache(1, N)), "batch of 1"),
    ],
)
def test_errors_say_what_is_wrong(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("path", [None, "prefix", "cross", "adaln"])
def test_mixed_precision_is_close_and_trains(path: str | None) -> None:
    net = make(condition=path, condition_width=STATES, qk_norm=True)
    given = condition() if path else None
    expected = net(BackboneInputs(inputs(), GRID, blocks_of(5), given))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = net(BackboneInputs(inputs(), GRID, blocks_of(5), given))
        cached = net(BackboneInputs(inputs(), GRID, blocks_of(5), given), net.new_cache(B, N, 4))
    low.float().sum().backward()
    assert (low.float() - expected).norm() < 0.05 * expected.norm()  # bfloat16 keeps 8 bits: 0.4 % an operation
    assert (cached.float() - expected).norm() < 0.05 * expected.norm()
