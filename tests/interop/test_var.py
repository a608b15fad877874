"""VAR's released layout, imported: equal to a reference written from the paper on the same random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reference import var as theirs
from torch import Tensor, nn

from jielong.core.tokens import Tokens
from jielong.interop.checkpoints import built, import_weights
from jielong.interop.files import Source
from jielong.interop.systems import RELEASES, var
from jielong.system import System, load
from jielong.training.checkpoint import CheckpointError

SIZES = theirs.TokenizerSizes(channels=32, multipliers=(1, 2), blocks=1, latent=8, codes=48)  # 16 x 16 positions of 2 x 2 pixels
B, CLASSES, CFG = 2, 5, 1.5


def shaken(module: nn.Module, seed: int) -> nn.Module:
    """All weights moved, so that nothing hides behind a zero."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            value += (0.05 if value.ndim == 4 else 0.2) * torch.randn(value.shape, generator=draw)
            if "scale_mul" in name:
                value[:, 0] = 5.0  # above the cap, ln 100
    return module.eval()


def tokenizer_of() -> theirs.Tokenizer:
    torch.manual_seed(0)
    built = theirs.Tokenizer(SIZES)
    shaken(built, 1)
    features = built.quant_conv(built.encoder(pictures()))
    with torch.no_grad():  # codes where the features are, so that many of them are chosen
        draw = torch.Generator().manual_seed(2)
        spread = torch.linspace(1, 0.1, SIZES.codes)[:, None] * features.std()
        built.quantize.embedding.weight.copy_(spread * torch.randn(SIZES.codes, SIZES.latent, generator=draw))
    return built


def pictures() -> Tensor:
    return torch.rand(B, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


TOKENIZER = tokenizer_of()


@pytest.fixture(scope="module", params=[False, True], ids=["own modulation", "shared modulation"])
def transformer(request: pytest.FixtureRequest) -> theirs.Transformer:
    torch.manual_seed(4)
    built = theirs.Transformer(SIZES, 2, CLASSES, request.param, width=32, heads=4)
    shaken(built, 5)
    return built


@pytest.fixture(scope="module")
def system(transformer: theirs.Transformer, tmp_path_factory: pytest.TempPathFactory) -> System:
    folder = tmp_path_factory.mktemp("var")
    torch.save(TOKENIZER.state_dict(), folder / "vae.pth")
    torch.save({"trainer": {"var_wo_ddp": transformer.state_dict()}}, folder / "var.pth")
    report = import_weights("var", [folder / "var.pth", folder / "vae.pth"], folder / "ours", check=True)
    assert report.output is not None
    assert any("a constant" in line or "computed" in line for line in report.changes)
    assert report.notes == ["var.pth: took the weights under 'trainer/var_wo_ddp'"]
    return load(str(folder / "ours"), "cpu")


@torch.no_grad()
def test_codes_of_every_scale_and_pictures_of_the_first_ones_are_theirs(system: System) -> None:
    expected = TOKENIZER.encode(pictures())
    tokens = system.tokenizer.encode(pictures())
    assert torch.equal(tokens.values[..., 0], torch.cat(expected, 1))
    assert tokens.values.unique().numel() > SIZES.codes // 2
    spans = torch.tensor([0, *(side**2 for side in SIZES.sides)]).cumsum(0)
    for scales in (1, 3, 8, len(SIZES.sides)):  # the third and the eighth are as near to two shared convolutions
        known = torch.arange(int(spans[-1])) < spans[scales]
        ours = system.tokenizer.decode_known(tokens, known.expand(B, -1))
        reference = TOKENIZER.decode(expected[:scales])
        assert reference.std() > 0.05
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=0)


