"""A cascade: a coarse generator of 4 x 4 tokens, whose output conditions one of 8 x 8; trained, saved, loaded and run in order."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from jielong.conditions.inputs import ConditionInput, InputError
from jielong.conditions.stage import StageCondition, StageConditionSettings, StageInput
from jielong.config.recipe import parse
from jielong.config.registry import RecipeError, register
from jielong.core.rng import seed_of
from jielong.core.tokens import Tokens
from jielong.media.kinds.image import image_medium
from jielong.networks.conditioning import Conditioning
from jielong.system import System, build_generator, build_tokenizer, load
from jielong.tokenizers.base import Tokenizer
from jielong.training import experiment
from jielong.training.checkpoint import CheckpointError, read_tensors, write_checksums, write_tensors

COLOURS = {"red": (220, 40, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}
TRAIN = "train: {samples: 480, batch: 16, warmup: 64, lr: 5e-3, sample_every: 480, save_every: 480, precision: fp32, ema: 0.5}\n"
CHAIN = "order: {masked: {steps: 2}}\nbackbone: {transformer: {layers: 1, width: 32, heads: 2}}\nhead: softmax\n"
COARSE = "data: {size: 4}\ntokenizer: {pixels: {levels: 4}}\ncondition: {class: {width: 32, cfg_dropout: 0}}\n" + CHAIN + TRAIN
FINE = "data: {size: 8}\ntokenizer: {pixels: {levels: 8}}\ncondition: {coarse_pixels: {stage: coarse, width: 16}}\n" + CHAIN + TRAIN


class CoarseInput(StageInput):
    name = "coarse"


class CoarsePixels(StageConditionSettings, family="condition", name="coarse_pixels"):
    """A state per coarse token: the sum of its codes' embeddings and of its place's."""

    input: ClassVar[ConditionInput] = CoarseInput()

    def build_on(self, tokenizer: Tokenizer) -> StageCondition:
        return CoarseTokens(tokenizer, self.width, self.cfg_dropout)


class CoarseTokens(StageCondition):
    def __init__(self, tokenizer: Tokenizer, width: int, cfg_dropout: float) -> None:
        super().__init__(tokenizer, width, cfg_dropout)
        layout = tokenizer.layout
        self.length = layout.positions
        self.codes = nn.ModuleList([nn.Embedding(layout.vocabulary or 0, width) for _ in range(layout.channels)])
        self.places = nn.Parameter(torch.randn(layout.positions, width) * 0.02)

    def embed(self, prepared: Tensor) -> Conditioning:
        values = prepared.to(self.places.device)
        states = sum((table(values[..., channel]) for channel, table in enumerate(self.codes)), self.places)
        return Conditioning(states, torch.ones(states.shape[:2], dtype=torch.bool), states.mean(1))


@pytest.fixture(autouse=True)
def _declared(only_the_projects_own_parts: None) -> None:
    register(CoarsePixels)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 6), ("heldout", 2)):
        for name, colour in COLOURS.items():
            for place in range(count):
                image = Image.new("RGB", (8, 8), "white")
                image.paste(colour, (place % 4, place % 3, place % 4 + 4, place % 3 + 4))
                path = root / split / name / f"{place}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> tuple[Path, Path]:
    """The coarse and the fine checkpoint."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JIELONG_CACHE", str(root / "cache"))
        train(COARSE, root / "coarse", pictures)
        train(FINE + f"stages: {{coarse: {root / 'coarse'}}}\n", root / "fine", pictures)
    return root / "coarse", root / "fine"


def train(recipe: str, out: Path, pictures: Path) -> None:
    torch.set_num_threads(1)
    assert experiment.run(parse(recipe), out, data=str(pictures), device="cpu", progress=False).finished


@pytest.fixture
def alone(tmp_path: Path, folders: tuple[Path, Path]) -> Path:
    """A copy of the fine checkpoint, elsewhere."""
    return shutil.copytree(folders[1], tmp_path / "moved")


def drawn(system: System, coarse: Tensor, seed: int) -> Tensor:
    """The fine generator's tokens for coarse ones, ``(B, N, C)``, given as values of its condition."""
    return system.generate_tokens(list(coarse), seed=seed).values


def test_a_checkpoint_stands_alone_and_holds_its_stages(folders: tuple[Path, Path], alone: Path) -> None:
    kept = {str(path.relative_to(alone)) for path in (alone / "stages").rglob("*") if path.is_file()}
    assert kept == {f"stages/coarse/{name}" for name in ("recipe.yaml", "model.json", "model.safetensors", "SHA256SUMS")}
    away = folders[0].rename(folders[0].with_name("away"))
    try:
        system = load(str(alone), "cpu")
    finally:
        away.rename(folders[0])
    assert list(system.stages) == ["coarse"]
    assert system.stages["coarse"].tokenizer.layout.grid == (4, 4)
    assert system.tokenizer.layout.grid == (8, 8)
    assert not [name for name in read_tensors(alone / "model.safetensors") if "tokenizer" in name or "stage" in name]


