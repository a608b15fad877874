from __future__ import annotations

import itertools
import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from jielong.core.tokens import Layout
from jielong.quantizers.checks import NonFiniteVectors
from jielong.quantizers.multi_scale import MultiScale, MultiScaleQuantizer
from jielong.quantizers.scales import Pyramid, nearest_ticks, schedule, shares
from jielong.quantizers.vector import Vector

D = 6


def maps(batch: int = 8, side: int = 8, seed: int = 0, offset: float = 0.0) -> Tensor:
    """Random maps that have as much to say at every scale, ``(B, H, W, D)``, behind what all have in common."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.full((batch, D, side, side), offset)
    for scale in (1, 2, 4, side):
        drawn = torch.randn(batch, D, scale, scale, generator=generator)
        total += torch.nn.functional.interpolate(drawn, size=side, mode="bicubic" if scale < side else "nearest")
    return total.permute(0, 2, 3, 1)


def make(side: int = 8, seed: int = 0, **settings: object) -> MultiScaleQuantizer:
    torch.manual_seed(seed)
    return MultiScale.model_validate({"codebook_size": 32, **settings}).on((side, side)).build(D)


def trained(quantizer: MultiScaleQuantizer, steps: int = 3) -> MultiScaleQuantizer:
    for step in range(steps):
        quantizer(maps(seed=step), generator=torch.Generator().manual_seed(step))
    return quantizer


# --- scales ------------------------------------------------------------------------------------------------------------------------


def test_schedules_are_the_published_ones_and_end_at_any_grid() -> None:
    assert [side for side, _ in schedule((16, 16), growth=1.3)] == [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]  # VAR, 256 pixels
    assert [side for side, _ in schedule((8, 8))] == [1, 2, 3, 4, 6, 8]
    for grid in [(1, 1), (2, 2), (3, 3), (16, 16), (32, 32), (4, 8), (1, 6), (9, 5)]:
        scales = schedule(grid)
        assert scales[-1] == grid
        assert min(scales[0]) == max(scales[0]) == 1
        assert all(a != b and a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(scales))
        longest = [max(scale) for scale in scales]
        assert all(b / a <= 2 for a, b in itertools.pairwise(longest))


def test_ticks_are_those_of_the_released_weights() -> None:
    assert nearest_ticks(10, 4) == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
    assert nearest_ticks(6, 4) == (0, 0, 1, 2, 3, 3)
    assert nearest_ticks(3, 1) == (0, 0, 0)
    assert nearest_ticks(3, 0) == ()


def test_lifting_a_constant_keeps_it_and_the_convolution_takes_its_share() -> None:
    pyramid = Pyramid(((1, 1), (2, 3), (4, 6)), (0, 0, 0), ratio=0.25)
    weight = torch.zeros(D, D, 3, 3)
    weight[:, :, 1, 1] = 2 * torch.eye(D)
    codes = torch.full((1, pyramid.positions, D), 0.8)
    for total, times in zip(pyramid.running(codes, [(weight, torch.ones(D))]), (1, 2, 3), strict=True):
        torch.testing.assert_close(total, torch.full((1, D, 4, 6), times * (0.75 * 0.8 + 0.25 * (1.6 + 1))))
    assert len(list(pyramid.running(codes[:, :7], [(weight, torch.ones(D))]))) == 2, "only whole scales are added"


def test_shares_fill_small_groups_and_deal_the_rest_by_weight() -> None:
    assert shares(12, [2, 100, 100], [1, 1, 1]) == [2, 5, 5]
    assert shares(100, [10, 40, 1000], [1, 1, 1]) == [10, 40, 50]
    assert sum(shares(17, [5, 5, 50], [1.0, 2.0, 3.0])) == 17
    assert shares(9, [1, 2], [1, 1]) == [1, 8], "more than there is: the largest repeats its own"


# --- quantizing ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [0, 1, 4])
@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_indices_give_the_running_sum_bit_for_bit(phi: int, codebook: str) -> None:
    quantizer = trained(make(phi=phi, codebook=codebook)).eval()
    features = maps(seed=9)
    quantized = quantizer(features)
    indices = quantizer.encode(features)
    *_, last = quantizer.run(features.permute(0, 3, 1, 2))
    assert indices.shape == (8, 130, 1)
    assert torch.equal(indices, quantized.indices)
    assert torch.equal(quantizer.decode(indices), last.total.permute(0, 2, 3, 1))
    assert torch.equal(quantizer.decode(indices), quantized.values)
    assert indices.unique().numel() > 16


def test_what_is_added_and_what_is_left_make_the_whole() -> None:
    quantizer = trained(make()).eval()
    features = maps(seed=4)
    left = features.permute(0, 3, 1, 2)
    before = torch.zeros_like(left)
    for (height, width), step in zip(quantizer.pyramid.scales, quantizer.run(left), strict=True):
        # The codes are the nearest to the averages of what the scales before have left.
        rest = left - before
        averages = torch.nn.functional.adaptive_avg_pool2d(rest, (height, width)).flatten(2).transpose(1, 2)
        torch.testing.assert_close(step.vectors, averages)
        assert torch.equal(step.indices, torch.cdist(averages, quantizer.codebook.current[None]).argmin(-1))
        before = step.total


def test_one_scale_without_phi_is_plain_vector_quantization() -> None:
    """Same start, same codes, values, losses and state after several steps; the codebook's restarts included."""
    settings = {"codebook_size": 32, "decay": 0.6, "restart_below": 0.5, "restart_every": 2}
    one, plain = make(side=4, scales=[4], phi=0, **settings), Vector.model_validate(settings).build(D)  # type: ignore[arg-type]
    plain.load_state_dict(one.codebook.state_dict())
    for step in range(5):
        features = maps(side=4, seed=step).requires_grad_()
        a = one(features, generator=torch.Generator().manual_seed(step))
        b = plain(features, generator=torch.Generator().manual_seed(step))
        assert torch.equal(a.indices.flatten(), b.indices.flatten())
        assert torch.equal(a.values, b.values)
        assert set(a.losses) == {"commitment"}
        torch.testing.assert_close(a.losses["commitment"], b.losses["commitment"])
        torch.testing.assert_close(a.statistics["error"], b.statistics["error"])
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(one.codebook.state_dict()[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_less_is_left_after_every_scale() -> None:
    quantizer = make(codebook_size=128)
    quantizer(maps(32), generator=torch.Generator().manual_seed(0))
    left = quantizer.residuals(maps(32))
    assert left.shape == (6,)
    assert (left[1:] < left[:-1]).all()
    assert 0 < left[-1] < 0.5 * left[0] < 0.5


def test_losses_are_those_of_the_running_sums() -> None:
    quantizer = trained(make(commitment=0.5, codebook="gradient"))
    features = maps(seed=3).requires_grad_()
    quantized = quantizer(features, update=False)
    channels_first = features.detach().permute(0, 3, 1, 2)
    errors = torch.stack([(step.total - channels_first).square().mean() for step in quantizer.run(channels_first)])
    torch.testing.assert_close(quantized.losses["codebook"], errors.mean())
    torch.testing.assert_close(quantized.losses["commitment"], 0.5 * errors.mean())
    # Commitment pulls the encoder alone, the other loss phi and codes alone, and the value hands its gradient through.
    quantized.losses["commitment"].backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in quantizer.parameters())
    assert features.grad is not None
    features.grad = None
    quantized.losses["codebook"].backward()
    assert features.grad is None
    assert all(parameter.grad is not None and bool(parameter.grad.abs().sum() > 0) for parameter in quantizer.parameters())
    weights = torch.randn_like(features)
    (quantizer(features, update=False).values * weights).sum().backward()
    torch.testing.assert_close(features.grad, weights)


def test_zeros_where_nothing_is_known_decode_the_known_scales() -> None:
    quantizer = trained(make()).eval()
    features = maps(seed=2)
    vectors = quantizer.codebook.decode(quantizer.encode(features)).clone()
    vectors[:, 14:] = 0  # scales 1, 2 and 3 are known
    bias_only = make(phi=0)
    bias_only.codebook.load_state_dict(quantizer.codebook.state_dict())
    steps = list(bias_only.run(features.permute(0, 3, 1, 2)))
    known = bias_only.codebook.decode(bias_only.encode(features)).clone()
    known[:, 14:] = 0
    torch.testing.assert_close(bias_only.assemble(known), steps[2].total.permute(0, 2, 3, 1))


# --- learning ------------------------------------------------------------------------------------------------------------------------


def test_evaluation_and_encoding_change_nothing() -> None:
    quantizer = trained(make())
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.decode(quantizer.encode(maps()))
    with torch.no_grad():
        quantizer(maps())
    quantizer(maps(), update=False)
    quantizer.eval()(maps())
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def coarse_codes(balance: float) -> tuple[int, Tensor]:
    """Different codes of 256 held-out maps at the first scale, and what is left after each, after some training."""
    quantizer = make(codebook_size=64, balance=balance, phi=0, decay=0.9, kmeans_iterations=4)
    for step in range(25):
        quantizer(maps(16, seed=step, offset=4.0), generator=torch.Generator().manual_seed(step))
    held = maps(256, seed=999, offset=4.0)
    indices = quantizer.eval().encode(held)[..., 0]
    return indices[:, 0].unique().numel(), quantizer.residuals(held)


def test_counting_scales_instead_of_vectors_lifts_the_coarse_ones_out_of_collapse() -> None:
    """All maps share an offset, so their first vectors lie close together, far from all finer ones: few vectors win few codes."""
    codes, left = coarse_codes(1.0)
    codes_before, left_before = coarse_codes(0.0)
    assert codes >= 2 * codes_before, (codes, codes_before)
    assert (left[:3] < left_before[:3]).all(), "the coarse scales say more"
    assert left[-1] < 1.15 * left_before[-1], "and the picture is not given up for it"


def test_dropout_keeps_the_first_scales_of_some_items() -> None:
    quantizer = trained(make(dropout=0.5), 1)
    features = maps(200, seed=1)
    quantized = quantizer(features, generator=torch.Generator().manual_seed(0), update=True)
    again = make(dropout=0.5)
    again.load_state_dict(trained(make(dropout=0.5), 1).state_dict())
    totals = torch.stack([step.total.permute(0, 2, 3, 1) for step in again.run(features.permute(0, 3, 1, 2))])
    distance = (totals - quantized.values).abs().amax(dim=(2, 3, 4))  # (K, B)
    kept = distance.argmin(0)
    assert distance.amin(0).max() < 1e-5
    assert 60 < int((kept < 5).sum()) < 140, "binomial(200, 1/2): beyond five sigma"
    assert set(kept.tolist()) == set(range(6))
    assert torch.equal(quantizer.eval()(features).values, quantizer.decode(quantizer.encode(features))), "in training only"


def test_usage_is_reported_for_every_scale() -> None:
    quantizer = trained(make(), 4)
    figures = quantizer.figures()
    assert set(figures) == {"codebook_usage", "codebook_perplexity", *(f"codebook_usage_{side}x{side}" for side in (1, 2, 3, 4, 6, 8))}
    assert 0 < figures["codebook_usage_1x1"] <= figures["codebook_usage"] <= 1
    assert int(quantizer.usages[0].assignments) == 4 * 8
    assert int(quantizer.usages[5].assignments) > 0
    assert quantizer.advice() is None, "too little was seen to tell"
    poor = make(balance=0.0, restart_below=0.0)
    poor.usages[3].recent[0] = poor.usages[3].window
    assert "4x4: 3%" in (poor.advice() or "")
    assert "balance: 1" in (poor.advice() or "")


def test_restored_state_continues_identically() -> None:
    first, second = trained(make()), make(seed=5)
    second.load_state_dict(first.state_dict())
    for quantizer in (first, second):
        quantizer(maps(seed=8), generator=torch.Generator().manual_seed(8))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_every_convolution_is_used_however_few_the_scales() -> None:
    for scales in ([4], [1, 4], [1, 2, 4]):
        quantizer = make(side=4, scales=scales, codebook="gradient")
        quantizer(maps(side=4)).losses["codebook"].backward()
        assert all(parameter.grad is not None for parameter in quantizer.parameters())


def test_autocast_changes_no_code() -> None:
    quantizer = trained(make()).eval()
    with torch.autocast("cpu", torch.bfloat16):
        indices, quantized = quantizer.encode(maps()), quantizer(maps())
    assert torch.equal(indices, quantizer.encode(maps()))
    assert quantized.losses["codebook"].dtype == torch.float32
    assert torch.equal(quantizer.decode(indices), quantizer(maps()).values)


# --- settings ------------------------------------------------------------------------------------------------------------------------


def test_the_layout_follows_the_grid() -> None:
    quantizer = MultiScale(codebook_size=16).on((8, 8)).build(D)
    layout = quantizer.layout((8, 8))
    assert layout == Layout((8, 8), 1, 16, schedule((8, 8)))
    assert layout.positions == 130
    assert layout.bits == 130 * 4
    with pytest.raises(ValueError, match=r"end at \(8, 8\), but the feature map's grid is \(4, 8\)"):
        quantizer.layout((4, 8))
    assert MultiScale(scales=((1, 1), (2, 3))).on((2, 3)).build(D).pyramid.scales == ((1, 1), (2, 3))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must end at the feature map's grid \(8, 8\), not at \(4, 4\)"):
        MultiScale(scales=(1, 2, 4)).on((8, 8))
    with pytest.raises(ValueError, match="rows and columns"):
        MultiScale().on((16,))
    with pytest.raises(ValueError, match="auto"):
        MultiScale().build(D)
    for wrong in [(4, 2), (2, 2), (), (0, 4)]:
        with pytest.raises(ValidationError, match="grow from coarse to fine"):
            MultiScale(scales=wrong)
    quantizer = make()
    for shape in [(2, 8, 8, D + 1), (2, 4, 8, D), (8, 8, D)]:
        with pytest.raises(ValueError, match=r"must be \(batch, 8, 8, 6\)"):
            quantizer(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"code indices must lie in \[0, 32\)"):
        quantizer.decode(torch.full((1, 130, 1), 32))
    broken = maps()
    broken[0, 0, 0, 0] = math.nan
    with pytest.raises(NonFiniteVectors):
        quantizer(broken)
