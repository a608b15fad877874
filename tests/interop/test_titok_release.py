"""TiTok's released layout, imported: equal to a reference written from the paper on the same random weights."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reference import titok as theirs
from safetensors.torch import save_file
from torch import Tensor, nn

from jielong.config.schema import Recipe
from jielong.core.allocation import without_parameters
from jielong.core.tokens import Tokens
from jielong.interop.checkpoints import import_weights
from jielong.interop.files import Source
from jielong.interop.systems import titok
from jielong.system import System, build_tokenizer, load
from jielong.training.checkpoint import CheckpointError

SIZES = theirs.Sizes(
    picture=16, patch=4, tokens=5, codes=400, dim=4, width=64, layers=2, heads=1, pixel_codes=24, pixel_dim=8, pixel_channels=(32, 32, 64)
)  # a grid of 4 x 4, whose positions cover 4 x 4 pixels in both networks


def drawn(sizes: theirs.Sizes, seed: int = 1) -> theirs.TiTok:
    """Weights that all do something: maps keep the deviation of their inputs, norms are near 1, and pictures lie in [0, 1] for the most."""
    model, generator = theirs.TiTok(sizes), torch.Generator().manual_seed(seed)
    norms = tuple(f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.LayerNorm | nn.GroupNorm))
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        free = name.endswith(("embedding", "tokens", "token")) or "quantize" in name or weight.ndim == 1
        weight.data = 1 + 0.2 * noise if name in norms else noise * (0.5 if free else math.prod(weight.shape[1:]) ** -0.5)
    model.encoder.patch_embed.weight.data *= 6  # so that codes of different pictures differ
    model.decoder.ffn[2].weight.data *= 3
    model.pixel_decoder.conv_out.weight.data *= 0.2
    model.pixel_decoder.conv_out.bias.data[:] = 0.5
    return model.eval()


MODEL = drawn(SIZES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released")
    save_file(MODEL.state_dict(), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model": {"vq_model": {"codebook_size": 40}}}))
    return path


@pytest.fixture(scope="module")
def system(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> System:
    out = tmp_path_factory.mktemp("imported") / "titok"
    report = import_weights("titok", [folder], out, check=True)
    assert report.output is not None
    assert "2 folded to read pictures in [-1, 1]" in report.changes
    assert "1 folded with the map that is added to them" in report.changes
    return load(str(out), "cpu")


def pictures(count: int = 6) -> Tensor:
    """In [0, 1]; a colour a patch."""
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(3)).repeat_interleave(4, 2).repeat_interleave(4, 3)


@torch.no_grad()
def test_codes_are_equal(system: System) -> None:
    expected = MODEL.encode(pictures())
    assert expected.unique().numel() > 6
    assert (expected != expected[0]).any()
    assert torch.equal(system.tokenizer.encode(2 * pictures() - 1).values[..., 0], expected)
    vectors = system.tokenizer.encoder(2 * pictures() - 1)  # type: ignore[operator]
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(unit, MODEL.vectors(pictures()), atol=1e-4, rtol=1e-4)
    assert not torch.equal(MODEL.encode(pictures(), legacy=False), expected)


@torch.no_grad()
def test_pictures_are_equal(system: System) -> None:
    codes = torch.randint(400, (4, 5), generator=torch.Generator().manual_seed(4))
    expected = MODEL.decode(codes)
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.5
    assert MODEL.logits(codes).softmax(1).amax(1).mean() > 0.2, "the lookup is soft and not even"
    found = system.tokenizer.decode(Tokens(codes[..., None], system.tokenizer.layout))
    torch.testing.assert_close((found + 1) / 2, expected.clamp(0, 1), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_order_of_features_is_read_from_the_configuration(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "theirs" / "config.json").write_text(json.dumps({"model": {"vq_model": {"is_legacy": False}}}))
    import_weights("titok", [tmp_path / "theirs"], tmp_path / "ours")
    tokens = load(str(tmp_path / "ours"), "cpu").tokenizer.encode(2 * pictures() - 1)
    assert torch.equal(tokens.values[..., 0], MODEL.encode(pictures(), legacy=False))


def test_a_file_alone_has_the_released_order(folder: Path) -> None:
    torch.save(MODEL.state_dict(), folder / "tokenizer_titok.bin")
    assert titok.read_tokenizer([folder / "tokenizer_titok.bin"]).recipe["tokenizer"].legacy_reshape  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("tokens", "width", "layers", "heads"), [(32, 1024, 24, 16), (64, 768, 12, 12), (128, 512, 8, 8)], ids=["L-32", "B-64", "S-128"]
)
def test_official_sizes_on_meta(tokens: int, width: int, layers: int, heads: int) -> None:
    """Every released tensor has its place in the model that is built, and every tensor of ours comes from somewhere."""
    sizes = replace(theirs.Sizes(), tokens=tokens, width=width, layers=layers, heads=heads)
    with torch.device("meta"):
        weights = theirs.TiTok(sizes).state_dict()
    # A half has 12 tensors a block, two norms, a class token and two tables; then maps, codes, and the decoder of pixels.
    assert len(weights) == 2 * (12 * layers + 7) + (1 + 2 + 2) + (2 + 1 + 4) + 2 + 88
    imported = titok.tokenizer(Source(Path("titok.safetensors"), weights))
    recipe = Recipe.model_validate({"train": {"samples": 1}, **imported.recipe})
    with without_parameters():
        tokenizer = build_tokenizer(recipe, imported.media)
    imported.keys.apply(weights, tokenizer.state_dict())
    assert imported.media.size == (256, 256)
    assert tokenizer.layout.positions == tokens
    assert tokenizer.layout.bits == 12 * tokens
    assert recipe.tokenizer.encoder.heads == heads  # type: ignore[union-attr]


def test_other_files_are_named(folder: Path, tmp_path: Path) -> None:
    state = MODEL.state_dict()
    one_stage = {name: tensor for name, tensor in state.items() if not name.startswith("pixel_")}
    with pytest.raises(CheckpointError, match=r"has no pixel_decoder: .* those of two stages are read \(L-32, B-64, S-128\)"):
        titok.tokenizer(Source(Path("sl256"), one_stage))
    with pytest.raises(CheckpointError, match="is no tokenizer of TiTok: it has no latent_tokens"):
        titok.tokenizer(Source(Path("other"), {"a": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="one folder or file, but 2 were given"):
        titok.read_tokenizer([folder, folder])
    save_file({name: tensor for name, tensor in state.items() if name != "decoder.ffn.0.bias"}, tmp_path / "titok.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing \(decoder\.ffn\.0\.bias\)"):
        import_weights("titok", [tmp_path / "titok.safetensors"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
