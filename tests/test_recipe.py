from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from jielong.autoencoders.convolutional import Convolutional
from jielong.config.recipe import built_in, load, parse, upgraded
from jielong.config.registry import RecipeError
from jielong.config.schema import Recipe, Trained
from jielong.orders.masked import Masked
from jielong.quantizers.finite_scalar import FiniteScalar
from jielong.quantizers.vector import Vector
from jielong.tokenizers.vq import VQ

TOKENIZER = """\
tokenizer: {vq: {dim: 8}}
losses:
  regression: {kind: l2}
train: {samples: 1000}
"""
VECTOR = TOKENIZER.replace(
    "{vq: {dim: 8}}",
    """
  vq:
    autoencoder: {convolutional: {patch: 2}}
    quantizer: {vector: {codebook_size: 9}}""",
)
GENERATOR = """\
data: {set: emoji, size: 32}
tokenizer: {checkpoint: vq-emoji}
condition: {text: {encoder: bytes}}
order:
  masked:
    steps: 4
    choose: random
backbone: {transformer: {layers: 2, width: 32, heads: 2}}
head: softmax
sampling: {temperature: 0.9, guidance: {scale: 3, kind: linear}}
train: {samples: 1000, batch: 8}
"""


def refused(text: str, *overrides: str, origin: str = "mine.yaml") -> str:
    with pytest.raises(RecipeError) as caught:
        parse(text, origin, overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", built_in())
def test_every_built_in_recipe_equals_itself_after_writing_and_reading(name: str) -> None:
    recipe = load(name)
    assert parse(recipe.to_yaml()) == recipe
    assert recipe.trains_generator == (recipe.head is not None)


def test_an_override_of_a_trained_tokenizer_keeps_its_other_keys() -> None:
    text = GENERATOR.replace("checkpoint: vq-emoji", "checkpoint: vq-emoji, num_codebooks: 3")
    assert parse(text, "mine.yaml", ["tokenizer.checkpoint=mine"]).tokenizer == Trained(checkpoint="mine", num_codebooks=3)
    assert parse(GENERATOR, "mine.yaml", ["tokenizer.num_codebooks=2"]).tokenizer == Trained(checkpoint="vq-emoji", num_codebooks=2)
    assert parse(text, "mine.yaml", ["tokenizer=pixels"]).tokenizer.name == "pixels"  # type: ignore[union-attr]


def test_a_recipe_holds_what_was_written_and_every_default() -> None:
    recipe = parse(GENERATOR)
    assert recipe.tokenizer == Trained(checkpoint="vq-emoji")
    assert recipe.order == Masked(steps=4, choose="random")
    assert (recipe.sampling.guidance.kind, recipe.sampling.guidance.at(0.5)) == ("linear", 2.0)
    assert recipe.train.lr == 3e-4
    text = recipe.to_yaml()
    assert "label_smoothing: 0.0" in text  # a default that nobody wrote
    assert "losses" not in text
    assert parse(text) == recipe
    assert parse(text).to_yaml() == text
    tokenizer = parse(TOKENIZER)
    assert "extends" not in tokenizer.to_yaml()
    assert parse(tokenizer.to_yaml()) == tokenizer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GENERATOR.replace("steps: 4", "stps: 4"), "mine.yaml, line 6: unknown key 'order.masked.stps'; did you mean 'steps'?"),
        (
            GENERATOR.replace("checkpoint: vq-emoji", "checkpoint: vq-emoji, num_codebook: 2"),
            "mine.yaml, line 2: unknown key 'tokenizer.num_codebook'; did you mean 'num_codebooks'?",
        ),
        (GENERATOR.replace("batch: 8", "batsh: 8"), "mine.yaml, line 11: unknown key 'train.batsh'; did you mean 'batch'?"),
        (GENERATOR.replace("scale: 3", "scal: 3"), "mine.yaml, line 10: unknown key 'sampling.guidance.scal'; did you mean 'scale'?"),
        (GENERATOR.replace("condition:", "conditoin:"), "mine.yaml, line 3: unknown key 'conditoin'; did you mean 'condition'?"),
        (TOKENIZER.replace("kind", "kinnd"), "mine.yaml, line 3: unknown key 'losses.regression.kinnd'; did you mean 'kind'?"),
        (
            VECTOR.replace("codebook_size", "codebok_size"),
            "line 4: unknown key 'tokenizer.vq.quantizer.vector.codebok_size'; did you mean 'codebook_size'?",
        ),
        (VECTOR.replace("vector:", "vectro:"), "line 4: tokenizer.vq.quantizer: there is no quantizer called 'vectro'; did you mean 'vec"),
        (VECTOR.replace("size: 9", "size: 1"), "line 4: tokenizer.vq.quantizer.vector.codebook_size: Input should be greater"),
        (
            VECTOR.replace("{vector: {codebook_size: 9}}", "{codebook_size: 9, decay: 0.9}"),
            "line 4: tokenizer.vq.quantizer: quantizer must be one name",
        ),
        (VECTOR.replace("quantizer:", "quantiser:"), "line 4: unknown key 'tokenizer.vq.quantiser'; did you mean 'quantizer'?"),
        (VECTOR.replace("patch: 2", "pach: 2"), "line 3: unknown key 'tokenizer.vq.autoencoder.convolutional.pach'; did you mean 'patch'?"),
        (
            VECTOR.replace("autoencoder: {convolutional: {patch: 2}}", "patch: 2"),
            "line 3: unknown key 'tokenizer.vq.patch'; choose one of autoencoder, ",
        ),
        (TOKENIZER.replace("\n  regression: {kind: l2}", " 3"), "line 2: losses: parts of the family loss are written as {name:"),
        (GENERATOR.replace("masked:", "maskd:"), "mine.yaml, line 4: order: there is no order called 'maskd'; did you mean 'masked'?"),
        (GENERATOR.replace("softmax", "soft"), "mine.yaml, line 9: head: there is no head called 'soft'; did you mean 'softmax'?"),
        (TOKENIZER.replace("regression", "regresion"), "line 2: losses: there is no loss called 'regresion'; did you mean 'regression'?"),
        (GENERATOR.replace("steps: 4", "steps: 0"), "line 6: order.masked.steps: Input should be greater than or equal to 1 (it is 0)"),
        (GENERATOR.replace("size: 32", "size: big"), "mine.yaml, line 1: data.size: Input should be a valid integer"),
        (GENERATOR.replace("choose: random", "choose: best"), "line 7: order.masked.choose: Input should be 'confidence' or 'random'"),
        (GENERATOR.replace("size: 32", "size:32"), "mine.yaml, line 1: unknown key 'data.size:32'; did you mean 'size'?"),
        (GENERATOR.replace("samples: 1000, ", ""), "mine.yaml, line 11: 'train.samples' is missing"),
        (GENERATOR.replace("train:", "# train:"), "mine.yaml: 'train' is missing"),
        (GENERATOR.replace("vq-emoji", "[1]"), "mine.yaml, line 2: tokenizer.checkpoint: Input should be a valid string"),
        (GENERATOR.replace("head: softmax", "head: [softmax]"), "line 9: head: head must be one name with its settings"),
        ("a: [", "mine.yaml is not YAML"),
        ("- a", "mine.yaml must be a mapping"),
        ("", "mine.yaml must be a mapping"),
    ],
)  # fmt: skip
def test_errors_give_the_line_and_the_nearest_choice(text: str, words: str) -> None:
    assert words in refused(text)


