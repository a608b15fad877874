from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from jielong.config.recipe import parse
from jielong.config.registry import RecipeError
from jielong.config.sampling import SamplingConfig
from jielong.config.schema import Recipe
from jielong.media.kinds.image import image_medium
from jielong.system import System, build_generator, build_tokenizer, checkpoint, describe, load
from jielong.training.checkpoint import CheckpointError, save_checkpoint

MEDIA = image_medium(3, (8, 8))
CLASSES = ["cat", "dog", "bird"]
VQ = """\
data: {size: 8}
tokenizer:
  vq:
    autoencoder: {convolutional: {patch: 4, channels: [8], blocks: [1]}}
    dim: 4
    quantizer: {vector: {codebook_size: 16, kmeans_iterations: 0}}
losses: regression
train: {samples: 8}
"""
GENERATOR = """\
data: {{size: 8}}
tokenizer: {tokenizer}
{condition}
order: {order}
backbone: {{transformer: {{layers: 1, width: 16, heads: 2}}}}
head: softmax
sampling: {{guidance: {{scale: 2.0, kind: linear}}, top_k: 9}}
train: {{samples: 8}}
"""


def write(folder: Path, recipe: Recipe, seed: int = 0) -> System:
    """Save a model with random weights as training would, and return what was saved."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(recipe, MEDIA).eval()
    generator = build_generator(recipe, tokenizer, CLASSES).eval() if recipe.trains_generator else None
    model = generator if generator is not None else tokenizer
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    save_checkpoint(folder, model, recipe.to_yaml())
    (folder / checkpoint.DESCRIPTION).write_text(json.dumps(describe(MEDIA, CLASSES, tokenizer, generator)))
    return System(str(folder), recipe, tokenizer, generator)


@pytest.fixture
def vq(tmp_path: Path) -> System:
    return write(tmp_path / "vq", parse(VQ))


def generator_recipe(tokenizer: str, order: str = "masked", condition: str = "condition: {text: {encoder: bytes, width: 8}}") -> Recipe:
    return parse(GENERATOR.format(tokenizer=tokenizer, order=order, condition=condition))


@pytest.fixture(params=["masked", "raster"])
def generator_system(request: pytest.FixtureRequest, vq: System, tmp_path: Path) -> System:
    return write(tmp_path / "gen", generator_recipe(f"{{checkpoint: {vq.name}}}", request.param))


def pictures() -> torch.Tensor:
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_tokenizer_comes_back_the_same(vq: System) -> None:
    back = load(vq.name)
    assert back.recipe == vq.recipe
    assert back.generator is None
    tokens = back.encode(pictures())
    assert torch.equal(tokens.values, vq.encode(pictures()).values)
    assert torch.equal(back.decode(tokens), vq.decode(tokens))
    assert not any(parameter.requires_grad for parameter in back.tokenizer.parameters())


def test_saved_generator_samples_the_same(generator_system: System) -> None:
    back = load(generator_system.name)
    for seed in (0, 1):
        before = generator_system.generate(text=["a cat", "a dog"], seed=seed)
        after = back.generate(text=["a cat", "a dog"], seed=seed)
        assert torch.equal(before.tensor, after.tensor)
    assert after.tensor.shape == (2, 3, 8, 8)
    assert [picture.caption for picture in after] == ["a cat", "a dog"]
    assert not torch.equal(before.tensor, generator_system.generate(text=["a cat", "a dog"], seed=0).tensor)


def test_bf16_weights_come_back_rounded_and_codebooks_whole(vq: System, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "small", vq.tokenizer, vq.recipe.to_yaml(), dtype="bf16")
    shutil.copy(Path(vq.name) / checkpoint.DESCRIPTION, tmp_path / "small")
    back = load(str(tmp_path / "small")).tokenizer
    for name, parameter in vq.tokenizer.named_parameters():
        assert torch.equal(dict(back.named_parameters())[name], parameter.bfloat16().float())
    assert torch.equal(back.quantizer.codebook, vq.tokenizer.quantizer.codebook)  # type: ignore[union-attr]


def test_sampling_settings_are_the_recipes_by_default(generator_system: System) -> None:
    seen: list[SamplingConfig] = []

    def spy(*arguments: object, sampling: SamplingConfig, **options: object) -> object:
        seen.append(sampling.override(**{name: value for name, value in options.items() if name in SamplingConfig.model_fields}))
        return original(*arguments, sampling=sampling, **options)  # type: ignore[arg-type]

    assert generator_system.generator is not None
    original = generator_system.generator.generate
    generator_system.generator.generate = spy  # type: ignore[method-assign, assignment]
    generator_system.generate(text="a cat")
    assert seen[-1] == generator_system.recipe.sampling
    assert seen[-1].top_k == 9
    generator_system.generate(text="a cat", guidance=3.0, temperature=0.5, top_k=0, top_p=0.9)
    assert seen[-1] == generator_system.recipe.sampling.override(guidance=3.0, temperature=0.5, top_k=0, top_p=0.9)
    generator_system.generate(count=2)  # without a condition there is nothing to follow
    assert seen[-1] == generator_system.recipe.sampling.override(guidance=1.0)
    whole = SamplingConfig(temperature=0.0)
    generator_system.generate(text="a cat", sampling=whole, top_k=None)
    assert seen[-1] == whole
    with pytest.raises(ValueError, match="no argument 'tempratur': did you mean 'temperature'"):
        generator_system.generate(text="a cat", tempratur=0.5)


def test_count_is_pictures_a_caption(generator_system: System) -> None:
    drawn = generator_system.generate(text=["a", "b"], count=3)
    assert [picture.caption for picture in drawn] == ["a"] * 3 + ["b"] * 3
    assert len(generator_system.generate(text="a")) == 1
    assert len(generator_system.generate(count=4)) == 4


def test_classes_and_no_condition(vq: System, tmp_path: Path) -> None:
    by_class = write(tmp_path / "class", generator_recipe("pixels", condition="condition: {class: {width: 8}}"))
    back = load(by_class.name)
    assert back.inputs == ("class",)
    one, other = back.generate(classes=["dog", 2]), by_class.generate(classes=[1, "bird"])
    assert torch.equal(one.tensor, other.tensor), "the names were kept with the checkpoint"
    free = write(tmp_path / "free", generator_recipe(f"{{checkpoint: {vq.name}}}", condition=""))
    assert len(load(free.name).generate(count=2)) == 2
    for arguments, words in [
        ({"text": "a"}, "was trained without a condition and takes no `text`"),
        ({"classes": 1}, "without a condition and takes no `classes`"),
    ]:
        with pytest.raises(ValueError, match=words):
            free.generate(**arguments)
    with pytest.raises(ValueError, match="takes `classes`, not `text`"):
        by_class.generate(text="a cat")
    with pytest.raises(ValueError, match="is a tokenizer; to generate, load a generator"):
        vq.generate(count=1)


def test_another_tokenizer_than_the_one_it_was_trained_on_is_refused(generator_system: System, vq: System) -> None:
    write(Path(vq.name), vq.recipe, seed=1)
    with pytest.raises(CheckpointError, match="was trained on the tokens of another tokenizer"):
        load(generator_system.name)


def test_a_tokenizer_kept_beside_the_generator_is_taken(generator_system: System, vq: System, tmp_path: Path) -> None:
    expected = generator_system.generate(text="a").tensor
    shutil.copytree(vq.name, Path(generator_system.name) / "stages/tokenizer")
    shutil.rmtree(vq.name)
    assert torch.equal(load(generator_system.name).generate(text="a").tensor, expected)
    shutil.rmtree(Path(generator_system.name) / "stages/tokenizer")
    with pytest.raises(CheckpointError, match="there is no model called"):
        load(generator_system.name)


def test_a_tokenizer_of_another_picture_size_is_refused(vq: System) -> None:
    with pytest.raises(ValueError, match=r"was trained on .* change `data` to fit"):
        build_tokenizer(generator_recipe(f"{{checkpoint: {vq.name}}}"), image_medium(3, (16, 16)))


def test_what_is_not_a_checkpoint_is_refused(vq: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "zoo", lambda: {"vq-emoji": Path(vq.name)})
    assert load("vq-emoji").recipe == vq.recipe
    with pytest.raises(CheckpointError, match=r"no model called 'vq-emojy' and no such folder; did you mean 'vq-emoji'\?"):
        load("vq-emojy")
    for name in ("recipe.yaml", "model.json", "model.safetensors"):
        broken = shutil.copytree(vq.name, tmp_path / f"without {name}")
        (broken / name).unlink()
        with pytest.raises(CheckpointError, match=f"is not a finished checkpoint: it has no {name}"):
            load(str(broken))
    damaged = shutil.copytree(vq.name, tmp_path / "damaged")
    weights = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="is truncated"):
        load(str(damaged))
    torch.save({"a": torch.zeros(1)}, damaged / "model.safetensors")
    with pytest.raises(CheckpointError, match="is a pickle"):
        load(str(damaged))
    for text in ("", "{", "[]", '{"media": {}}'):
        (damaged / "model.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"model\.json is damaged"):
            load(str(damaged))
    (damaged / "recipe.yaml").write_text("tokenizer: vqq\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml, line 1: .*no tokenizer called 'vqq'"):
        load(str(damaged))


def test_weights_of_another_recipe_are_refused(vq: System) -> None:
    text = (Path(vq.name) / "recipe.yaml").read_text()
    (Path(vq.name) / "recipe.yaml").write_text(text.replace("codebook_size: 16", "codebook_size: 32"))
    with pytest.raises(CheckpointError, match="the recipe beside it describes another model"):
        load(vq.name)
