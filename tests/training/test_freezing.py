"""Frozen parts keep their weights to the bit, everywhere; what a pattern means, and what it does not, is said."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from jielong.config.recipe import parse
from jielong.config.registry import RecipeError
from jielong.core.module_paths import expanded, path_of
from jielong.system import load
from jielong.training.checkpoint import read_tensors
from jielong.training.experiment import prepare, run
from jielong.training.state import latest_state

GENERATOR = """
data: {set: emoji, size: 8}
tokenizer: {pixels: {levels: 4}}
condition: {text: {encoder: bytes, width: 16, length: 24}}
order: {masked: {steps: 2}}
backbone: {transformer: {layers: 3, width: 16, heads: 2, dropout: 0.2}}
head: softmax
train: {samples: 32, batch: 8, warmup: 8, lr: 1e-2, precision: fp32, ema: 0.5, ema_lengths: [0.1], save_every: 16, sample_every: 32}
"""
TOKENIZER = """
data: {set: emoji, size: 8}
tokenizer: {vq: {autoencoder: {convolutional: {channels: [8], blocks: [1], patch: 4}}, dim: 4, quantizer: {vector: {codebook_size: 16}}}}
losses: {regression: {kind: l2}}
train: {samples: 32, batch: 8, warmup: 8, lr: 1e-2, precision: fp32, ema: 0.5, save_every: 16, sample_every: 32}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(scope="module")
def generator(folder: Path) -> Path:
    run(parse(GENERATOR), folder / "generator", device="cpu", progress=False, evaluate=False)
    return folder / "generator"


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Path:
    run(parse(TOKENIZER), folder / "tokenizer", device="cpu", progress=False, evaluate=False)
    return folder / "tokenizer"


def frozen(text: str, base: Path, *patterns: str):
    return parse(text, overrides=[f"train.init_from={base}", f"train.freeze=[{', '.join(map(repr, patterns))}]", "train.seed=1"])


def test_frozen_weights_stay_and_others_move(generator: Path, tmp_path: Path) -> None:
    output = io.StringIO()
    recipe = frozen(GENERATOR, generator, "backbone.layers.0-1", "condition", "head")
    console = Console(file=output, width=300)
    summary = run(recipe, tmp_path, device="cpu", console=console, evaluate=False)
    before, after = read_tensors(generator / "model.safetensors"), read_tensors(tmp_path / "model.safetensors")
    kept = {name for name in before if name.startswith(("backbone.blocks.0.", "backbone.blocks.1.", "condition.", "head."))}
    assert all(torch.equal(before[name], after[name]) for name in kept)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("backbone.blocks.2.") and before[name].ndim == 2} <= moved
    model = load(tmp_path, "cpu").generator
    assert model is not None
    whole = sum(each.numel() for name, each in model.named_parameters())
    assert summary.parameters == whole - sum(each.numel() for name, each in model.named_parameters() if name in kept)
    assert output.getvalue().count("train.freeze keeps") == 1
    assert "backbone.layers.0-1, condition, head" in output.getvalue()
    state = latest_state(tmp_path)
    assert state is not None
    for file in ("ema", "ema-0.1"):
        assert kept.isdisjoint(read_tensors(state / f"{file}.safetensors"))
    moments = sum(each.numel() for name, each in read_tensors(state / "optimizer-model.safetensors").items() if "exp_avg" in name)
    assert moments == 2 * summary.parameters


def test_a_resumed_run_equals_an_uninterrupted_one(generator: Path, tmp_path: Path) -> None:
    recipe = frozen(GENERATOR, generator, "backbone.blocks.0-1")
    for stops in ((None,), (16, None)):
        for stop in stops:
            run(recipe, tmp_path / str(len(stops)), device="cpu", progress=False, evaluate=False, stop_after=stop)
    assert (tmp_path / "1" / "model.safetensors").read_bytes() == (tmp_path / "2" / "model.safetensors").read_bytes()