def test_faults_of_nested_parts_and_around_them_are_reported_together() -> None:
    message = refused(
        VECTOR.replace("patch: 2", "pach: 2").replace("codebook_size: 9", "codebok_size: 9, decay: 2").replace("samples", "sampels")
    )
    lines = [line.split(": ")[0] for line in message.splitlines()]
    assert lines == ["mine.yaml, line 3", *["mine.yaml, line 4"] * 2, *["mine.yaml, line 7"] * 2]


def test_all_faults_are_reported_at_once() -> None:
    message = refused(GENERATOR.replace("steps: 4", "stps: 4").replace("softmax", "soft"))
    assert len(message.splitlines()) == 2
    assert "line 6" in message
    assert "line 9" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GENERATOR.replace("head: softmax\n", ""), "a generator needs order, backbone and head together; missing: head"),
        (GENERATOR + "losses: {regression: {}}\n", "a generator's loss is its head's: remove `losses`"),
        (GENERATOR.replace("{checkpoint: vq-emoji}", "vq"), "a generator needs a trained tokenizer, but 'vq' has yet to learn"),
        (TOKENIZER + "condition: text\n", "a tokenizer takes no condition"),
        (TOKENIZER.replace("{vq: {dim: 8}}", "{checkpoint: x}"), "this tokenizer is trained already"),
        (TOKENIZER.replace("{vq: {dim: 8}}", "pixels"), "pixels have nothing to learn"),
        (TOKENIZER.replace("regression: {kind: l2}", "regression: null"), "a tokenizer needs a loss on its reconstruction"),
        (TOKENIZER.replace("losses:\n  regression: {kind: l2}\n", "losses:\n"), "a tokenizer needs a loss on its reconstruction"),
        (TOKENIZER.replace("samples: 1000", "samples: 10, warmup: 10"), "warmup (10) must be shorter than the budget of 10 samples"),
        (
            TOKENIZER.replace("dim: 8", "autoencoder: dac"),
            "the autoencoder dac reads (time), but the data have (rows, columns): choose one of convolutional, resnet, vit",
        ),
        (
            TOKENIZER.replace("dim: 8", "autoencoder: vit") + "data: {sample_rate: 16000}\n",
            "the autoencoder vit reads (rows, columns), but the data have (time): choose one of dac, seanet, vocos",
        ),
        (GENERATOR.replace("heads: 2", "heads: 3"), "must be an even multiple of heads 3"),
    ],
)
def test_impossible_pairings_are_refused(text: str, words: str) -> None:
    assert words in refused(text)


