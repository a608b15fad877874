"""PatchGAN: what a patch sees."""

import pytest
import torch

from jielong.networks.discriminator import PatchDiscriminator


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_receptive_field(layers: int, field: int) -> None:
    """The gradient of one logit reaches exactly a square of that many pixels."""
    network = PatchDiscriminator(3, channels=4, layers=layers, norm="none").double()
    for parameter in network.parameters():  # positive weights: no gradient cancels, no unit is dead
        torch.nn.init.uniform_(parameter, 0.1, 1.0, generator=torch.Generator().manual_seed(0))
    images = torch.rand(1, 3, 160, 160, dtype=torch.float64, requires_grad=True)
    logits = network(images)
    middle = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], images)
    rows = gradient[0].abs().sum(dim=(0, 2)).nonzero().flatten()
    columns = gradient[0].abs().sum(dim=(0, 1)).nonzero().flatten()
    assert network.receptive_field == field
    for reached in (rows, columns):
        assert len(reached) == field
        assert reached[-1] - reached[0] == field - 1


def test_size_of_the_map() -> None:
    assert PatchDiscriminator(channels=4)(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)


def test_published_size() -> None:
    """The 70x70 PatchGAN of pix2pix and VQGAN has 2,765,633 parameters."""
    assert sum(parameter.numel() for parameter in PatchDiscriminator(norm="batch").parameters()) == 2_765_633


def test_group_norm_judges_every_picture_alone() -> None:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    group, batch = (PatchDiscriminator(channels=8, layers=2, norm=norm) for norm in ("group", "batch"))
    torch.testing.assert_close(group(images)[:1], group(images[:1]), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(batch(images)[:1], batch(images[:1]), atol=1e-3)


def test_small_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer layers"):
        PatchDiscriminator(layers=3)(torch.zeros(1, 3, 16, 16))
    assert PatchDiscriminator(layers=3)(torch.zeros(1, 3, 24, 24)).numel() == 1