@torch.no_grad()
def test_teacher_forced_logits_are_theirs(system: System, transformer: theirs.Transformer) -> None:
    codes = [torch.randint(SIZES.codes, (B, side**2), generator=torch.Generator().manual_seed(side)) for side in SIZES.sides]
    labels = torch.tensor([1, CLASSES])  # a class, and none
    expected = transformer(labels, transformer.inputs(TOKENIZER, codes))
    assert system.generator is not None
    model, tokens = system.generator, Tokens(torch.cat(codes, 1)[..., None], system.tokenizer.layout)
    conditioning = model.condition(model.condition.prepare([1, 0]), torch.tensor([False, True]))
    known = torch.zeros(tokens.values.shape[:2], dtype=torch.bool)
    embeddings = model.embeddings(tokens.values, known, slice(0, model.plan.layout.positions), model.position_vectors(model.plan))
    inputs = model.plan.inputs(embeddings, slice(0, model.plan.layout.positions))
    hidden = model.backbone(type(inputs)(inputs.embeddings, inputs.coords, inputs.blocks, conditioning))
    logits = model.head.scores(hidden)[..., 0, :]
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_most_likely_codes_with_guidance_are_theirs(system: System, transformer: theirs.Transformer) -> None:
    labels = [3, 1]
    codes, features = transformer.sample(TOKENIZER, torch.tensor(labels), CFG)
    ours = system.generate_tokens(labels, temperature=0, top_k=0, top_p=1.0)
    assert torch.equal(ours.values[..., 0], torch.cat(codes, 1))
    plain = transformer.sample(TOKENIZER, torch.tensor(labels), 0.0)[0]
    assert not torch.equal(torch.cat(plain, 1), torch.cat(codes, 1))  # guidance, which the recipe has, changes something
    torch.testing.assert_close(system.tokenizer.decode(ours), TOKENIZER.pictures(features), atol=1e-4, rtol=0)


def test_the_recipe_says_how_the_paper_samples(system: System) -> None:
    sampling = system.recipe.sampling
    assert (sampling.top_k, sampling.top_p) == (900, 0.96)
    assert (sampling.guidance.kind, sampling.guidance.at(0, 0), sampling.guidance.at(0, 1)) == ("ramp", 1.0, 2.5)


def test_an_import_leads_back(transformer: theirs.Transformer, system: System) -> None:
    weights = transformer.state_dict()
    keys = var._generator(Source(Path("var.pth"), weights), Source(Path("vae.pth"), TOKENIZER.state_dict())).keys
    assert system.generator is not None
    back = keys.invert(system.generator.state_dict())
    left = {"attn_bias_for_masking", "lvl_1L", *(name for name in weights if name.endswith("zero_k_bias"))}
    assert back.keys() == weights.keys() - left
    assert all(torch.equal(back[name], weights[name]) for name in back)


@pytest.mark.parametrize(("depth", "positions", "side", "count"), [(16, 680, 256, 220), (30, 680, 256, 402), (36, 2240, 512, 446)])
def test_released_sizes_have_the_released_number_of_tensors(depth: int, positions: int, side: int, count: int) -> None:
    sizes = theirs.TokenizerSizes(sides=var.SCALES[positions])
    with torch.device("meta"):
        reference, transformer = theirs.Tokenizer(sizes), theirs.Transformer(sizes, depth, shared=depth == 36)
    weights = [Source(Path(name), module.state_dict()) for name, module in (("var.pth", transformer), ("vae.pth", reference))]
    assert [len(each.weights) for each in weights] == [count, 324]
    imported = var._generator(*weights)
    units = built(imported.stages["tokenizer"], Path("ours"), {})
    system = built(imported, Path("ours"), {"tokenizer": units})
    assert system.generator is not None
    assert system.tokenizer.media.size == (side, side)
    imported.stages["tokenizer"].keys.apply(weights[1].weights, system.tokenizer.state_dict())
    imported.keys.apply(weights[0].weights, system.generator.state_dict())


def test_a_missing_file_and_another_tokenizer_are_named(tmp_path: Path, transformer: theirs.Transformer) -> None:
    torch.save(transformer.state_dict(), tmp_path / "var.pth")
    with pytest.raises(CheckpointError, match="that of the tokenizer is missing"):
        RELEASES["var"].read([tmp_path / "var.pth"])
    other = TOKENIZER.state_dict() | {var.CODEBOOK: torch.zeros(7, SIZES.latent)}
    torch.save(other, tmp_path / "vae.pth")
    with pytest.raises(CheckpointError, match=r"predicts 48 codes, and .*vae\.pth has 7"):
        RELEASES["var"].read([tmp_path / "var.pth", tmp_path / "vae.pth"])


def test_a_tokenizer_alone(tmp_path: Path) -> None:
    torch.save(TOKENIZER.state_dict(), tmp_path / "vae.pth")
    import_weights("var-tokenizer", [tmp_path / "vae.pth"], tmp_path / "ours")
    system = load(str(tmp_path / "ours"), "cpu")
    assert torch.equal(system.tokenizer.encode(pictures()).values[..., 0], torch.cat(TOKENIZER.encode(pictures()), 1))
