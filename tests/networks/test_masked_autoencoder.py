"""MAR's encoder-decoder: what leaks, what is read, batches whose items know differently many tokens, and its edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jielong.backbones.mar import Mar
from jielong.core.tokens import Layout
from jielong.networks.backbone import BackboneInputs
from jielong.networks.conditioning import Conditioning
from jielong.networks.masked_autoencoder import MaskedAutoencoder

LAYOUT = Layout((3, 4), channels=2)
N, WIDTH, STATES = LAYOUT.positions, 16, 10
WHERE, BLOCKS = LAYOUT.coordinates(), torch.zeros(N, dtype=torch.long)
PATHS = [None, "prefix", "cross", "adaln"]


def make(path: str | None = "prefix", buffer: int = 3, **settings: object) -> MaskedAutoencoder:
    """All weights away from their start, so that nothing hides behind a zero."""
    torch.manual_seed(0)
    part = Mar(encoder_layers=2, decoder_layers=2, width=WIDTH, heads=2, buffer=buffer, condition=path or "prefix", **settings)
    model = part.build(LAYOUT, None if path is None else STATES)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    return model.eval()


def condition(path: str | None, batch: int, padded: bool = False) -> Conditioning | None:
    if path is None:
        return None
    generator = torch.Generator().manual_seed(5)
    mask = torch.ones(batch, 4, dtype=torch.bool)
    if padded:
        mask[0, 2:] = False
    return Conditioning(torch.randn(batch, 4, STATES, generator=generator), mask, torch.randn(batch, STATES, generator=generator))


def inputs(batch: int = 3) -> Tensor:
    return torch.randn(batch, N, WIDTH, generator=torch.Generator().manual_seed(1))


def known_of(*counts: int) -> Tensor:
    known = torch.zeros(len(counts), N, dtype=torch.bool)
    for row, count in enumerate(counts):
        known[row, torch.randperm(N, generator=torch.Generator().manual_seed(row))[:count]] = True
    return known


@pytest.mark.parametrize("path", PATHS)
def test_items_with_different_known_counts_are_independent(path: str | None) -> None:
    """Padding with a mask, against no padding; what stands at another item's padding is not read."""
    model, x, known = make(path), inputs(5), known_of(0, 1, 4, 11, N)
    conditioning = condition(path, 5, padded=True)
    with torch.no_grad():
        together = model(BackboneInputs(x, WHERE, BLOCKS, conditioning, known=known))
        for row in range(5):
            only = slice(row, row + 1)
            alone = model(
                BackboneInputs(x[only], WHERE, BLOCKS, None if conditioning is None else conditioning.rows(only), known=known[only])
            )
            torch.testing.assert_close(together[only], alone, atol=2e-6, rtol=1e-5)
        # Padding of a condition may hold anything.
        if conditioning is not None:
            other = Conditioning(
                torch.where(conditioning.mask[..., None], conditioning.states, torch.nan), conditioning.mask, conditioning.pooled
            )
            assert torch.equal(model(BackboneInputs(x, WHERE, BLOCKS, other, known=known)), together)


