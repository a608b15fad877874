"""The same state in the public ``vector_quantize_pytorch.VectorQuantize`` gives the same indices, values, gradients and next state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jielong.quantizers.vector import Vector, VectorQuantizer

public = pytest.importorskip("vector_quantize_pytorch")


def pair(normalize: bool, rotation: bool, learned: bool = False) -> tuple[VectorQuantizer, torch.nn.Module]:
    theirs = public.VectorQuantize(
        dim=8, codebook_size=64, decay=0.9, commitment_weight=0.25, rotation_trick=rotation, use_cosine_sim=normalize,
        learnable_codebook=learned, ema_update=not learned,
    )  # fmt: skip
    ours = Vector(
        codebook_size=64, decay=0.9, commitment=0.25, normalize=normalize, kmeans_iterations=0, restart_below=0,
        estimator="rotation" if rotation else "straight-through", codebook="gradient" if learned else "ema",
    ).build(8)  # fmt: skip
    ours.codebook.data.copy_(theirs.codebook.data)
    if not learned:
        ours.sums.copy_(theirs._codebook.embed_avg[0])
    return ours, theirs


def vectors(seed: int) -> Tensor:
    return torch.randn(4, 32, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_ema_codebook_over_five_steps(normalize: bool, rotation: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = pair(normalize, rotation)
    weight = torch.randn(4, 32, 8)
    for step in range(5):
        a, b = vectors(step), vectors(step)
        mine = ours(a)
        values, indices, loss = theirs(b)
        assert torch.equal(mine.indices[..., 0], indices)
        torch.testing.assert_close(mine.values, values, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mine.losses["commitment"], loss.squeeze())
        ((mine.values * weight).sum() + 100 * mine.losses["commitment"]).backward()
        ((values * weight).sum() + 100 * loss.sum()).backward()
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.counts, theirs._codebook.cluster_size[0])
        torch.testing.assert_close(ours.sums, theirs._codebook.embed_avg[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.codebook, theirs.codebook, rtol=1e-4, atol=1e-5)


def test_gradient_codebook_gets_the_same_gradient() -> None:
    torch.manual_seed(0)
    ours, theirs = pair(normalize=False, rotation=False, learned=True)
    mine = ours(vectors(0))
    _, indices, loss = theirs(vectors(0))
    assert torch.equal(mine.indices[..., 0], indices)
    mine.losses["codebook"].backward()
    loss.sum().backward()  # theirs pulls both ways through one term of weight 0.25
    torch.testing.assert_close(ours.codebook.grad * 0.25, theirs._codebook.embed.grad[0])
