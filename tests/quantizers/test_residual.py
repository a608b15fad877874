"""Residual quantization against its chain written out, plain vector quantization, and three public implementations."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from jielong.config.registry import RecipeError, parse_part
from jielong.quantizers.checks import NonFiniteVectors
from jielong.quantizers.finite_scalar import FiniteScalar
from jielong.quantizers.gumbel import Gumbel
from jielong.quantizers.lookup_free import LookupFree
from jielong.quantizers.residual import Residual, ResidualQuantizer
from jielong.quantizers.vector import Vector, VectorQuantizer

public = pytest.importorskip("vector_quantize_pytorch")

PLAIN = Vector(codebook_size=16, decay=0.9, kmeans_iterations=0, restart_below=0.0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def place(quantizer: VectorQuantizer, codes: Tensor) -> None:
    with torch.no_grad():
        quantizer.codebook.copy_(codes)
        if not quantizer.learned:
            quantizer.sums.copy_(codes)


def chain(levels: int = 4, dim: int = 6, **settings: object) -> ResidualQuantizer:
    """A residual quantizer whose codes do not depend on the global random state, and are finer at each level."""
    quantizer = Residual.model_validate({"num_codebooks": levels, "quantizer": PLAIN} | settings).build(dim)
    for level, stage in enumerate(quantizer.stages):
        place(stage, normal(16, dim, seed=90 + level) * 0.6**level)  # type: ignore[arg-type]
    return quantizer


# --- the chain --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_every_level_is_the_nearest_code_of_what_is_left(shared: bool) -> None:
    quantizer, z = chain(shared=shared).eval(), normal(2, 30, 6)
    books = [quantizer._stage(level).current for level in range(4)]  # type: ignore[union-attr]
    rest, indices = z.clone(), []
    for book in books:
        indices.append(torch.cdist(rest, book).argmin(-1))
        rest = rest - book[indices[-1]]
    found = quantizer(z)
    assert torch.equal(found.indices, torch.stack(indices, -1))
    assert torch.equal(found.indices, quantizer.encode(z))
    torch.testing.assert_close(found.values + rest, z)
    assert torch.equal(found.values, quantizer.decode(found.indices))
    torch.testing.assert_close(found.statistics["error"], rest.square().mean())
    for count in range(1, 5):
        assert torch.equal(quantizer.encode(z, num_codebooks=count), found.indices[..., :count])
        want = sum(book[index] for book, index in zip(books[:count], indices, strict=False))
        torch.testing.assert_close(quantizer.decode(found.indices[..., :count]), want)


def test_one_level_is_vector_quantization() -> None:
    ours, plain = chain(num_codebooks=1), PLAIN.build(6)
    place(plain, ours.stages[0].codebook)  # type: ignore[arg-type]
    for step in range(3):
        a, b = normal(40, 6, seed=step).requires_grad_(), normal(40, 6, seed=step).requires_grad_()
        mine, theirs = ours(a), plain(b)
        assert torch.equal(mine.indices, theirs.indices)
        assert torch.equal(mine.values, theirs.values)
        (mine.values.sum() + mine.losses["commitment"]).backward()
        (theirs.values.sum() + theirs.losses["commitment"]).backward()
        assert torch.equal(a.grad, b.grad)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, ours.stages[0].state_dict()[name])


def test_a_grid_of_halving_steps_is_binary_digits() -> None:
    quantizer = Residual(num_codebooks=5, shrink=0.5, quantizer=LookupFree(bits=1, entropy=0.0)).build(1)
    z = torch.rand(200, 1, generator=seeded()) * 3.98 - 1.99
    found = quantizer(z)
    digits = ((z + 2) * 8).floor().long()  # of 32 steps of 1/8
    assert torch.equal((found.indices * torch.tensor([16, 8, 4, 2, 1])).sum(-1, keepdim=True), digits)
    torch.testing.assert_close(found.values, (digits + 0.5) / 8 - 2)


def test_gradient_reaches_the_encoder_once_and_every_commitment_does() -> None:
    quantizer, z, w = chain(num_codebooks=3), normal(20, 6).requires_grad_(), normal(20, 6, seed=1)
    found = quantizer(z)
    (gradient,) = torch.autograd.grad((found.values * w).sum(), z, retain_graph=True)
    assert torch.equal(gradient, w)
    books = [chain(num_codebooks=3).stages[level].codebook for level in range(3)]
    partial = [z.detach() - sum(books[k][found.indices[:, k]] for k in range(count)) for count in (1, 2, 3)]  # type: ignore[index]
    (gradient,) = torch.autograd.grad(found.losses["commitment"], z)
    torch.testing.assert_close(gradient, 2 * 0.25 * sum(partial) / z.numel())  # type: ignore[operator]


def test_losses_are_added_or_averaged_and_the_whole_error_may_be_added() -> None:
    z = normal(20, 6)
    total, mean, whole = (chain(**settings)(z) for settings in ({}, {"reduction": "mean"}, {"commitment": 2.0}))  # type: ignore[arg-type]
    torch.testing.assert_close(total.losses["commitment"], 4 * mean.losses["commitment"])
    each = sum(0.25 * total.statistics[f"error_{level}"] for level in range(1, 5))
    torch.testing.assert_close(total.losses["commitment"], each)
    torch.testing.assert_close(whole.losses["commitment"], each + 2 * whole.statistics["error"])


def test_a_learned_codebook_gets_its_own_levels_gradient() -> None:
    quantizer = chain(num_codebooks=2, quantizer=PLAIN.model_copy(update={"codebook": "gradient"}))
    z = normal(50, 6)
    found = quantizer(z)
    first, second = (stage.codebook for stage in quantizer.stages)
    found.losses["codebook"].backward()
    rest = z - first.detach()[found.indices[:, 0]]
    for code in range(16):
        mine = found.indices[:, 1] == code
        want = 2 * (second.detach()[code] * mine.sum() - rest[mine].sum(0)) / z.numel()
        torch.testing.assert_close(second.grad[code], want)


# --- learning ---------------------------------------------------------------------------------------------------------------------


def test_levels_start_from_kmeans_of_what_is_left_and_the_error_falls() -> None:
    quantizer = Residual(num_codebooks=4, quantizer=Vector(codebook_size=16)).build(4)
    found = quantizer(normal(2000, 4), generator=seeded())
    assert all(bool(stage.initialised) for stage in quantizer.stages)  # type: ignore[union-attr]
    errors = [float(found.statistics[f"error_{level}"]) for level in range(1, 5)]
    assert all(later < 0.75 * earlier for earlier, later in pairwise(errors))


def test_a_batch_of_fewer_vectors_than_codes_leaves_something_to_every_level_and_codes_fill_up() -> None:
    quantizer = Residual(num_codebooks=4, quantizer=Vector(codebook_size=256, decay=0.9)).build(4)
    found = quantizer(normal(80, 4), generator=seeded())
    errors = [float(found.statistics[f"error_{level}"]) for level in range(1, 5)]
    assert errors[0] > 0.01
    assert all(0 < later < earlier for earlier, later in pairwise(errors))
    for step in range(100):
        quantizer(normal(80, 4, seed=step), generator=seeded(step))
    assert min(quantizer.figures()[f"codebook_usage_{level}"] for level in range(1, 5)) > 0.95


def test_a_shared_codebook_starts_with_codes_for_what_is_left_too() -> None:
    quantizer = Residual(num_codebooks=3, shared=True, quantizer=Vector(codebook_size=64)).build(2)
    found = quantizer(normal(2000, 2), generator=seeded())
    assert found.statistics["error_3"] < found.statistics["error_2"] < found.statistics["error_1"]


def test_a_shared_codebook_follows_all_levels_once_a_batch() -> None:
    quantizer, z = chain(shared=True, num_codebooks=3), normal(100, 6)
    book = quantizer.stages[0].codebook.clone()  # type: ignore[operator]
    found = quantizer(z)
    assert torch.equal(found.values, book[found.indices].sum(-2))  # every level looked up the same codes
    counts, sums, rest = torch.zeros(16), torch.zeros(16, 6), z
    for level in range(3):
        index = found.indices[:, level]
        counts += torch.bincount(index, minlength=16)
        sums.index_add_(0, index, rest)
        rest = rest - book[index]
    stage = quantizer.stages[0]
    torch.testing.assert_close(stage.counts, 0.9 + 0.1 * counts)
    torch.testing.assert_close(stage.sums, 0.9 * book + 0.1 * sums)
    assert int(stage.updates) == 1
    assert int(stage.usage.assignments) == 300  # type: ignore[union-attr]


def test_dropout_draws_all_numbers_of_levels_alike_and_idle_levels_learn_nothing() -> None:
    """Each of four counts in 1,000 fair draws: outside 170..330 once in 10^8 runs."""
    quantizer, generator = chain(dropout=1.0), seeded()
    drawn = [quantizer._draw(generator, torch.device("cpu")) for _ in range(1000)]
    counts = torch.bincount(torch.tensor(drawn), minlength=5)
    assert counts[0] == 0
    assert all(170 < count < 330 for count in counts[1:].tolist())
    before = copy.deepcopy(quantizer.state_dict())
    found = quantizer(normal(30, 6), generator=seeded(3))
    used = found.indices.shape[-1]
    assert used == 1 + int(torch.rand(2, generator=seeded(3))[1] * 4) < 4
    for name, value in quantizer.state_dict().items():
        if name.startswith("stages"):
            assert torch.equal(value, before[name]) == (int(name.split(".")[1]) >= used or name.endswith(("initialised", "before"))), name
    assert set(quantizer.eval()(normal(30, 6)).indices.shape) == {30, 4}


def test_dropout_may_be_rare_and_in_multiples() -> None:
    often = chain(num_codebooks=6, dropout=0.3, dropout_multiple=4)
    generator = seeded()
    drawn = [often._draw(generator, torch.device("cpu")) for _ in range(2000)]
    assert set(drawn) == {4, 6}
    # Four levels with probability 0.3 / 2; five standard deviations either way.
    assert 220 < drawn.count(4) < 380


def test_dropped_levels_decode_to_the_values() -> None:
    quantizer = chain(dropout=1.0, quantizer=PLAIN.model_copy(update={"decay": 0.999999}))
    for seed in range(6):
        found = quantizer(normal(10, 6, seed=seed), generator=seeded(seed), update=False)
        torch.testing.assert_close(quantizer.decode(found.indices), found.values)


# --- public implementations -------------------------------------------------------------------------------------------------------


def publicly(ours: ResidualQuantizer, shared: bool = False) -> torch.nn.Module:
    theirs = public.ResidualVQ(
        dim=6,
        num_quantizers=ours.num_codebooks,
        codebook_size=16,
        decay=0.9,
        commitment_weight=0.25,
        rotation_trick=False,
        shared_codebook=shared,
    )
    for mine, stage in zip([ours._stage(level) for level in range(ours.num_codebooks)], theirs.layers, strict=True):
        stage._codebook.embed.copy_(mine.codebook[None])
        stage._codebook.embed_avg.copy_(mine.sums[None])
    return theirs


def test_equals_vector_quantize_pytorch_over_five_steps() -> None:
    ours = chain()
    theirs = publicly(ours)
    w = normal(3, 40, 6, seed=7)
    for step in range(5):
        a, b = normal(3, 40, 6, seed=step).requires_grad_(), normal(3, 40, 6, seed=step).requires_grad_()
        mine = ours(a)
        values, indices, losses = theirs(b)
        assert torch.equal(mine.indices, indices)
        torch.testing.assert_close(mine.values, values, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mine.losses["commitment"], losses.sum())
        ((mine.values * w).sum() + 100 * mine.losses["commitment"]).backward()
        # Theirs puts an estimator around each of the four levels, so that the encoder receives the values' gradient four times.
        ((values * w / 4).sum() + 100 * losses.sum()).backward()
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
        for stage, other in zip(ours.stages, theirs.layers, strict=True):
            torch.testing.assert_close(stage.codebook, other.codebook, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(stage.counts, other._codebook.cluster_size[0])
    torch.testing.assert_close(ours.decode(indices), theirs.get_output_from_indices(indices))


def test_equals_vector_quantize_pytorch_with_one_codebook() -> None:
    """As a lookup. In training theirs takes a step of the averages a level, ours one a batch."""
    ours = chain(shared=True).eval()
    theirs = publicly(ours, shared=True).eval()
    z = normal(3, 40, 6)
    values, indices, _ = theirs(z)
    found = ours(z)
    assert torch.equal(found.indices, indices)
    torch.testing.assert_close(found.values, values)


def test_equals_public_residual_lookup_free_quantization() -> None:
    theirs = public.ResidualLFQ(dim=9, codebook_size=32, num_quantizers=4).eval()
    ours = Residual(num_codebooks=4, shrink=0.5, quantizer=LookupFree(bits=5, bit_order="big")).build(9).eval()
    ours.inward.load_state_dict(theirs.project_in.state_dict())
    ours.outward.load_state_dict(theirs.project_out.state_dict())
    z = normal(2, 25, 9)
    values, indices, _ = theirs(z)
    found = ours(z)
    assert torch.equal(found.indices, indices.long())
    torch.testing.assert_close(found.values, values)
    torch.testing.assert_close(ours.decode(found.indices), found.values)


def test_equals_the_quantizer_of_transformers_encodec() -> None:
    encodec = pytest.importorskip("transformers.models.encodec.modeling_encodec")
    config = encodec.EncodecConfig(codebook_size=16, codebook_dim=6, hidden_size=6, target_bandwidths=[1.2])
    theirs, ours = encodec.EncodecResidualVectorQuantizer(config), chain()
    assert theirs.num_quantizers >= 4
    for stage, layer in zip(ours.stages, theirs.layers, strict=False):
        layer.codebook.embed.copy_(stage.codebook)
    z = normal(2, 30, 6)
    codes = theirs.encode(z.transpose(1, 2))[:4]  # (K, B, N)
    assert torch.equal(ours.encode(z), codes.permute(1, 2, 0))
    torch.testing.assert_close(ours.decode(codes.permute(1, 2, 0)), theirs.decode(codes).transpose(1, 2))


# --- settings, figures, refusals --------------------------------------------------------------------------------------------------


def test_figures_and_advice_name_the_level() -> None:
    quantizer = chain(num_codebooks=2)
    place(quantizer.stages[1], torch.cat([torch.zeros(1, 6), torch.full((15, 6), 1e3)]))  # type: ignore[arg-type]
    assert quantizer.advice() is None
    quantizer(normal(66_000, 6))
    figures = quantizer.figures()
    assert figures["codebook_usage_2"] == pytest.approx(1 / 16)
    assert figures["codebook_usage"] == pytest.approx((figures["codebook_usage_1"] + 1 / 16) / 2)
    advice = quantizer.advice()
    assert advice is not None
    assert advice.startswith("level 2: ")


def test_finite_scalar_levels_need_a_commitment_of_the_whole() -> None:
    quantizer = Residual(num_codebooks=2, shrink=0.25, commitment=1.0, quantizer=FiniteScalar(levels=(5, 5, 5))).build(8)
    z = normal(20, 8).requires_grad_()
    found = quantizer(z)
    torch.testing.assert_close(found.losses["commitment"], found.statistics["error"])
    found.losses["commitment"].backward()
    assert z.grad.abs().sum() > 0


def test_a_state_dict_is_complete_and_holds_a_shared_codebook_once() -> None:
    settings = Residual(num_codebooks=3, shared=True, dropout=0.5, quantizer=Vector(codebook_size=16))
    one, other = settings.build(4), settings.build(4)
    one(normal(60, 4))
    assert sum(name.endswith("codebook") for name in one.state_dict()) == 1
    other.load_state_dict(one.state_dict())
    for _ in range(2):
        assert torch.equal(one(normal(60, 4, seed=5)).values, other(normal(60, 4, seed=5)).values)


def test_refusals_say_what_would_be_right() -> None:
    quantizer = chain()
    with pytest.raises(ValueError, match="channels last"):
        quantizer(normal(4, 3))
    with pytest.raises(NonFiniteVectors):
        quantizer(torch.full((2, 6), torch.inf))
    with pytest.raises(ValueError, match=r"\[0, 16\)"):
        quantizer.decode(torch.tensor([[0, 16]]))
    with pytest.raises(ValueError, match="one per codebook"):
        quantizer.decode(torch.zeros(3, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="codebooks 1 to 4"):
        quantizer.encode(normal(3, 6), num_codebooks=5)
    with pytest.raises(RuntimeError, match="activation checkpointing"):
        checkpoint(lambda z: quantizer(z).losses["commitment"], normal(4, 6).requires_grad_(), use_reentrant=False).backward()
    with pytest.raises(ValidationError, match="vector, finite_scalar"):
        Residual(quantizer=Gumbel())
    with pytest.raises(ValidationError, match="share"):
        Residual(quantizer=LookupFree(), shared=True)
    with pytest.raises(ValidationError, match="beside num_codebooks"):
        Residual(quantizer=Vector(estimator="rotation"))
    with pytest.raises(ValueError, match="dim: 12"):
        Residual(quantizer=LookupFree(project=False)).build(16)
    with pytest.raises(RecipeError, match="vektor"):
        parse_part("quantizer", {"residual": {"quantizer": "vektor"}})


def test_settings_build_it_and_come_back_from_their_words() -> None:
    words = {"residual": {"num_codebooks": 3, "quantizer": {"lookup_free": {"bits": 4}}, "shrink": 0.5}}
    settings = parse_part("quantizer", words)
    assert parse_part("quantizer", settings.model_dump(mode="json")) == settings
    quantizer = settings.build(4)
    assert (quantizer.codebook_size, quantizer.num_codebooks, quantizer.dim) == (16, 3, 4)
    assert quantizer.layout((2, 5)).bits == 2 * 5 * 3 * 4


def test_what_is_left_after_the_last_level_is_the_error_of_all() -> None:
    quantizer = chain(num_codebooks=3).eval()
    vectors = normal(40, 6)
    left = quantizer.residuals(vectors)
    whole = vectors - quantizer.decode(quantizer.encode(vectors))
    torch.testing.assert_close(left[-1], whole.square().mean() / vectors.square().mean())
    assert left.tolist() == sorted(left.tolist(), reverse=True)
