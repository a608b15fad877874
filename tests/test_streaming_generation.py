"""A stream hands out what generate gives with the same seed, piece by piece, and no later than it must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jielong.conditions.base import BuildContext
from jielong.conditions.classes import Class
from jielong.config.ending import StopHeadSettings
from jielong.core.tokens import Layout, Tokens
from jielong.generation.callbacks import TokenChunk
from jielong.generation.generator import Generator
from jielong.generation.plan import SequencePlan
from jielong.heads.depth import Depth
from jielong.heads.gaussian_mixture import GaussianMixture
from jielong.heads.softmax import Softmax
from jielong.networks.transformer import Transformer, TransformerConfig
from jielong.orders.base import Order
from jielong.orders.coarse_to_fine import CoarseToFineOrder
from jielong.orders.masked import Masked
from jielong.orders.raster import Raster, RasterOrder

N = 8
CODES, NUMBERS = Layout((N,), 3, 7), Layout((N,), 2)
ORDERS: dict[str, Callable[[], Order]] = {
    "parallel": RasterOrder,
    "delay": lambda: Raster(pattern="delay").build(),
    "flatten": lambda: Raster(pattern="flatten").build(),
    "levels": CoarseToFineOrder,
    "masked": Masked(steps=3).build,
}


def make(order: str = "parallel", layout: Layout = CODES, ending: StopHeadSettings | None = None, depth: bool = False) -> Generator:
    torch.manual_seed(0)
    built = ORDERS[order]()
    axes = len(SequencePlan.of(built, layout).layout.grid)
    backbone = Transformer(TransformerConfig(layers=1, width=16, heads=2, condition="prefix"), axes=axes, condition_width=8)
    settings = Depth(layers=1, width=8, heads=1) if depth else Softmax() if layout.discrete else GaussianMixture(components=2)
    condition = Class(width=8).build(BuildContext(["a", "b"]))
    model = Generator(layout, built, backbone, settings.build(16, layout), condition, stop_head=ending)  # type: ignore[attr-defined]
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    return model.eval()


def joined(pieces: list[TokenChunk], model: Generator) -> torch.Tensor:
    assert [piece.start for piece in pieces] == [sum(s.values.shape[1] for s in pieces[:i]) for i in range(len(pieces))]
    return torch.cat([piece.values for piece in pieces], dim=1)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(
    ("order", "layout", "depth"),
    [*((order, CODES, False) for order in ORDERS), ("parallel", NUMBERS, False), ("parallel", CODES, True), ("delay", CODES, True)],
)
def test_all_pieces_together_are_what_generate_gives(order: str, layout: Layout, depth: bool, every: int) -> None:
    model = make(order, layout, depth=depth)
    options: dict[str, Any] = {"seed": 5, "guidance": 2.0}
    whole = model.generate([0, 1], **options)
    pieces = list(model.stream([0, 1], every=every, **options))
    assert torch.equal(joined(pieces, model), whole.values)
    assert all(piece.values.shape[1] >= every for piece in pieces[:-1])
    lengths = [5, 5] if order in ("masked", "levels") else [5, 3]
    chunks = list(model.stream([0, 1], every=every, lengths=lengths, **options))
    assert torch.equal(joined(chunks, model), model.generate([0, 1], lengths=lengths, **options).values[:, :5])
    assert chunks[-1].lengths.tolist() == lengths


def test_items_that_end_by_themselves_end_the_stream() -> None:
    model = make("delay", ending=StopHeadSettings(threshold=0.6))
    for seed in range(4):
        whole = model.generate([0, 1], seed=seed)
        assert whole.lengths is not None
        pieces = list(model.stream([0, 1], seed=seed))
        longest = int(whole.lengths.max())
        assert torch.equal(joined(pieces, model), whole.values[:, :longest])
        assert torch.equal(pieces[-1].lengths, whole.lengths)


@pytest.mark.parametrize(("order", "first"), [("parallel", 1), ("delay", 3), ("flatten", 3), ("levels", N + 2), ("masked", 3)])
def test_the_first_token_comes_as_soon_as_its_codes_are_drawn(order: str, first: int) -> None:
    """With K = 3: at once, K - 1 steps later, or K times later; level by level and masked, only at the end."""
    model, calls = make(order), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    model.backbone.register_forward_hook(count)
    next(iter(model.stream([0], seed=1)))
    assert calls == first


def test_a_prompt_comes_first() -> None:
    model = make("delay")
    start, known = Tokens(torch.randint(0, 7, (1, N, 3)), CODES), torch.arange(N) < 3
    pieces = list(model.stream([1], seed=2, start=start, known=known))
    assert torch.equal(joined(pieces, model), model.generate([1], seed=2, start=start, known=known).values)
    assert torch.equal(joined(pieces, model)[:, :3], start.values[:, :3])


def test_misuse_is_refused() -> None:
    model = make()
    with pytest.raises(ValueError, match="in training mode"):
        make().train().stream([0])
    with pytest.raises(ValueError, match="every must be 1 or more, not 0"):
        model.stream([0], every=0)
    with pytest.raises(ValueError, match="no sampling parameter 'batch'"):
        model.stream([0], batch=2)
    with pytest.raises(ValueError, match="conditions are a list"):
        model.stream("cat")
    with pytest.raises(ValueError, match="items of one length side by side"):
        make("levels").stream([0, 1], lengths=[3, 4])
    pictures = Layout((2, 2), 1, 7)
    flat = Generator(
        pictures, RasterOrder(), Transformer(TransformerConfig(layers=1, width=16, heads=2), axes=2), Softmax().build(16, pictures)
    ).eval()
    with pytest.raises(ValueError, match="tokens along one axis"):
        flat.stream(count=1)
