"""A sampler chosen for a draw, among those that the head has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jielong.config.recipe import parse
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import Head
from jielong.heads.consistency import Consistency
from jielong.heads.diffusion import Diffusion, DiffusionHead
from jielong.heads.flow_matching import FlowMatching, FlowMatchingHead
from jielong.heads.mean_flow import MeanFlow
from jielong.heads.softmax import Softmax
from jielong.media.kinds.image import image_medium
from jielong.networks.denoiser import MLP
from jielong.system import build_generator
from jielong.tokenizers.kl import KL

NUMBERS, CODES = Layout((4,), channels=3), Layout((4,), channels=1, vocabulary=5)
CHOICES = [(Diffusion, name) for name in DiffusionHead.samplers] + [(FlowMatching, name) for name in FlowMatchingHead.samplers]


def head_of(settings: type[Any], **values: object) -> Head:
    torch.manual_seed(0)
    head: Head = settings.model_validate({"network": MLP(layers=1, width=8), "steps": 6, **values}).build(8, NUMBERS)
    for weights in head.parameters():
        weights.data += 0.2 * torch.randn_like(weights)
    return head.eval()


def drawn(head: Head, **sampling: object) -> torch.Tensor:
    hidden = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return head.sample(hidden, PerSampleRNG(2, range(2)), SamplingConfig().override(**sampling)).values


def test_the_lists_are_those_of_the_settings() -> None:
    assert DiffusionHead.samplers == ("ddpm", "ddim", "euler", "heun", "dpmpp_2m", "unipc", "edm")
    assert FlowMatchingHead.samplers == ("euler", "midpoint", "heun", "sde", "dpmpp_2m", "unipc")


@pytest.mark.parametrize(("settings", "name"), CHOICES)
def test_a_chosen_sampler_draws_as_a_head_with_that_setting(settings: type[Any], name: str) -> None:
    expected = drawn(head_of(settings, sampler=name))
    others = [other for kind, other in CHOICES if kind is settings and other != name]
    for other in others:
        head = head_of(settings, sampler=other)
        assert torch.equal(drawn(head, sampler=name), expected)
        assert not torch.equal(drawn(head), expected)


def test_a_sampler_that_the_head_has_not_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(ValueError, match="sampler 'sde': the DiffusionHead has the samplers ddpm, ddim, euler, heun, dpmpp_2m, unipc, edm"):
        drawn(head_of(Diffusion), sampler="sde")
    with pytest.raises(
        ValueError, match="sampler 'ddim': the FlowMatchingHead has the samplers euler, midpoint, heun, sde, dpmpp_2m, unipc"
    ):
        drawn(head_of(FlowMatching), sampler="ddim")
    for head in (head_of(Consistency), head_of(MeanFlow), Softmax().build(8, CODES)):
        with pytest.raises(ValueError, match="has one way to draw and no choice of sampler: leave it out"):
            head.check_sampling(SamplingConfig(sampler="euler"))


def test_temperature_is_judged_by_the_chosen_sampler() -> None:
    drawn(head_of(Diffusion, sampler="ddim"), sampler="ddpm", temperature=0.9)
    with pytest.raises(ValueError, match="the sampler ddim adds none"):
        drawn(head_of(Diffusion), sampler="ddim", temperature=0.9)


def test_a_recipe_may_choose_and_is_refused_when_it_is_built() -> None:
    text = "data: {size: 8}\ntokenizer: {pixels: {}}\norder: {masked: {choose: random}}\n"
    text += "backbone: {transformer: {layers: 1, width: 8, heads: 2}}\n"
    recipe = parse(text + "head: {flow_matching: {steps: 2}}\nsampling: {sampler: ddim}\ntrain: {samples: 8}\n")
    with pytest.raises(ValueError, match="has the samplers euler"):
        build_generator(recipe, KL().build(image_medium(3, (8, 8)), {}), ())