def test_frozen_codes_and_encoder_stay(tokenizer: Path, tmp_path: Path) -> None:
    """A codebook that follows averages, which no optimizer moves, stays too."""
    run(frozen(TOKENIZER, tokenizer, "tokenizer.encoder", "tokenizer.quantizer"), tmp_path, device="cpu", progress=False, evaluate=False)
    before, after = read_tensors(tokenizer / "model.safetensors"), read_tensors(tmp_path / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("decoder"))
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("decoder"))


def test_frozen_modules_stay_in_evaluation_mode_but_not_what_chooses_the_loss(generator: Path) -> None:
    experiment = prepare(frozen(GENERATOR, generator, "backbone.blocks.0", "head", "condition"))
    model = experiment.generator
    assert model is not None
    model.train()
    for module in experiment.frozen.modules:
        module.eval()
    assert not any(module.training for module in model.backbone.blocks[0].modules())
    assert model.backbone.blocks[1].training
    assert model.head.training
    assert model.condition is not None
    assert model.condition.training
    assert not any(module.training for module in model.head.children())


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("backbone.block.0", r"matches nothing in this model; did you mean backbone.blocks\? backbone has .*blocks"),
        ("backbone.blocks.0-11", r"matches nothing at backbone.blocks.3; backbone.blocks has 0 to 2"),
        ("back*.blocks.7", r"matches nothing in this model; back\*.blocks has 0 to 2"),
        ("encoder", r"matches nothing in this model; .*the model has .*backbone"),
        ("*", r"\* leaves nothing to train: leave some of it out"),
    ],
)
def test_a_pattern_without_a_meaning_names_what_there_is(generator: Path, pattern: str, says: str) -> None:
    with pytest.raises(RecipeError, match=rf"train\.freeze: .*{says}"):
        prepare(frozen(GENERATOR, generator, pattern))


def test_the_tokenizer_of_a_generator_is_not_trained_anyway(tokenizer: Path, generator: Path) -> None:
    text = GENERATOR.replace("{pixels: {levels: 4}}", f"{{checkpoint: {tokenizer}}}")
    found = prepare(frozen(text, generator, "tokenizer.encoder", "backbone.blocks.0")).frozen
    assert found.words.endswith("; the tokenizer of a generator is not trained anyway")
    assert found.names
    assert all(name.startswith("backbone.blocks.0.") for name in found.names)


def test_what_begins_at_random_cannot_be_frozen(generator: Path, tmp_path: Path) -> None:
    text = GENERATOR.replace("layers: 3", "layers: 4")
    with pytest.raises(RecipeError, match=r"has no backbone\.blocks\.3\..* and \d+ more of this shape, which would stay random"):
        run(frozen(text, generator, "backbone.blocks"), tmp_path / "out", device="cpu", progress=False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("train.freeze=[head]", r"freeze keeps weights as they are, and without init_from they are random"),
        ("train.lora={}", r"lora updates a trained model: set init_from"),
    ],
)
def test_settings_without_a_start_are_refused(change: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(GENERATOR, overrides=[change])


def test_an_adaptive_weight_needs_the_last_layer(tokenizer: Path) -> None:
    text = TOKENIZER.replace("{kind: l2}", "{kind: l2}, adversarial: {}")
    with pytest.raises(RecipeError, match="needs gradients at the decoder's last layer"):
        prepare(frozen(text, tokenizer, "tokenizer.decoder"))


def test_patterns_expand() -> None:
    known = [path_of(f"a.blocks.{number}.{part}") for number in range(12) for part in ("norm", "mlp")]
    assert expanded("a.layers.9-11.mlp", known) == [("a", "layers", str(number), "mlp") for number in (9, 10, 11)]
    assert expanded("*.blocks.?.n*", known) == [("*", "blocks", "?", "n*")]
    with pytest.raises(ValueError, match=r"a.blocks.0.norm has nothing inside"):
        expanded("a.blocks.0.norm.weight", known)
