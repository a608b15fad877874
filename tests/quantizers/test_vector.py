"""The vector quantizer against closed forms."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor

from jielong.quantizers.checks import NonFiniteVectors
from jielong.quantizers.lookup import nearest
from jielong.quantizers.vector import Vector, VectorQuantizer

BOTH = pytest.mark.parametrize("codebook", ["ema", "gradient"])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(codebook_size: int = 16, dim: int = 4, **settings: object) -> VectorQuantizer:
    """A quantizer without the repairs, with codes that do not depend on the global random state."""
    codebook = {"codebook_size": codebook_size, "kmeans_iterations": 0, "restart_below": 0.0}
    quantizer = Vector.model_validate(codebook | settings).build(dim)
    start = normal(codebook_size, dim, seed=99)
    start = torch.nn.functional.normalize(start, dim=-1) if quantizer.normalize else start
    quantizer.codebook.data.copy_(start)
    if not quantizer.learned:
        quantizer.sums.copy_(start)
    return quantizer


@pytest.mark.parametrize(("vectors", "codes", "dim"), [(1000, 7, 3), (513, 1000, 8), (3000, 600, 16), (700, 2500, 8), (1, 2, 1), (0, 5, 4)])
def test_search_equals_exhaustive_search_in_double_precision(vectors: int, codes: int, dim: int) -> None:
    z, e = normal(vectors, dim), normal(codes, dim, seed=1)
    wanted = torch.cdist(z.double(), e.double()).argmin(dim=1) if vectors else torch.empty(0, dtype=torch.long)
    assert torch.equal(nearest(z, e)[0], wanted)


def test_equal_codes_give_the_lowest_index() -> None:
    e = normal(600, 4)
    z = normal(900, 4, seed=1)
    assert torch.equal(nearest(z, torch.cat([e, e, e]))[0], nearest(z, e)[0])


@BOTH
def test_straight_through_hands_the_gradient_on_and_none_to_the_codes(codebook: str) -> None:
    quantizer, z, w = plain(codebook=codebook), normal(2, 5, 4).requires_grad_(), normal(2, 5, 4, seed=3)
    before = quantizer.codebook.detach().clone()
    quantized = quantizer(z)
    (quantized.values * w).sum().backward()
    assert torch.equal(z.grad, w)
    assert quantizer.codebook.grad is None or not quantizer.codebook.grad.any()
    assert torch.equal(quantized.values, before[quantized.indices[..., 0]])


def test_loss_gradients_are_the_closed_forms() -> None:
    quantizer, z = plain(codebook="gradient", commitment=0.25), normal(50, 4).requires_grad_()
    quantized = quantizer(z)
    sum(quantized.losses.values()).backward()
    e, (n, d) = quantizer.codebook.detach()[quantized.indices[..., 0]], z.shape
    torch.testing.assert_close(z.grad, 2 * 0.25 * (z.detach() - e) / (n * d))
    for code in range(16):
        mine = z.detach()[quantized.indices[..., 0] == code]
        wanted = 2 * (quantizer.codebook.detach()[code] - mine.mean(0)) * len(mine) / (n * d) if len(mine) else torch.zeros(d)
        torch.testing.assert_close(quantizer.codebook.grad[code], wanted)


def test_ema_codebook_has_no_codebook_loss() -> None:
    assert set(plain()(normal(9, 4)).losses) == {"commitment"}


def test_averages_without_memory_are_one_step_of_kmeans() -> None:
    quantizer, z = plain(decay=0.0), normal(500, 4)
    quantizer.epsilon = 0.0
    quantized = quantizer(z)
    for code in quantized.indices.unique():
        torch.testing.assert_close(quantizer.codebook[code], z[quantized.indices[..., 0] == code].mean(0))


def test_a_code_converges_geometrically_to_a_constant_input() -> None:
    quantizer = plain(codebook_size=2, dim=3, decay=0.9)
    quantizer.epsilon = 0.0
    z = torch.ones(1, 3)
    quantizer.codebook.copy_(torch.tensor([[0.0] * 3, [100.0] * 3]))
    quantizer.sums.copy_(quantizer.codebook)
    for step in range(1, 30):  # N stays 1, because every batch has one vector
        quantizer(z)
        torch.testing.assert_close(quantizer.codebook[0], torch.full((3,), 1 - 0.9**step))


@pytest.mark.parametrize("quiet", ["eval", "no_grad", "update=False"])
@BOTH
def test_nothing_changes_outside_a_training_forward(codebook: str, quiet: str) -> None:
    quantizer = Vector(codebook_size=8, codebook=codebook, restart_every=1).build(4)  # type: ignore[arg-type]
    quantizer(normal(100, 4))
    state = copy.deepcopy(quantizer.state_dict())
    quantizer.train(quiet != "eval")
    with torch.set_grad_enabled(quiet != "no_grad"):
        quantizer(normal(100, 4, seed=1) * 9, update=quiet != "update=False")
    quantizer.encode(normal(100, 4))
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("normalize", [False, True])
@BOTH
def test_restart_sets_code_sum_and_count_and_survives_the_averages(codebook: str, normalize: bool) -> None:
    quantizer = plain(codebook_size=8, codebook=codebook, normalize=normalize, restart_below=0.1, restart_every=1, decay=0.5)
    if normalize:
        quantizer.codebook.data[3] = torch.tensor([0.0, 0.0, 0.0, -1.0])
        z = torch.nn.functional.normalize(normal(64, 4).abs(), dim=-1)
        quantizer.codebook.data[:3].abs_()
    else:
        quantizer.codebook.data[3] = 1000.0
        z = normal(64, 4)
    if not quantizer.learned:
        quantizer.sums.copy_(quantizer.codebook)
    quantizer.counts[3] = 1e-3
    assert not (quantizer(z).indices == 3).any()
    reborn = quantizer.codebook[3].detach().clone()
    source = (z - reborn).norm(dim=1).argmin()
    torch.testing.assert_close(reborn, z[source], rtol=0, atol=1e-6)
    mean = quantizer.counts.mean()
    assert quantizer.counts[3] > 0.5 * mean
    if codebook == "ema":
        torch.testing.assert_close(quantizer.sums[3], reborn * quantizer.counts[3])
    for _ in range(3):  # only ever shown its own vector, the code stays where it was put
        quantizer(z[source : source + 1])
        torch.testing.assert_close(quantizer.codebook[3].detach(), reborn, rtol=1e-5, atol=1e-5)


def test_restart_revives_a_collapsed_codebook_and_zero_leaves_it_dead() -> None:
    found = {}
    for threshold in (0.0, 0.1):
        quantizer = plain(codebook_size=64, restart_below=threshold, restart_every=1, decay=0.8)
        quantizer.codebook.add_(100)
        quantizer.sums.add_(100)
        for step in range(40):
            quantizer(normal(1024, 4, seed=step))
        quantizer.usage.clear()
        quantizer(normal(4096, 4, seed=100))
        found[threshold] = float(quantizer.usage.usage)
    assert found[0.0] < 0.2
    assert found[0.1] > 0.9


def test_a_code_that_starts_on_the_way_to_a_vector_keeps_its_share_in_many_dimensions() -> None:
    used = {}
    for distance in (1.0, 0.25):
        quantizer = plain(codebook_size=256, dim=64, restart_below=0.1, restart_distance=distance, kmeans_iterations=10, decay=0.97)
        for step in range(300):
            quantizer(normal(1024, 64, seed=step) * normal(1024, 1, seed=step + 1000).exp())  # lengths of many sizes, as of residuals
        quantizer.usage.clear()
        quantizer(normal(4096, 64, seed=5000) * normal(4096, 1, seed=6000).exp())
        used[distance] = float(quantizer.usage.perplexity)
    assert used[0.25] > 1.25 * used[1.0]


def test_a_restarted_code_stands_on_the_way_from_the_vectors_code() -> None:
    quantizer = plain(codebook_size=4, dim=2, restart_below=0.1, restart_every=1, restart_distance=0.25, decay=0.5)
    quantizer.codebook.data[:] = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [99.0, 99.0]])
    quantizer.sums.copy_(quantizer.codebook)
    quantizer.counts[3] = 1e-3
    z = torch.tensor([[1.0, 1.0], [9.0, 1.0], [1.0, 9.0]])
    before = quantizer.codebook.clone()
    quantizer(z)
    after, reborn = quantizer.codebook[:3], quantizer.codebook[3]
    assert not torch.equal(after, before[:3])
    gaps = [(reborn - (code + 0.25 * (vector - code))).norm() for code, vector in zip(after, z, strict=True)]
    assert min(gaps) < 1e-5


def test_kmeans_start_finds_separate_clusters_with_their_counts() -> None:
    centres = torch.arange(6.0)[:, None] * 10 * torch.ones(6, 3)
    z = (centres[:, None] + 0.01 * normal(6, 50, 3)).flatten(0, 1)
    quantizer = Vector(codebook_size=6, kmeans_iterations=20).build(3)
    quantized = quantizer(z)
    # Whatever cluster each vector fell into, the state says so: N and M belong together, and the lookup was made with the new codes.
    assert bool(quantizer.initialised)
    torch.testing.assert_close(quantizer.sums, quantizer.codebook * quantizer.counts[:, None], rtol=1e-4, atol=1e-4)
    assert float(quantizer.counts.sum()) == pytest.approx(300, abs=6)
    assert float(quantized.statistics["error"]) < float(z.var()) / 10


def test_as_many_codes_as_distinct_inputs_reach_zero_loss() -> None:
    z = normal(12, 4)
    quantizer = Vector(codebook_size=12).build(4)
    assert float(quantizer(z).statistics["error"]) < 1e-10
    assert torch.equal(quantizer.encode(z)[..., 0].sort().values, torch.arange(12))


@pytest.mark.parametrize("generator", [False, True])
def test_draws_follow_the_generator_or_the_number_of_updates(generator: bool) -> None:
    def run(seed: int) -> Tensor:
        quantizer = Vector(codebook_size=8).build(4)
        torch.manual_seed(seed)  # the global random state must not matter
        quantizer(normal(100, 4), generator=torch.Generator().manual_seed(seed) if generator else None)
        return quantizer.codebook

    assert torch.equal(run(1), run(1))
    assert torch.equal(run(1), run(2)) is not generator


@pytest.mark.parametrize("normalize", [False, True])
@BOTH
def test_resume_equals_uninterrupted(codebook: str, normalize: bool) -> None:
    settings = Vector(codebook_size=32, codebook=codebook, normalize=normalize, restart_every=3, restart_below=0.5, decay=0.7)  # type: ignore[arg-type]

    def go_on(quantizer: VectorQuantizer, steps: range) -> None:
        for step in steps:
            quantized = quantizer(normal(64, 4, seed=step))
            if quantizer.learned:
                (gradient,) = torch.autograd.grad(quantized.losses["codebook"], quantizer.codebook)
                quantizer.codebook.data.sub_(gradient)

    straight, before, after = settings.build(4), settings.build(4), settings.build(4)
    go_on(straight, range(13))
    go_on(before, range(7))
    after.load_state_dict(load(save(before.state_dict())))
    go_on(after, range(7, 13))
    for name, value in straight.state_dict().items():
        assert torch.equal(value, after.state_dict()[name]), name


@BOTH
def test_a_cosine_lookup_ignores_lengths_and_hands_out_codes_of_their_own(codebook: str) -> None:
    quantizer, z = plain(metric="cosine", codebook=codebook), normal(200, 4)
    quantizer.codebook.data.mul_(torch.linspace(0.1, 10, 16)[:, None])
    book = quantizer.codebook.detach().clone()
    wanted = torch.cosine_similarity(z[:, None], book, dim=-1).argmax(-1)
    assert not torch.equal(wanted, torch.cdist(z, book).argmin(-1))
    assert torch.equal(quantizer.encode(100 * z)[:, 0], wanted)
    found = quantizer(z)
    assert torch.equal(found.indices[:, 0], wanted)
    assert torch.equal(found.values, book[wanted])
    torch.testing.assert_close(found.losses["commitment"], 0.25 * (z - book[wanted]).square().mean())
    assert "metric=cosine" in repr(quantizer)


def test_normalised_lookup_ignores_lengths_and_returns_unit_codes() -> None:
    for codebook in ("ema", "gradient"):
        quantizer = plain(codebook=codebook, normalize=True).eval()
        quantizer.codebook.data.mul_(3 if codebook == "gradient" else 1)
        z = normal(40, 4)
        quantized = quantizer(z)
        assert torch.equal(quantized.indices, quantizer.encode(z * (0.01 + 100 * torch.rand(40, 1))))
        torch.testing.assert_close(quantized.values.norm(dim=-1), torch.ones(40))
        cosine = torch.cosine_similarity(z, quantized.values, dim=-1)
        torch.testing.assert_close(quantized.statistics["error"], (2 - 2 * cosine).mean() / 4)


@pytest.mark.parametrize("estimator", ["straight-through", "rotation"])
@BOTH
def test_decoding_the_indices_gives_the_values_bit_for_bit(codebook: str, estimator: str) -> None:
    quantizer = plain(codebook=codebook, estimator=estimator, normalize=True)
    quantized = quantizer(normal(2, 3, 5, 4), update=False)
    assert quantized.indices.shape == (2, 3, 5, 1)
    assert torch.equal(quantizer.decode(quantized.indices), quantized.values)


def test_half_precision_around_it_changes_no_index_and_no_state() -> None:
    quantizer, z = plain(codebook_size=256).to(torch.bfloat16), normal(400, 4)
    assert {t.dtype for t in quantizer.buffers() if t.is_floating_point()} == {torch.float32}
    wanted = quantizer.encode(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.encode(z), wanted)
        assert quantizer(z.bfloat16()).values.dtype == torch.bfloat16


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kmeans", [0, 5])
def test_numbers_that_are_not_finite_are_refused_and_leave_the_state_alone(poison: float, kmeans: int) -> None:
    quantizer = plain(kmeans_iterations=kmeans)
    state = copy.deepcopy(quantizer.state_dict())
    z = normal(30, 4)
    z[17, 2] = poison
    with pytest.raises(NonFiniteVectors, match="1 vectors to quantize hold NaN or infinite"):
        quantizer(z)
    with pytest.raises(NonFiniteVectors):
        quantizer.encode(z)
    assert all(torch.equal(value, state[name]) for name, value in quantizer.state_dict().items())


def test_mistakes_are_named() -> None:
    quantizer = plain()
    with pytest.raises(ValueError, match=r"\(\.\.\., 4\) with the channels last, not \(2, 4, 8\)"):
        quantizer(normal(2, 4, 8))
    with pytest.raises(ValueError, match=r"\[0, 16\)"):
        quantizer.decode(torch.tensor([16]))
    with pytest.raises(ValueError, match=r"must be \(\.\.\., 1\), one per codebook on the last axis, not \(3,\)"):
        quantizer.decode(torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValidationError):
        Vector(codebook_size=1)
    with pytest.raises(ValueError, match="estimator"):
        Vector(codebook_size=4, estimator="rotate").build(2)  # type: ignore[arg-type]


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_is_refused(reentrant: bool) -> None:
    quantizer, z = plain(estimator="rotation"), normal(10, 4).requires_grad_()
    values = torch.utils.checkpoint.checkpoint(lambda x: quantizer(x).values, z, use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match="activation checkpointing"):
        values.sum().backward()


def test_the_state_has_no_surprises() -> None:
    names = {"codebook", "sums", "counts", "initialised", "updates", "usage.recent", "usage.before"}
    assert set(plain().state_dict()) == names
    assert set(plain(codebook="gradient").state_dict()) == names - {"sums"}