def test_pixels_need_no_training_before_a_generator() -> None:
    assert parse(GENERATOR.replace("{checkpoint: vq-emoji}", "pixels")).tokenizer.name == "pixels"  # type: ignore[union-attr]


# --- extending ------------------------------------------------------------------------------------------------------------------------


def write(folder: Path, **recipes: str) -> Path:
    for name, text in recipes.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_extending_changes_keys_and_naming_another_part_replaces_it(tmp_path: Path) -> None:
    write(tmp_path, base=GENERATOR)
    other = "extends: base.yaml\norder: {masked: {steps: 9}}\ntrain: {batch: 16}\n"
    recipe = parse(other, str(tmp_path / "other.yaml"))
    assert recipe.order == Masked(steps=9, choose="random"), "the same part keeps its other settings"
    assert (recipe.train.samples, recipe.train.batch) == (1000, 16)
    recipe = parse("extends: base.yaml\norder: raster\ncondition: {class: {width: 8}}\n", str(tmp_path / "other.yaml"))
    assert recipe.order is not None
    assert recipe.order.name == "raster"
    assert recipe.condition is not None
    assert recipe.condition.model_dump() == {"class": {"width": 8, "cfg_dropout": 0.1}}, "nothing of the text condition is left"
    recipe = parse("extends: base.yaml\ncondition: null\n", str(tmp_path / "other.yaml"))
    assert recipe.condition is None
    recipe = parse("extends: base.yaml\ntokenizer: pixels\n", str(tmp_path / "other.yaml"))
    assert recipe.tokenizer.name == "pixels"  # type: ignore[union-attr]


def test_a_part_inside_a_part_is_extended_and_replaced_like_any_other(tmp_path: Path) -> None:
    write(tmp_path, base=VECTOR.replace("codebook_size: 9", "codebook_size: 9, decay: 0.5"))
    kept = parse("extends: base.yaml\ntokenizer: {vq: {quantizer: {vector: {codebook_size: 7}}}}\n", str(tmp_path / "x.yaml")).tokenizer
    assert kept == VQ(autoencoder=Convolutional(patch=2), quantizer=Vector(codebook_size=7, decay=0.5))
    same = parse("extends: base.yaml\n", str(tmp_path / "x.yaml"), ["tokenizer.vq.quantizer.vector.codebook_size=7"]).tokenizer
    assert same == kept
    for other in ("tokenizer.vq.quantizer.finite_scalar.levels=[3, 3]", "tokenizer.vq.quantizer={finite_scalar: {levels: [3, 3]}}"):
        replaced = parse("extends: base.yaml\n", str(tmp_path / "x.yaml"), [other]).tokenizer
        assert replaced == VQ(autoencoder=Convolutional(patch=2), quantizer=FiniteScalar(levels=(3, 3))), (
            "nothing of the vector quantizer is left"
        )
    message = refused("extends: base.yaml\n", "tokenizer.vq.autoencoder.convolutional.patchh=1", origin=str(tmp_path / "x.yaml"))
    assert "--set tokenizer.vq.autoencoder.convolutional.patchh=1: unknown key" in message


