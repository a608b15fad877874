"""EfficientNet-Lite against the published weights and the public class."""

from pathlib import Path

import pytest
import torch

from jielong.networks.efficientnet import SOURCES, EfficientNetLite, WeightsError, read_weights, weights_path

VARIANTS = ["lite0", "lite2"]
for _variant in VARIANTS:
    pytest.importorskip(SOURCES[_variant].module)


@pytest.fixture(scope="module", params=VARIANTS)
def network(request: pytest.FixtureRequest) -> EfficientNetLite:
    return EfficientNetLite(request.param)


def test_every_published_tensor_is_used_once(network: EfficientNetLite) -> None:
    published = torch.load(weights_path(network.variant), weights_only=True)
    ours = read_weights(network.variant)  # the constructor loads these strictly
    assert len(ours) == len(published)
    assert sum(tensor.numel() for tensor in ours.values()) == sum(tensor.numel() for tensor in published.values())


@pytest.mark.parametrize("size", [64, 101])
def test_equals_the_public_class(network: EfficientNetLite, size: int) -> None:
    public = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install --no-deps efficientnet-lite-pytorch")
    # The public class fixes its padding for one picture size when it is made.
    theirs = public.EfficientNet.from_name(f"efficientnet-{network.variant}", image_size=size)
    theirs.load_state_dict(torch.load(weights_path(network.variant), weights_only=True))
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(network.logits(images), theirs.eval()(network.normalise(images)), atol=1e-4, rtol=1e-4)


def test_normalisation_is_what_the_weights_recorded() -> None:
    """The variance after the first convolution, on a photograph, is near the one recorded in training (ImageNet's constants: x 5)."""
    datasets = pytest.importorskip("sklearn.datasets")
    network = EfficientNetLite("lite0")
    norm = read_weights("lite0")
    kernel, recorded = norm["stem.conv.weight"], norm["stem.norm.running_var"]
    photo = torch.from_numpy(datasets.load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    response = torch.nn.functional.conv2d(network.normalise(photo), kernel, stride=2)
    ratio = (response.var(dim=(0, 2, 3)) / recorded).log().median().exp().item()
    assert 0.6 < ratio < 1.7


def test_stages_halve_and_are_shared_with_the_whole(network: EfficientNetLite) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = network(images)
    assert [stage.shape[-1] for stage in features.stages] == [32, 16, 8, 4, 4, 2, 2]
    assert features.pooled.shape == (2, 1280)
    for some, every in zip(network.features(images, 3), features.stages, strict=False):
        assert torch.equal(some, every)
    grey = images[:, :1]
    assert torch.equal(network(grey).pooled, network(grey.repeat(1, 3, 1, 1)).pooled)


def test_is_a_constant(network: EfficientNetLite) -> None:
    parent = torch.nn.Sequential(network)
    parent.train()
    assert not any(module.training for module in network.modules())
    assert not list(parent.parameters())
    assert not parent.state_dict()
    images = torch.zeros(1, 3, 64, 64, requires_grad=True)
    network(images).pooled.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_other_weights_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "weights.pth"
    broken.write_bytes(weights_path("lite0").read_bytes()[:-1])
    with pytest.raises(WeightsError, match="SHA-256"):
        EfficientNetLite("lite0", broken)
    with pytest.raises(WeightsError, match="pip install"):
        EfficientNetLite("lite0", tmp_path / "absent.pth")


def test_wrong_shape_is_refused(network: EfficientNetLite) -> None:
    with pytest.raises(ValueError, match="1 or 3"):
        network(torch.zeros(1, 4, 32, 32))
