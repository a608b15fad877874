"""The split quantizer against its two branches written out, and against Mimi's of transformers on the same weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from jielong.config.registry import RecipeError, parse_part
from jielong.quantizers.gumbel import Gumbel
from jielong.quantizers.residual import Residual
from jielong.quantizers.split import Split, SplitQuantizer
from jielong.quantizers.vector import Vector, VectorQuantizer

PLAIN = Vector(codebook_size=16, decay=0.9, kmeans_iterations=0, restart_below=0.0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def split(levels: int = 3, **settings: object) -> SplitQuantizer:
    """Of width 6 for vectors of width 8; the acoustic codes are finer at each level."""
    torch.manual_seed(5)
    acoustic = Residual.model_validate({"num_codebooks": levels, "quantizer": PLAIN} | settings.pop("acoustic", {}))  # type: ignore[operator]
    quantizer = Split(semantic=PLAIN, acoustic=acoustic, width=6, **settings).build(8)  # type: ignore[arg-type]
    for level, stage in enumerate(books(quantizer)):
        with torch.no_grad():
            stage.codebook.copy_(normal(16, 6, seed=90 + level) * 0.6 ** max(0, level - 1))
            stage.sums.copy_(stage.codebook)
    return quantizer


def books(quantizer: SplitQuantizer) -> list[VectorQuantizer]:
    return [quantizer.semantic.quantizer, *quantizer.acoustic.quantizer.stages]  # type: ignore[list-item, misc, union-attr]


def test_both_branches_quantize_the_same_vectors() -> None:
    quantizer, z = split().eval(), normal(2, 30, 8)
    found = quantizer(z)
    semantic, acoustic = quantizer.semantic, quantizer.acoustic
    first, rest = semantic.inward(z), acoustic.inward(z)
    indices = [torch.cdist(first, books(quantizer)[0].codebook).argmin(-1)]
    code, total = books(quantizer)[0].codebook[indices[0]], torch.zeros_like(rest)
    for stage in books(quantizer)[1:]:
        indices.append(torch.cdist(rest - total, stage.codebook).argmin(-1))
        total = total + stage.codebook[indices[-1]]
    assert torch.equal(found.indices, torch.stack(indices, -1))
    assert torch.equal(found.indices, quantizer.encode(z))
    torch.testing.assert_close(found.values, semantic.outward(code) + acoustic.outward(total))
    torch.testing.assert_close(quantizer.decode(found.indices), found.values)
    assert found.first is not None
    torch.testing.assert_close(found.first, semantic.outward(code))
    assert quantizer.layout((30,)).bits == 30 * 4 * 4


def test_leading_levels_decode_to_their_sum() -> None:
    quantizer, z = split().eval(), normal(2, 30, 8)
    indices = quantizer.encode(z)
    first = quantizer.decode(indices[..., :1])
    torch.testing.assert_close(first, quantizer(z).first)
    for count in (2, 3, 4):
        assert torch.equal(quantizer.encode(z, num_codebooks=count), indices[..., :count])
        acoustic = quantizer.acoustic.outward(quantizer.acoustic.quantizer.decode(indices[..., 1:count]))
        torch.testing.assert_close(quantizer.decode(indices[..., :count]), first + acoustic)


def test_every_levels_commitment_reaches_the_vectors() -> None:
    """Each level's own loss, alone, has the gradient of its own residual."""
    quantizer, z = split(), normal(40, 8).requires_grad_()
    initial = copy.deepcopy(quantizer)  # the codebooks before they follow
    found = quantizer(z)
    total = torch.zeros_like(z)
    for level, stage in enumerate(books(initial)):
        branch = initial.acoustic if level else initial.semantic
        rest = branch.inward(z)
        for below in range(1, level):
            rest = rest - books(initial)[below].codebook[found.indices[:, below]]
        loss = 0.25 * (rest - stage.codebook[found.indices[:, level]]).square().mean()
        (gradient,) = torch.autograd.grad(loss, z)
        assert gradient.abs().sum() > 0
        total = total + gradient
    (gradient,) = torch.autograd.grad(found.losses["commitment"], z)
    torch.testing.assert_close(gradient, total)


def test_the_gradient_passes_both_branches_once() -> None:
    quantizer, z, w = split(), normal(20, 8).requires_grad_(), normal(20, 8, seed=1)
    found = quantizer(z)
    (gradient,) = torch.autograd.grad((found.values * w).sum(), z, retain_graph=True)
    maps = [branch.outward.weight @ branch.inward.weight for branch in (quantizer.semantic, quantizer.acoustic)]
    torch.testing.assert_close(gradient, w @ (maps[0] + maps[1]))
    (gradient,) = torch.autograd.grad((found.first * w).sum(), z)
    torch.testing.assert_close(gradient, w @ maps[0])