def test_losses_of_a_base_can_be_added_to_and_left_out(tmp_path: Path) -> None:
    write(tmp_path, base=TOKENIZER + "data: {size: 32}\n")
    more = parse("extends: base.yaml\nlosses: {adversarial: {}}\n", str(tmp_path / "x.yaml"))
    assert {loss.name for loss in more.losses} == {"regression", "adversarial"}
    assert next(loss for loss in more.losses if loss.name == "regression").kind == "l2"  # type: ignore[attr-defined]
    write(tmp_path, more="extends: base.yaml\nlosses: {adversarial: {}}\n")
    less = load(str(tmp_path / "more.yaml"), ["losses.adversarial=null"])
    assert [loss.name for loss in less.losses] == ["regression"]


def test_a_built_in_recipe_can_be_extended_and_faults_name_the_file_they_are_in(tmp_path: Path) -> None:
    assert parse("extends: maskgit\ntrain: {samples: 5000}\n").train.samples == 5000
    write(tmp_path, base=GENERATOR.replace("steps: 4", "stps: 4"))
    message = refused("extends: base.yaml\n", origin=str(tmp_path / "mine.yaml"))
    assert message.startswith(f"{tmp_path / 'base.yaml'}, line 6: unknown key")


def test_recipes_that_are_not_there_or_go_in_circles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe called 'maskgitt', nor such a file; did you mean 'maskgit'\?"):
        load("maskgitt")
    with pytest.raises(RecipeError, match="no recipe called"):
        load(str(tmp_path / "none.yaml"))
    write(tmp_path, a="extends: b.yaml\n", b="extends: a.yaml\n", c="extends: c.yaml\n")
    for name in ("a", "c"):
        with pytest.raises(RecipeError, match=r"line 1: recipes extend each other in a circle: "):
            load(str(tmp_path / f"{name}.yaml"))


def test_a_checkpoint_folder_is_a_recipe(tmp_path: Path) -> None:
    write(tmp_path, recipe=GENERATOR)
    assert load(str(tmp_path)) == parse(GENERATOR)


# --- --set ----------------------------------------------------------------------------------------------------------------------------


def test_a_built_in_name_is_that_recipe_beside_a_run_that_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vqgan").mkdir()
    (tmp_path / "vqgan" / "recipe.yaml").write_text(load("vqgan", ["train.seed=7"]).to_yaml())
    (tmp_path / "mine.yaml").write_text("extends: vqgan\n")
    monkeypatch.chdir(tmp_path)
    assert load("vqgan") == load("mine.yaml") != load("./vqgan")
    assert load("./vqgan").train.seed == 7


def test_a_recipe_of_an_earlier_version_gets_the_defaults_of_today() -> None:
    today = parse(GENERATOR).to_yaml()
    stored = yaml.safe_load(today)
    del stored["order"]["masked"]["schedule"], stored["train"]["seed"], stored["backbone"]["transformer"]["dropout"]
    stored["head"] = {"softmax": {}}
    assert upgraded(yaml.safe_dump(stored)) == today
    stored["train"]["rests"] = 3
    stored["order"]["masked"]["heat"] = {"first": 1}
    assert upgraded(yaml.safe_dump(stored)) == today, "settings that are gone are left out"
    stored["head"] = {"softmacks": {}}
    assert upgraded(yaml.safe_dump(stored)) == yaml.safe_dump(stored)


def test_overrides_change_what_they_name_and_nothing_else() -> None:
    before = parse(GENERATOR)
    for override, read, value in [
        ("train.lr=1e-3", lambda r: r.train.lr, 1e-3),
        ("train.lr=2E-4", lambda r: r.train.lr, 2e-4),
        ("train.samples=1e5", lambda r: r.train.samples, 100_000),
        ("train.samples=50_000", lambda r: r.train.samples, 50_000),
        ("train.betas=[0.5, 0.9]", lambda r: r.train.betas, (0.5, 0.9)),
        ("order.masked.schedule=linear", lambda r: r.order.schedule, "linear"),
        ("backbone.transformer.qk_norm=true", lambda r: r.backbone.qk_norm, True),
        ("head.softmax.label_smoothing=.1", lambda r: r.head.label_smoothing, 0.1),
        ("order=raster", lambda r: r.order.name, "raster"),
        ("tokenizer=pixels", lambda r: r.tokenizer.name, "pixels"),
        ("condition=null", lambda r: r.condition, None),
        ("data.set=/my pictures", lambda r: r.data.set, "/my pictures"),
    ]:
        after = parse(GENERATOR, overrides=[override])
        assert read(after) == value, override
        changed = {name for name in Recipe.model_fields if getattr(before, name) != getattr(after, name)}
        assert changed == {override.split("=")[0].split(".")[0]}
    both = parse(GENERATOR, overrides=["train.batch=4", "train.batch=5", "train.seed=9"])
    assert (both.train.batch, both.train.seed) == (5, 9)


