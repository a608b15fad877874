"""The gradient difference loss in closed form, and in the training of a tokenizer."""

import pytest
import torch
from gradient_difference import GradientDifference, GradientDifferenceLoss

from jielong.config import recipe
from jielong.losses.base import LossContext, LossTerms
from jielong.media.kinds.audio import audio_medium
from jielong.media.kinds.image import image_medium


def ramp(slope: float) -> torch.Tensor:
    """Images ``(1, 1, 4, 4)`` that rise by ``slope`` from column to column."""
    return (slope * torch.arange(4.0)).expand(1, 1, 4, 4)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_ramps_differ_by_their_slopes(alpha: float):
    loss = GradientDifferenceLoss(GradientDifference(alpha=alpha, weight=3.0))
    assert float(loss(ramp(0.1), ramp(0.3))) == pytest.approx(3 * 0.2**alpha)
    assert float(loss(ramp(-0.3), ramp(0.3))) == pytest.approx(0, abs=1e-6)  # only the steepness counts
    assert float(loss(ramp(0.3) - 0.5, ramp(0.3))) == pytest.approx(0, abs=1e-6)  # and not the brightness


def test_rows_count_as_columns_do_and_blur_costs():
    loss, image = GradientDifferenceLoss(GradientDifference()), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
    torch.testing.assert_close(loss(image.mT, blurred.mT), loss(image, blurred))
    assert loss(blurred, image) > 0.5 > loss(image, image) == 0


def test_a_recipe_names_it_and_training_adds_it():
    chosen = recipe.load("vqgan-tiny", ["losses.gradient_difference.alpha=2", "losses.gradient_difference.start_samples=100"])
    terms = LossTerms.of(chosen.losses, LossContext(image_medium(3, (16, 16))))
    assert terms.reconstruction["gradient_difference"].alpha == 2
    assert terms.start_samples["gradient_difference"] == 100
    with pytest.raises(ValueError, match="the loss gradient_difference compares media with the axes"):
        LossTerms.of(chosen.losses[-1:], LossContext(audio_medium(1, 80, 8_000)))