def test_losses_are_added_or_averaged_over_the_levels() -> None:
    z = normal(20, 8)
    added, averaged = split()(z), split(acoustic={"reduction": "mean"})(z)
    torch.testing.assert_close(added.losses["commitment"], 4 * averaged.losses["commitment"])


def test_dropout_leaves_the_semantic_code() -> None:
    quantizer, z = split(acoustic={"dropout": 1.0}), normal(4, 10, 8)
    counts = {quantizer(z, generator=seeded(seed), update=False).indices.shape[-1] for seed in range(20)}
    assert counts == {2, 3, 4}


def test_an_item_passes_as_it_is_now_and_then_and_its_codes_learn() -> None:
    quantizer, z = split(unquantized=0.5), normal(200, 5, 8)
    plain = sum(branch.outward(branch.inward(z)) for branch in (quantizer.semantic, quantizer.acoustic))
    coded = split().eval()(z)
    found = quantizer(z, generator=seeded())
    passed = (found.values - plain).abs().amax((1, 2)) < 1e-5
    assert 70 < int(passed.sum()) < 130  # fair draws leave it once in 10^5
    torch.testing.assert_close(found.values[~passed], coded.values[~passed])
    torch.testing.assert_close(found.first, coded.first)
    torch.testing.assert_close(found.losses["commitment"], coded.losses["commitment"])
    assert int(books(quantizer)[0].usage.assignments) == 1000
    assert quantizer.eval()(z).indices.shape == (200, 5, 4)


def test_levels_start_from_kmeans_and_the_figures_name_them() -> None:
    quantizer = Split(semantic=Vector(codebook_size=16), acoustic=Residual(num_codebooks=2, quantizer=Vector(codebook_size=16))).build(4)
    quantizer(normal(2000, 4), generator=seeded())
    assert all(bool(book.initialised) for book in books(quantizer))
    figures = quantizer.figures()
    assert {"codebook_usage_1", "codebook_usage_2", "codebook_usage_3"} <= figures.keys()
    assert figures["codebook_usage"] == pytest.approx(sum(figures[f"codebook_usage_{level}"] for level in (1, 2, 3)) / 3)


def test_a_state_dict_is_complete() -> None:
    one, other = split(unquantized=0.3, acoustic={"dropout": 0.5}), split(unquantized=0.3, acoustic={"dropout": 0.5})
    one(normal(60, 8))
    other.load_state_dict(one.state_dict())
    for _ in range(2):
        assert torch.equal(one(normal(60, 8, seed=5)).values, other(normal(60, 8, seed=5)).values)


def test_equals_mimis_of_transformers() -> None:
    mimi = pytest.importorskip("transformers.models.mimi.modeling_mimi")
    config = mimi.MimiConfig(
        codebook_size=16, codebook_dim=6, vector_quantization_hidden_dimension=6, hidden_size=8, num_quantizers=4, num_semantic_quantizers=1
    )
    theirs, ours = mimi.MimiSplitResidualVectorQuantizer(config), split().eval()
    pairs = [(ours.semantic, theirs.semantic_residual_vector_quantizer), (ours.acoustic, theirs.acoustic_residual_vector_quantizer)]
    layers = [layer for _, other in pairs for layer in other.layers]
    for stage, layer in zip(books(ours), layers, strict=True):
        layer.codebook.embed_sum.copy_(stage.codebook)
    with torch.no_grad():
        for branch, other in pairs:
            other.input_proj.weight.copy_(branch.inward.weight[..., None])
            other.output_proj.weight.copy_(branch.outward.weight[..., None])
    z = normal(2, 30, 8)
    codes = theirs.encode(z.mT)  # (K, B, N)
    assert torch.equal(ours.encode(z), codes.permute(1, 2, 0))
    torch.testing.assert_close(ours.decode(codes.permute(1, 2, 0)), theirs.decode(codes.transpose(0, 1)).mT)


def test_refusals_say_what_would_be_right() -> None:
    with pytest.raises(ValueError, match="equally large, not 16"):
        Split(semantic=PLAIN, acoustic=Residual(num_codebooks=2, quantizer=Vector(codebook_size=8))).build(4)
    with pytest.raises(RecipeError, match="residual, not vector"):
        parse_part("quantizer", {"split": {"acoustic": "vector"}})
    with pytest.raises(ValueError, match="not gumbel"):
        Split(semantic=Gumbel())
    with pytest.raises(ValueError, match="codebooks 1 to 4"):
        split().encode(normal(3, 8), num_codebooks=5)
    with pytest.raises(ValueError, match="one per codebook"):
        split().decode(torch.zeros(3, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="channels last"):
        split()(normal(3, 4))
