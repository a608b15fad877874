"""LlamaGen's released layout, imported: equal to a reference written from the paper on the same random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reference import llamagen as theirs
from torch import Tensor

from jielong.config.schema import Recipe
from jielong.core.allocation import without_parameters
from jielong.core.tokens import Tokens
from jielong.interop.checkpoints import import_weights
from jielong.interop.files import Source
from jielong.interop.systems import RELEASES, llamagen
from jielong.system import System, build_generator, build_tokenizer, load
from jielong.training.checkpoint import CheckpointError
from tiny_t5 import t5_folder

WIDTHS, SIDE = (32, 64, 64), 16  # three stages, so a token covers 4 x 4 pixels and a picture has 4 x 4 tokens
SIZES = theirs.Sizes(layers=2, heads=2, width=128, grid=4, vocabulary=50, classes=9)
TOKENIZER = theirs.drawn(theirs.tokenizer_shapes(WIDTHS, inner=12, dim=8, codes=50, blocks=2), seed=1)
WEIGHTS = theirs.drawn(SIZES.shapes(), seed=2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("released")
    generator, tokenizer = folder / f"c2i_T_{SIDE}.pt", folder / "vq_ds4_c2i.pt"
    torch.save({"model": WEIGHTS, "optimizer": {}, "steps": 1}, generator)
    torch.save({"model": TOKENIZER}, tokenizer)
    return generator, tokenizer


@pytest.fixture(scope="module")
def system(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> System:
    folder = tmp_path_factory.mktemp("imported") / "llamagen"
    report = import_weights("llamagen", files, folder, check=True)
    assert report.output is not None
    assert any("by its name" in note for note in report.notes)
    return load(str(folder), "cpu")


def pictures(count: int = 2) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) * 2 - 1


def codes(count: int = 3) -> Tensor:
    return torch.randint(50, (count, 16), generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def test_the_tokenizer_gives_its_codes_and_pictures(system: System) -> None:
    expected = theirs.encode(TOKENIZER, pictures())
    assert expected.unique().numel() > 8
    tokens = system.tokenizer.encode(pictures())
    assert torch.equal(tokens.values[..., 0], expected)
    decoded = theirs.decode(TOKENIZER, expected)
    assert decoded.std() > 0.1
    torch.testing.assert_close(system.tokenizer.decode(tokens), decoded.clamp(-1, 1), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_codes_do_not_depend_on_the_length_of_vectors(system: System) -> None:
    louder = dict(TOKENIZER) | {name: 3 * TOKENIZER[name] for name in ("quant_conv.weight", "quant_conv.bias")}
    assert torch.equal(theirs.encode(louder, pictures()), system.tokenizer.encode(pictures()).values[..., 0])


@torch.no_grad()
def test_logits_of_given_tokens(system: System) -> None:
    model = system.generator
    assert model is not None
    assert model.condition is not None
    classes = torch.tensor([0, 8, 4])
    expected = theirs.scores(WEIGHTS, SIZES, theirs.begin(WEIGHTS, classes), codes()[:, :-1])
    given = Tokens(codes()[..., None], system.tokenizer.layout)
    states = model.training_states(given, model.condition.prepare(classes.tolist()))
    found = model.head.scores(states.hidden)[..., 0, :]  # type: ignore[operator]
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_greedy_tokens_with_guidance(system: System, scale: float, cache: bool) -> None:
    assert system.generator is not None
    drawn = system.generator.generate([7, "2", 0], guidance=scale, temperature=0, cache=cache).values[..., 0]
    assert torch.equal(drawn, theirs.greedy(WEIGHTS, SIZES, torch.tensor([7, 2, 0]), scale))


@torch.no_grad()
def test_every_image_query_gives_the_class_a_score_of_zero(system: System) -> None:
    """The convention of the released weights: the class is seen by all alike, whatever its key."""
    model = system.generator
    assert model is not None
    assert model.condition is not None
    tokens, prepared = system.tokenizer.encode(pictures()), model.condition.prepare([1, 5])
    layer = model.backbone.blocks[0].attention  # type: ignore[union-attr, index]
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, arguments, result: seen.extend((arguments[0], result)))
    model.training_states(tokens, prepared)
    hook.remove()
    q, k, v = layer.qkv(seen[0]).view(2, 16, 3, 2, 64).unbind(2)
    # The first token is at row 0 and column 0, so not rotated either: it sees the class at score 0, and itself.
    itself = (q[:, 1] * k[:, 1]).sum(-1) / 8
    shares = torch.stack([torch.zeros_like(itself), itself], -1).softmax(-1)[..., None]
    expected = shares[..., 0, :] * v[:, 0] + shares[..., 1, :] * v[:, 1]
    torch.testing.assert_close(seen[1].view(2, 16, 2, 64)[:, 1], expected)


def test_key_counts_at_official_sizes() -> None:
    assert len(theirs.Sizes(layers=12, heads=12, width=768, grid=16).shapes()) == 88
    assert len(theirs.tokenizer_shapes((128, 128, 256, 256, 512))) == 344


@pytest.mark.parametrize(
    ("name", "layers", "heads", "width", "millions"),
    [
        ("B", 12, 12, 768, 111),
        ("L", 24, 16, 1024, 343),
        ("XL", 36, 20, 1280, 775),
        ("XXL", 48, 24, 1536, 1_411),
        ("3B", 24, 32, 3200, 3_097),
    ],
)
def test_official_sizes_on_meta(name: str, layers: int, heads: int, width: int, millions: int) -> None:
    """Every released tensor has its place in the model that is built, and every tensor of ours comes from somewhere."""
    sizes = theirs.Sizes(layers=layers, heads=heads, width=width, grid=24)
    weights, units = (
        {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        for shapes in (sizes.shapes(), theirs.tokenizer_shapes((128, 128, 256, 256, 512)))
    )
    imported = llamagen._generator(Source(Path(f"c2i_{name}_384.pt"), weights), Source(Path("vq_ds16_c2i.pt"), units))
    total = sum(tensor.numel() for tensor in weights.values())
    assert round(total / 1e6) == millions
    stage = imported.stages["tokenizer"]
    with without_parameters():
        tokenizer = build_tokenizer(Recipe.model_validate({"train": {"samples": 1}, **stage.recipe}), stage.media)
        recipe = Recipe.model_validate({"train": {"samples": 1}, "tokenizer": {"checkpoint": "vq"}, **imported.recipe})
        generator = build_generator(recipe, tokenizer, imported.classes)
    imported.keys.apply(weights, generator.state_dict())
    stage.keys.apply(units, tokenizer.state_dict())
    assert generator.layout.grid == (24, 24)
    assert recipe.sampling.guidance.scale == {"B": 2.0, "L": 2.0, "XL": 1.75, "XXL": 1.75, "3B": 1.65}[name]


def test_wrong_files_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    generator, tokenizer = files
    read = RELEASES["llamagen"].read
    with pytest.raises(CheckpointError, match="that of the tokenizer is missing"):
        read([generator])
    with pytest.raises(CheckpointError, match="both a transformer"):
        read([generator, generator])
    nameless = tmp_path / "model.pt"
    nameless.write_bytes(generator.read_bytes())
    with pytest.raises(CheckpointError, match=r"does not end in it, as c2i_B_256\.pt does"):
        read([nameless, tokenizer])
    other = tmp_path / "vq_other.pt"
    torch.save({"model": TOKENIZER | {"quantize.embedding.weight": torch.randn(60, 8)}}, other)
    with pytest.raises(CheckpointError, match=r"predicts 50 codes, and .* has 60"):
        read([generator, other])
    spare = tmp_path / f"c2i_S_{SIDE}.pt"
    torch.save({"model": WEIGHTS | {"layers.7.extra": torch.zeros(1)}}, spare)
    with pytest.raises(CheckpointError, match=r"1 unexpected \(layers\.7\.extra\)"):
        import_weights("llamagen", [spare, tokenizer], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_alone(files: tuple[Path, Path], tmp_path: Path) -> None:
    import_weights("llamagen-tokenizer", [files[1]], tmp_path / "vq")
    units = load(str(tmp_path / "vq"), "cpu").tokenizer
    assert units.media.size == (256, 256)
    assert units.layout.vocabulary == 50


CAPTIONS = theirs.Sizes(layers=2, heads=2, width=128, grid=4, vocabulary=50, captions=(6, 16))
TEXTS = ["a cat", "a red cat of a red dog and more than fits"]


@pytest.fixture(scope="module")
def with_texts(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[System, dict[str, Tensor], Path]:
    folder = tmp_path_factory.mktemp("texts")
    encoder = t5_folder(folder / "encoder", CAPTIONS.captions[1] if CAPTIONS.captions else 0)
    weights = theirs.drawn(CAPTIONS.shapes(), seed=5)
    generator = folder / f"t2i_T_stage1_{SIDE}.pt"
    torch.save(weights, generator)
    import_weights("llamagen", [generator, files[1], encoder], folder / "out")
    return load(str(folder / "out"), "cpu"), weights, encoder


def captions(encoder: Path) -> tuple[Tensor, Tensor]:
    """Features with their padding on the left, as the release makes them: states of padded texts, rolled, and zeros elsewhere."""
    transformers = pytest.importorskip("transformers")
    model, tokenizer = transformers.T5EncoderModel.from_pretrained(encoder).eval(), transformers.AutoTokenizer.from_pretrained(encoder)
    tokens = tokenizer(TEXTS, return_tensors="pt", padding="max_length", truncation=True, max_length=6)
    with torch.no_grad():
        states, mask = model(**tokens).last_hidden_state, tokens["attention_mask"].bool()
    rolled = torch.stack([row.roll(6 - int(real.sum()), 0) for row, real in zip(states, mask, strict=True)])
    mask = mask.flip(1)
    # The cache of states keeps them in 16 bits, and greedy tokens are compared exactly.
    return rolled.half().float() * mask[..., None], mask


@torch.no_grad()
def test_logits_after_texts(with_texts: tuple[System, dict[str, Tensor], Path]) -> None:
    system, weights, encoder = with_texts
    model, (states, real) = system.generator, captions(encoder)
    assert real.sum(1).tolist() == [3, 6]
    assert model is not None
    assert model.condition is not None
    expected = theirs.scores(weights, CAPTIONS, theirs.begin(weights, states), codes(2)[:, :-1], real)
    given = Tokens(codes(2)[..., None], system.tokenizer.layout)
    hidden = model.training_states(given, model.condition.prepare(TEXTS)).hidden
    torch.testing.assert_close(model.head.scores(hidden)[..., 0, :], expected, atol=1e-3, rtol=1e-3)  # type: ignore[operator]


@torch.no_grad()
@pytest.mark.parametrize("cache", [True, False])
def test_greedy_tokens_after_texts_with_guidance(with_texts: tuple[System, dict[str, Tensor], Path], cache: bool) -> None:
    system, weights, encoder = with_texts
    states, real = captions(encoder)
    assert system.generator is not None
    assert system.recipe.sampling.top_k == 1000
    drawn = system.generator.generate(TEXTS, guidance=7.5, temperature=0, cache=cache).values[..., 0]
    assert torch.equal(drawn, theirs.greedy(weights, CAPTIONS, states, 7.5, real))


def test_texts_need_their_encoder(files: tuple[Path, Path], with_texts: tuple[System, dict[str, Tensor], Path], tmp_path: Path) -> None:
    _, weights, encoder = with_texts
    generator, read = tmp_path / f"t2i_T_{SIDE}.pt", RELEASES["llamagen"].read
    torch.save(weights, generator)
    with pytest.raises(CheckpointError, match="reads texts through Flan-T5 XL"):
        read([generator, files[1]])
    with pytest.raises(CheckpointError, match="no text encoder reads these"):
        read([*files, encoder])
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        read([generator, files[1], tmp_path / "other"])
    (tmp_path / "other" / "config.json").write_text('{"d_model": 24}')
    with pytest.raises(CheckpointError, match=r"of 16 channels, and those of .* have 24"):
        read([generator, files[1], tmp_path / "other"])


def test_the_model_of_texts_at_its_official_size() -> None:
    sizes = theirs.Sizes(layers=36, heads=20, width=1280, grid=16, captions=(120, 2048))
    assert round(sum(torch.Size(shape).numel() for shape in sizes.shapes().values()) / 1e6) == 775 + 3
