"""Super-resolution in a cascade: what it is told of the earlier stage's picture, in training and in sampling, and the noise on it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from cascades import noise_pictures, train_stages
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.conditions.low_resolution import LowResolution, LowResolutionCondition, LowResolutionSettings
from jielong.config.recipe import parse
from jielong.config.registry import RecipeError
from jielong.core.rng import Draws, PerSampleRNG, seed_of
from jielong.data.source import DataError
from jielong.generation.generator import Generator
from jielong.media.kinds.base import kind_of
from jielong.system import System, load
from jielong.system.completing import completion
from jielong.system.editing import Edit, EditSettings
from jielong.training import experiment

NETWORK = "{unet: {channels: [4, 8], blocks: 1, head_width: 4, groups: 2, condition: cross}}"
REST = f"""\
tokenizer: {{patches: {{patch: 1, std: 1.0}}}}
order: at_once
backbone: {{none: {{width: 8}}}}
head: {{diffusion: {{network: {NETWORK}, prediction: v, variance: fixed, clip: 1.0, dynamic_thresholding_ratio: 0.9, steps: 3}}}}
sampling: {{guidance: {{scale: 2.0}}}}
train: {{samples: 8, batch: 4, warmup: 4, sample_every: 8, save_every: 8, precision: fp32}}
"""
TEXT = "{encoder: bytes, length: 8, width: 8}"
BASE = f"data: {{size: 4}}\ncondition: {{text: {TEXT}}}\n{REST}"
PARTS = f"{{text: {TEXT}, low_resolution: {{stage: base, width: 8, noise_level: 0.25, cfg_dropout: 0}}}}"
SUPER = f"data: {{size: 8}}\ncondition: {{composite: {{parts: {PARTS}, width: 8, cfg_dropout: 0}}}}\n{REST}"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Larger than both stages and of detail that no resampling keeps, so that two ways to a size differ."""
    return noise_pictures(tmp_path_factory.mktemp("pictures"), 20)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> tuple[Path, Path]:
    """Two steps of the base, and of the super-resolution over it."""
    root = tmp_path_factory.mktemp("runs")
    train_stages(root, {"base": BASE, "super": SUPER + f"stages: {{base: {root / 'base'}}}\n"}, pictures)
    return root / "base", root / "super"