def test_stages_run_in_order_each_on_the_output_of_the_one_before(alone: Path) -> None:
    system = load(str(alone), "cpu")
    assert system.inputs == ("class",)
    pictures = system.generate(classes=["red", "blue"], count=2, seed=3)
    coarse = system.stages["coarse"].generate_tokens(["red", "red", "blue", "blue"], seed=seed_of(3, "stage", "coarse"))
    expected = system.decode(system.generate_tokens(list(coarse.values), seed=3))
    assert torch.equal(pictures.tensor, expected)
    one = system.generate(classes=["red"], count=1, seed=3)
    assert torch.equal(one.tensor[0], expected[0]), "whatever is generated beside it"


def test_inputs_go_to_the_stage_that_has_them(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, read = load(str(alone), "cpu"), list[object]()
    first = system.stages["coarse"].generator
    assert first is not None
    generate = first.generate

    def spy(conditions: list[object] | None = None, count: int | None = None, **options: Any) -> Tokens:
        read.extend([conditions, count])
        return generate(conditions, count, **options)

    monkeypatch.setattr(first, "generate", spy)
    assert len(system.generate(classes=["red", "blue"], count=2)) == 4
    assert len(system.generate(count=3)) == 3
    assert read == [["red", "red", "blue", "blue"], None, None, 3]


def test_a_call_is_checked_without_running_a_stage(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = load(str(alone), "cpu")
    monkeypatch.setattr(System, "generate_tokens", None)
    assert system.check(classes=["red", "blue"], count=2) == 4
    assert system.check(count=3) == 3
    with pytest.raises(InputError, match="takes `classes`, not `text`"):
        system.check(text="a red square")
    with pytest.raises(ValueError, match="there is no class 'rd'; did you mean 'red'"):
        system.check(classes="rd")
    with pytest.raises(ValueError, match="top_p must be above 0"):
        system.check(classes="red", top_p=2)


def test_the_output_of_a_stage_can_be_given_instead(alone: Path) -> None:
    system = load(str(alone), "cpu")
    coarse = torch.randint(4, (2, 16, 3), generator=torch.Generator().manual_seed(0))
    given = system.generate(coarse=coarse, seed=5)  # type: ignore[arg-type]
    assert torch.equal(given.tensor, system.decode(system.generate_tokens(list(coarse), seed=5)))
    assert not torch.equal(drawn(system, coarse, 5), drawn(system, 3 - coarse, 5)), "the condition is read"
    with pytest.raises(InputError, match="takes `classes`, not `text`"):
        system.generate(text="a red square")


def test_training_reads_the_stages_tokens_of_the_real_pictures(pictures: Path, folders: tuple[Path, Path]) -> None:
    prepared = experiment.prepare(parse(FINE + f"stages: {{coarse: {folders[0]}}}\n"), str(pictures))
    assert prepared.generator is not None
    condition = prepared.generator.condition
    assert isinstance(condition, StageCondition)
    condition.precompute(prepared.data, prepared.heldout)
    batch = prepared.data.batch(range(len(prepared.data)))
    tokens = condition.prepare(batch.keys)
    coarse = experiment.prepare(parse(COARSE), str(pictures))  # what the stage itself was trained on
    assert torch.equal(tokens, coarse.tokenizer.encode(coarse.data.media(range(len(coarse.data)))).values)
    assert coarse.data.keys == batch.keys
    assert torch.equal(condition.prepare(list(batch.media)), tokens)
    with pytest.raises(ValueError, match=r"no tokens of the earlier stage for 'other\.png'"):
        condition.prepare(["other.png"])


def test_another_stage_than_the_one_trained_on_is_refused(alone: Path) -> None:
    recipe = alone / "stages/coarse/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("levels: 4", "levels: 5"))
    other = parse(COARSE.replace("levels: 4", "levels: 5"))
    stage = build_generator(other, build_tokenizer(other, image_medium(3, (4, 4))), sorted(COLOURS))
    write_tensors(alone / "stages/coarse/model.safetensors", stage.state_dict())
    write_checksums(alone / "stages/coarse", ["model.safetensors"])
    with pytest.raises(CheckpointError, match="trained on the tokens of another stage 'coarse' than its recipe leads to now"):
        load(str(alone), "cpu")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("", r"the condition coarse_pixels reads the stage 'coarse', which there is not; add stages: \{coarse: CHECKPOINT\}"),
        ("stages: {course: x}\n", "reads the stage 'coarse', which there is not; did you mean 'course'"),
        ("stages: {coarse: x, tokenizer: y}\n", "a stage cannot be called 'tokenizer'"),
        ("stages: {coarse: x, a/b: y}\n", "a stage cannot be called 'a/b'"),
        ("stages: {coarse: null}\n", "which there is not"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(FINE + stages)


def test_a_stage_of_another_aspect_is_refused_before_training(pictures: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = f"stages: {{coarse: {folders[0]}}}\n" + FINE.replace("size: 8", "size: [8, 6]")
    with pytest.raises(ValueError, match=r"the stage coarse .* draws image of 3 x 4 x 4, another aspect than image of 3 x 8 x 6"):
        experiment.run(parse(recipe), tmp_path / "run", str(pictures), device="cpu", progress=False)