def test_numbers_in_a_recipe_may_be_written_as_people_do_and_texts_stay_texts() -> None:
    recipe = parse(GENERATOR.replace("samples: 1000", "samples: 1e5, lr: 5e-4"))
    assert (recipe.train.samples, recipe.train.lr) == (100_000, 5e-4)
    odd = recipe.model_copy(update={"tokenizer": Trained(checkpoint="12e45")})
    assert parse(odd.to_yaml()) == odd


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.lrr=1", "--set train.lrr=1: unknown key 'train.lrr'; did you mean 'lr'?"),
        ("trian.lr=1", "--set trian.lr=1: unknown key 'trian'; did you mean 'train'?"),
        ("train.lr=-1", "--set train.lr=-1: train.lr: Input should be greater than 0 (it is -1)"),
        ("order=spiral", "--set order=spiral: order: there is no order called 'spiral'"),
        ("train.lr", "--set takes a.b=value, such as train.lr=1e-3, not 'train.lr'"),
        ("=3", "--set takes a.b=value"),
        ("train.lr=[", "value as in a recipe; '[' in 'train.lr=[' is not"),
    ],
)
def test_overrides_that_are_wrong_are_named(override: str, words: str) -> None:
    assert words in refused(GENERATOR, override)


# --- null, and keys that stand twice --------------------------------------------------------------------------------------------------


def test_null_removes_a_loss_wherever_it_is_written(tmp_path: Path) -> None:
    both = TOKENIZER.replace("regression: {kind: l2}", "regression: {kind: l2}\n  adversarial: {}")
    write(
        tmp_path,
        base=both,
        without="extends: base.yaml\nlosses: {adversarial: null}\n",
        back="extends: without.yaml\nlosses: {adversarial: {}}\n",
    )

    def names(recipe: Recipe) -> list[str]:
        return [loss.name for loss in recipe.losses]

    assert names(load(str(tmp_path / "base.yaml"))) == ["regression", "adversarial"]
    assert names(parse(both.replace("adversarial: {}", "adversarial: null"))) == ["regression"]
    assert names(parse(both.replace("adversarial: {}", "adversarial:"))) == ["regression"]
    assert names(load(str(tmp_path / "without.yaml"))) == ["regression"]
    assert names(load(str(tmp_path / "base.yaml"), ["losses.adversarial=null"])) == ["regression"]
    assert names(load(str(tmp_path / "without.yaml"), ["losses.adversarial={}"])) == ["regression", "adversarial"]
    assert names(load(str(tmp_path / "back.yaml"))) == ["regression", "adversarial"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            GENERATOR.replace("head: softmax", "head: {softmax: null}"),
            "line 9: head: null is not the settings of the head softmax: write softmax or",
        ),
        (
            GENERATOR.replace("head: softmax", "head: {softmax: 3}"),
            "line 9: head: 3 is not the settings of the head softmax: write {softmax: {key: value}}",
        ),
        (TOKENIZER.replace("regression: {kind: l2}", "regression: false"), "losses: False is not the settings of the loss regression"),
    ],
)
def test_what_is_not_settings_is_refused(text: str, words: str) -> None:
    assert words in refused(text)


def test_a_duplicate_key_is_refused_with_both_lines(tmp_path: Path) -> None:
    text = TOKENIZER + "losses: {regression: {}}\n"
    first = 1 + TOKENIZER.splitlines().index("losses:")
    assert f", line {len(text.splitlines())}: the key 'losses' is given twice (first: mine.yaml, line {first})" in refused(text)
    assert "the key 'tokenizer.vq.dim' is given twice" in refused(TOKENIZER.replace("dim: 8", "dim: 8, dim: 9"))
    assert "--set data={size: 8, size: 16}, line 1: the key 'size' is given twice" in refused(TOKENIZER, "data={size: 8, size: 16}")
    write(tmp_path, base=text)
    assert f"{tmp_path / 'base.yaml'}, line {len(text.splitlines())}" in refused("extends: base.yaml\n", origin=str(tmp_path / "x.yaml"))


def test_null_that_is_not_the_default_is_kept_in_the_recipe_of_a_checkpoint() -> None:
    continuous = GENERATOR.replace("head: softmax", "head: {diffusion: {start: null}}")
    recipe = parse(continuous, overrides=["train.clip=null"])
    assert recipe.train.clip is None
    assert parse(recipe.to_yaml()) == recipe
    assert ": null" not in parse(GENERATOR).to_yaml()