@pytest.fixture
def system(trained: tuple[Path, Path]) -> System:
    """The cascade, with weights large enough that everything matters."""
    loaded = load(str(trained[1]), "cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in loaded.generator.parameters() if loaded.generator else ():
            parameter += 0.1 * torch.randn(parameter.shape)
    return loaded


def condition_of(system: System) -> LowResolutionCondition:
    """The condition on the base's picture."""
    assert isinstance(system.generator, Generator)
    assert system.generator.condition is not None
    found = system.generator.condition.get_submodule("parts.low_resolution")
    assert isinstance(found, LowResolutionCondition)
    return found


def seen_by(condition: LowResolutionCondition, monkeypatch: pytest.MonkeyPatch) -> list[LowResolution]:
    """What goes into the condition's noise, from now on."""
    seen, noised = list[LowResolution](), condition.noised

    def spy(prepared: LowResolution, draws: Draws) -> LowResolution:
        seen.append(prepared)
        return noised(prepared, draws)

    monkeypatch.setattr(condition, "noised", spy)
    return seen


def test_training_reads_the_pictures_that_the_base_is_trained_on(trained: tuple[Path, Path], pictures: Path) -> None:
    base = experiment.prepare(parse(BASE), str(pictures))
    large = experiment.prepare(parse(SUPER + f"stages: {{base: {trained[0]}}}\n"), str(pictures))
    assert large.generator is not None
    assert large.generator.condition is not None
    large.generator.condition.precompute(large.data, large.heldout)
    condition = large.generator.condition.get_submodule("parts.low_resolution")
    assert isinstance(condition, LowResolutionCondition)
    for small, data in ((base.data, large.data), (base.heldout, large.heldout)):
        assert small.keys == data.keys
        found = condition.prepare(data.keys)
        assert torch.equal(found.pictures, small.media(range(len(small))))
        assert not found.levels.any()
    # Media of an evaluation come at the size of this stage; resampling twice is another picture, but no other one than of a file of it.
    again = condition.prepare(list(large.heldout.media(range(3)))).pictures
    assert 0 < (again - base.heldout.media(range(3))).abs().mean() < 0.2


def test_generation_reads_what_the_base_has_drawn(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = seen_by(condition_of(system), monkeypatch)
    assert system.inputs == ("text",)
    drawn = system.generate(text=["red", "blue"], count=2, seed=7)
    base = system.stages["base"]
    promised = base.decode(base.generate_tokens(["red", "red", "blue", "blue"], seed=seed_of(7, "stage", "base")))
    assert len(seen) == 2, "with and without text"
    for each in seen:
        assert torch.equal(each.pictures, promised)
    # The same pictures given: tensors of the base's size are taken as they are, and files of 8 bits are near.
    given = system.generate(text=["red", "red", "blue", "blue"], low_resolution=list(promised), seed=7)
    torch.testing.assert_close(given.tensor, drawn.tensor)


def test_a_picture_from_a_file_is_enlarged(system: System, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pictures / "heldout" / "1.png"
    seen = seen_by(condition_of(system), monkeypatch)
    from_file = system.generate(low_resolution=path, seed=3).tensor
    with Image.open(path) as image:
        from_image = system.generate(low_resolution=image.copy(), seed=3).tensor
    assert torch.equal(from_file, from_image)
    assert torch.equal(seen[0].pictures, system.stages["base"].tokenizer.decode(system.stages["base"].encode(
        experiment.prepare(parse(BASE), str(pictures)).heldout.media([1]))))  # fmt: skip
    assert not torch.equal(from_file, system.generate(low_resolution=pictures / "heldout" / "2.png", seed=3).tensor)
    with pytest.raises(ValueError, match="there is no picture"):
        system.generate(low_resolution="nothing.png")


def test_one_seed_decides_all_at_any_batch_size(system: System) -> None:
    texts = ["red", "blue", "a cat", "x"]
    together = system.generate(text=texts, seed=5).tensor
    for batch in (1, 3):
        torch.testing.assert_close(system.generate(text=texts, seed=5, batch=batch).tensor, together, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(system.generate(text=texts, seed=6).tensor, together, atol=1e-2)


def test_guidance_keeps_the_picture_and_its_noise(system: System) -> None:
    assert system.generator is not None
    condition = system.generator.condition
    assert condition is not None
    values = [{"text": "red", "low_resolution": torch.rand(3, 4, 4)}, {"text": "blue", "low_resolution": torch.rand(3, 4, 4)}]
    rng = PerSampleRNG(1, range(2))
    given = condition(condition.noised(condition.prepare(values), rng.draws("condition")))
    null = condition.compared(values, rng.draws("condition"))
    assert given.positions is not None
    assert null.positions is not None
    torch.testing.assert_close(null.positions, given.positions)
    assert not torch.allclose(null.pooled, given.pooled)


def test_an_item_without_a_negative_text_keeps_its_picture_beside_one_with_one(system: System) -> None:
    values = [{"text": "red", "low_resolution": torch.rand(3, 4, 4)}, {"text": "blue", "low_resolution": torch.rand(3, 4, 4)}]
    negatives = [None, {**values[1], "text": "a long negative text"}]
    mixed = system.generate_tokens(values, seed=1, guidance=3.0, negatives=negatives).values
    for place, negative in enumerate(negatives):
        alone = system.generate_tokens(
            [values[place]], seed=1, guidance=3.0, negatives=None if negative is None else [negative], indices=[place]
        )
        torch.testing.assert_close(mixed[place], alone.values[0], rtol=1e-4, atol=1e-4)


def test_an_edit_shows_the_base_the_picture_as_its_training_pictures_are_reduced(system: System, pictures: Path) -> None:
    base = system.stages["base"]
    with Image.open(pictures / "heldout" / "1.png") as image:
        options = Edit.of(system, image.copy(), EditSettings(region=(0, 0, 10, 10)), names_change=True)
    promised = base.encode(kind_of(base.tokenizer.media).fitted(options.picture[None], base.tokenizer.media))
    assert torch.equal(options.kept()["stage_options"]["base"]["start"].values, promised.values)
    assert torch.equal(completion(system, options.picture, "left")["stage_options"]["base"]["start"].values, promised.values)


def test_a_trace_says_which_stage_it_shows(trained: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["generate", str(trained[1]), "--text", "red", "--out", str(tmp_path / "out"), "--device", "cpu"]
    for more, says in (([], False), (["--trace"], True)):
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == 0, done.output
        assert ("records the last stage of the cascade; base before it is drawn" in " ".join(done.stderr.split())) is says


def toy(system: System, **settings: Any) -> LowResolutionCondition:
    """The condition with other settings on the same tokenizers."""
    torch.manual_seed(0)
    return LowResolutionCondition(system.stages["base"].tokenizer, system.tokenizer, LowResolutionSettings(stage="base", **settings))


def test_levels_are_uniform_in_training_and_fixed_in_sampling(system: System) -> None:
    condition, count = toy(system, noise_level=0.3), 4000
    clean = LowResolution(torch.full((count, 3, 4, 4), 0.5), torch.zeros(count))
    draws = lambda: PerSampleRNG(0, range(count)).draws("condition")  # noqa: E731
    noisy = condition.train().noised(clean, draws())
    steps = (torch.arange(count) + 0.5) / count
    assert float((noisy.levels.sort().values - steps).abs().max()) < 2.2 / math.sqrt(count)  # Kolmogorov-Smirnov, false alarm below 2e-4
    angles = noisy.levels * math.pi / 2
    noise = (noisy.pictures - angles.cos()[:, None, None, None] * 0.5) / angles.sin()[:, None, None, None]
    late = noise[noisy.levels > 0.1]
    assert abs(float(late.mean())) < 6 / math.sqrt(late.numel())
    assert abs(float(late.square().mean()) - 1) < 6 * math.sqrt(2 / late.numel())
    assert torch.equal(condition.noised(clean, draws()).pictures, noisy.pictures)
    alone = condition.noised(LowResolution(clean.pictures[:1], clean.levels[:1]), PerSampleRNG(0, [17]).draws("condition"))
    torch.testing.assert_close(alone.pictures[0], noisy.pictures[17])
    sampled = condition.eval().noised(clean, draws())
    assert torch.equal(sampled.levels, torch.full((count,), 0.3))
    assert not torch.equal(sampled.pictures[0], sampled.pictures[1])


def test_no_level_is_no_noise_and_the_network_is_told_the_level(system: System) -> None:
    clean = LowResolution(torch.rand(2, 3, 4, 4), torch.zeros(2))
    draws = PerSampleRNG(0, range(2)).draws("condition")
    for still in (toy(system, noise_level=0.0).eval(), toy(system, noise_level=None).train()):
        assert torch.equal(still.noised(clean, draws).pictures, clean.pictures)
    condition = toy(system).eval()
    low, high = (condition.embed(LowResolution(clean.pictures, torch.full((2,), level))) for level in (0.0, 0.4))
    assert low.positions is not None
    assert high.positions is not None
    assert torch.equal(low.positions, high.positions)
    assert not torch.allclose(low.pooled, high.pooled)


def test_a_pixel_reaches_the_tokens_around_it(system: System) -> None:
    """A low-resolution pixel of 2 x 2 is spread over 4 x 4 by the bilinear filter, and over 6 x 6 by the convolution."""
    condition = toy(system).double()
    picture = torch.rand(1, 3, 4, 4).double().requires_grad_()
    positions = condition.embed(LowResolution(picture, torch.zeros(1))).positions
    assert positions is not None
    reached = torch.zeros(8, 8, dtype=torch.bool)
    for place in range(64):
        (gradient,) = torch.autograd.grad(positions[0, place].sum(), picture, retain_graph=True)
        reached.view(-1)[place] = bool(gradient[0, :, 1, 1].any())
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[0:6, 0:6] = True
    assert torch.equal(reached, expected)


def test_what_does_not_fit_is_refused(trained: tuple[Path, Path], pictures: Path, tmp_path: Path) -> None:
    stages = f"stages: {{base: {trained[0]}}}\n"
    flipped = parse(SUPER.replace("{size: 8}", "{size: 8, augment: {flip: true}}") + stages)
    with pytest.raises(DataError, match=r"data\.augment changes pictures, but the condition reads tokens of them as they are"):
        experiment.run(flipped, tmp_path / "run", data=str(pictures), device="cpu", progress=False)
    with pytest.raises(RecipeError, match="noise_level: Input should be less than or equal to 1"):
        parse(SUPER.replace("0.25", "2.5") + stages)
    flat = parse(SUPER.replace("{patches: {patch: 1, std: 1.0}}", "{pixels: {levels: 4, flatten: true}}") + stages)
    with pytest.raises(ValueError, match=r"adds a picture to a grid of rows and columns, but these tokens have .*channels"):
        experiment.prepare(flat, str(pictures))


def test_the_zeros_of_a_dry_call_are_no_run_of_the_base(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(System, "generate_tokens", None)
    assert system.check(text=["red", "blue"], count=2) == 4


def test_low_resolution_pictures_are_a_part_of_the_gradient(system: System) -> None:
    """The loss of the super-resolution depends on the picture of the base."""
    model = system.generator
    assert model is not None
    assert model.condition is not None
    model.train()
    tokens = system.encode(torch.rand(2, 3, 8, 8))
    losses = list[Tensor]()
    for shift in (0.0, 0.5):
        values = [{"text": "red", "low_resolution": torch.full((3, 4, 4), shift)}] * 2
        losses.append(model.loss(tokens, model.condition.prepare(values), PerSampleRNG(0, range(2))))
    assert not torch.equal(losses[0], losses[1])