def test_the_encoder_equals_full_attention_with_the_unknown_masked_out() -> None:
    """The definition: the encoder's layers over all places, whose softmax leaves out what is unknown."""
    model, x, known = make(None, buffer=2), inputs(2), known_of(5, 5)
    taken: list[Tensor] = []
    model.between.register_forward_hook(lambda module, arguments, result: taken.append(arguments[0]))
    with torch.no_grad():
        model(BackboneInputs(x, WHERE, BLOCKS, known=known))
        front = model.buffer_places.expand(2, -1, -1)
        everything = model.enter(torch.cat((front, x), dim=1))
        seen = torch.cat((torch.ones(2, 2, dtype=torch.bool), known), dim=1)
        assert model.encoder.rotary is not None
        table = model.encoder.rotary(WHERE, x.device, x.dtype, 2)
        rows = everything.flatten(0, 1)
        for block in model.encoder.blocks:
            h = block.attention_norm(rows)
            q, k, v = block.attention.qkv(h).view(2, 2 + N, 3, 2, -1).permute(2, 0, 3, 1, 4)
            scores = (table(q) @ table(k).mT / q.shape[-1] ** 0.5).masked_fill(~seen[:, None, None], -torch.inf)
            rows = rows + block.attention.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(rows.shape))
            rows = rows + block.feed_forward.down(block.feed_forward(block.forward_norm(rows)))
        expected = model.encoder.norm(rows).view(2, 2 + N, WIDTH)
    for row in range(2):
        torch.testing.assert_close(taken[0][row], expected[row][seen[row]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_every_visible_token_and_the_condition_change_every_hidden_vector(path: str | None) -> None:
    model, x, known = make(path), inputs(1), known_of(4)
    with torch.no_grad():
        before = model(BackboneInputs(x, WHERE, BLOCKS, condition(path, 1), known=known))
        for position in known[0].nonzero().flatten().tolist():
            other = x.clone()
            other[0, position] += 1
            assert (model(BackboneInputs(other, WHERE, BLOCKS, condition(path, 1), known=known)) != before).any(-1).all()
        if path is not None:
            conditioning = condition(path, 1)
            assert conditioning is not None
            changed = Conditioning(conditioning.states + 1, conditioning.mask, conditioning.pooled + 1)
            assert (model(BackboneInputs(x, WHERE, BLOCKS, changed, known=known)) != before).any(-1).all()


def test_unknown_positions_reach_the_encoder_through_nothing() -> None:
    """What stands at an unknown position is read by the decoder alone: it is the placeholder and the position."""
    model, known = make(None), known_of(4)
    taken: list[Tensor] = []
    model.between.register_forward_hook(lambda module, arguments, result: taken.append(result))
    x = inputs(1)
    other = torch.where(known[..., None], x, x + 1)
    with torch.no_grad():
        model(BackboneInputs(x, WHERE, BLOCKS, known=known))
        model(BackboneInputs(other, WHERE, BLOCKS, known=known))
    assert taken[0].shape == (1, 3 + 4, WIDTH), "known tokens and the buffer, and nothing else"
    assert torch.equal(*taken)


@pytest.mark.parametrize("buffer", [0, 2])
@pytest.mark.parametrize("count", [0, N])
def test_all_known_and_none_known(buffer: int, count: int) -> None:
    """With neither a buffer nor anything known the encoder has nothing to read, and the decoder goes on without it."""
    model, x, known = make(None, buffer=buffer), inputs(2).requires_grad_(), known_of(count, count)
    hidden = model(BackboneInputs(x, WHERE, BLOCKS, known=known))
    assert hidden.shape == (2, N, WIDTH)
    hidden.square().sum().backward()
    assert torch.isfinite(hidden).all()
    assert x.grad is not None
    assert (x.grad.abs().sum(-1) > 0).all()
    mixed = model(BackboneInputs(x, WHERE, BLOCKS, known=known_of(count, 5)))
    torch.testing.assert_close(mixed[0], hidden[0], atol=2e-6, rtol=1e-5)


def test_the_third_position_embedding_gives_the_head_its_position() -> None:
    """Without rotations and the first two embeddings all unknown positions look alike; with the third they are conditioning apart."""
    model, known = make(None, rotary=False), known_of(0)
    x = torch.ones(1, N, WIDTH)
    with torch.no_grad():
        for table in model.decoder_places:
            table.weight.zero_()
        hidden = model(BackboneInputs(x, WHERE, BLOCKS, known=known))[0]
        places = model.head_places(WHERE)
    torch.testing.assert_close(hidden - places, (hidden - places)[:1].expand(N, -1), atol=1e-5, rtol=1e-4)
    assert torch.pdist(hidden).min() > 1e-2


@pytest.mark.parametrize("path", PATHS)
def test_cached_equals_uncached(path: str | None) -> None:
    model, x, known, conditioning = make(path), inputs(2), known_of(3, 3), condition(path, 2)
    cache = model.new_cache(2, N, 4)
    with torch.no_grad():
        first = model(BackboneInputs(x, WHERE, BLOCKS, conditioning, known=known))
        assert torch.equal(model(BackboneInputs(x, WHERE, BLOCKS, conditioning, known=known), cache, commit=False), first)
        again = model(BackboneInputs(x + 1, WHERE, BLOCKS, known=known), cache, commit=False)
        assert torch.equal(again, model(BackboneInputs(x + 1, WHERE, BLOCKS, conditioning, known=known)))
        half = model(BackboneInputs((x + 1)[1:], WHERE, BLOCKS, known=known[1:]), cache.rows(slice(1, 2)), commit=False)
        torch.testing.assert_close(half, again[1:], atol=2e-6, rtol=1e-5)


def test_every_weight_learns() -> None:
    model = make("prefix").train()
    model(BackboneInputs(inputs(), WHERE, BLOCKS, condition("prefix", 3), known=known_of(0, 4, 7))).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_misuse_is_refused_in_sentences() -> None:
    model, x, known = make("prefix"), inputs(), known_of(1, 1, 1)
    with pytest.raises(ValueError, match=r"`known` must be bool \(3, 12\), not None"):
        model(BackboneInputs(x, WHERE, BLOCKS, condition("prefix", 3)))
    with pytest.raises(ValueError, match=r"not \(3, 11\)"):
        model(BackboneInputs(x, WHERE, BLOCKS, condition("prefix", 3), known=known[:, 1:]))
    with pytest.raises(ValueError, match="takes a condition"):
        model(BackboneInputs(x, WHERE, BLOCKS, known=known))
    with pytest.raises(ValueError, match="takes no condition"):
        make(None)(BackboneInputs(x, WHERE, BLOCKS, condition("prefix", 3), known=known))
    for blocks, shifted in [(torch.arange(N), True), (torch.arange(N) // 4, False)]:
        with pytest.raises(ValueError, match="needs order: masked"):
            model.check_order(blocks, shifted)
    with pytest.raises(ValueError, match="even multiple of heads"):
        Mar(width=12, heads=4)
