"""MAR's released layout, imported: equal to a reference written from the paper on the same random weights."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from reference import mar as theirs
from safetensors.torch import save_file
from torch import Tensor, nn

from jielong.config.schema import Recipe
from jielong.core.allocation import without_parameters
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Tokens
from jielong.heads.base import HeadContext
from jielong.interop.checkpoints import import_weights
from jielong.interop.files import Source
from jielong.interop.systems import RELEASES, mar
from jielong.networks.backbone import BackboneInputs
from jielong.system import System, build_generator, build_tokenizer, load
from jielong.training.checkpoint import CheckpointError

WIDTHS, LATENT, SIDE, N = (32, 64), 4, 8, 16  # two stages, so a token covers 2 x 2 pixels and a picture has 4 x 4 tokens
SIZES = theirs.Sizes(width=128, depth=2, heads=2, tokens=N, channels=LATENT, buffer=6, classes=9, head_width=48, head_depth=2)


def drawn(model: nn.Module, seed: int) -> nn.Module:
    """Weights that all do something: maps keep the deviation of their inputs, norms are near 1, and vectors near 0.3."""
    generator = torch.Generator().manual_seed(seed)
    norms = tuple(f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.LayerNorm | nn.GroupNorm))
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        fan_in = math.prod(weight.shape[1:])
        small = 0.02 if "adaLN" in name else 1.0
        weight.data = 1 + 0.2 * noise if name in norms else noise * (small * fan_in**-0.5 if weight.ndim in (2, 4) else 0.3 * small)
    return model.eval()


MODEL, AUTOENCODER = drawn(theirs.MAR(SIZES), 1), drawn(theirs.AutoencoderKL(WIDTHS, LATENT), 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("released")
    model, autoencoder = folder / "checkpoint-last.pth", folder / "kl16.ckpt"
    last = {name: value + 0.1 for name, value in MODEL.state_dict().items()}
    torch.save({"model": last, "model_ema": MODEL.state_dict(), "optimizer": {}, "epoch": 3, "args": Namespace(cfg=2.9)}, model)
    torch.save({"model": AUTOENCODER.state_dict() | {"loss.logvar": torch.zeros(1)}}, autoencoder)
    return model, autoencoder


@pytest.fixture(scope="module")
def system(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> System:
    folder = tmp_path_factory.mktemp("imported") / "mar"
    report = import_weights("mar", files, folder, check=True)
    assert report.output is not None
    assert any("these are the averages (EMA), of which the published figures are" in note for note in report.notes)
    assert any("took the weights under 'model_ema', not those under 'model'" in note for note in report.notes)
    assert any("left out: networks of the losses" in line for line in report.changes)
    return load(str(folder), "cpu")


def pictures(count: int = 2) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) * 2 - 1


@torch.no_grad()
def test_the_autoencoder_gives_its_means_and_pictures(system: System) -> None:
    mean, log_variance = AUTOENCODER.encode(pictures()).chunk(2, dim=1)
    tokens = system.tokenizer.encode(pictures())
    assert mean.std() > 0.1
    torch.testing.assert_close(tokens.values, 0.2325 * mean.flatten(2).mT, atol=1e-4, rtol=1e-4)
    kept = system.tokenizer.encode_to_cache(pictures()).values[..., LATENT:]
    torch.testing.assert_close(kept, (log_variance.clamp(-30, 20) + 2 * math.log(0.2325)).flatten(2).mT, atol=1e-4, rtol=1e-4)
    decoded = AUTOENCODER.decode(mean)
    assert (decoded.abs() < 1).float().mean() > 0.3
    torch.testing.assert_close(system.tokenizer.decode(tokens), decoded.clamp(-1, 1), atol=1e-4, rtol=1e-4)


def hidden(system: System, tokens: Tensor, mask: Tensor, labels: list[int | None]) -> Tensor:
    model = system.generator
    assert model is not None
    assert model.condition is not None
    dropped = torch.tensor([label is None for label in labels])
    conditioning = model.condition(model.condition.prepare([label or 0 for label in labels]), dropped)
    inputs = model.embeddings(tokens, ~mask, slice(0, N), model.position_vectors(model.plan))
    return model.backbone(BackboneInputs(inputs, model.plan.coords, model.plan.blocks, conditioning, ~mask))


@torch.no_grad()
def test_hidden_vectors_whatever_is_known(system: System) -> None:
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randn(4, N, LATENT, generator=generator)
    mask = torch.rand(4, N, generator=generator) < torch.tensor([1.1, 0.8, 0.3, -1])[:, None]
    labels = [8, None, 0, 5]
    expected = MODEL.hidden(tokens, mask.float(), labels)
    assert expected.std() > 0.5
    torch.testing.assert_close(hidden(system, tokens, mask, labels), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("step", [0, 1, 500, 999])
def test_outputs_of_the_head(system: System, step: int) -> None:
    assert system.generator is not None
    generator = torch.Generator().manual_seed(5)
    x, z = torch.randn(7, LATENT, generator=generator), torch.randn(7, SIZES.width, generator=generator)
    expected = MODEL.diffloss.net(x, torch.full((7,), step), z)
    assert expected.std() > 0.1
    network = system.generator.head.network
    torch.testing.assert_close(network(x, torch.full((7, 1), step / 1000), z), expected, atol=1e-4, rtol=1e-4)  # type: ignore[operator]


def close(found: Tensor, expected: Tensor) -> None:
    """Chains of random weights end at large numbers, and errors of rounding are relative to them."""
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@torch.no_grad()
@pytest.mark.parametrize(("steps", "scale", "temperature"), [(100, 1.0, 1.0), (100, 2.9, 0.9), (7, 2.9, 1.0)])
def test_the_chain_of_the_head_on_the_same_draws(system: System, steps: int, scale: float, temperature: float) -> None:
    assert system.generator is not None
    z = torch.randn(4, 3, SIZES.width, generator=torch.Generator().manual_seed(6))
    rng, count = PerSampleRNG(9, range(2)), 3
    own, null = z.chunk(2)
    sampling = system.recipe.sampling.override(num_inference_steps=steps, temperature=temperature)
    found = system.generator.head.sample(own, rng, sampling, HeadContext(null if scale != 1 else None, scale)).values
    again = PerSampleRNG(9, range(2))
    rows = z.flatten(0, 1) if scale != 1 else own.flatten(0, 1)
    draw: Callable[[], Tensor] = lambda: again.normal(count, LATENT).flatten(0, 1)  # noqa: E731
    expected = MODEL.diffloss.sample(rows, draw(), draw, steps, temperature, scale)
    close(found.flatten(0, 1), expected)


@torch.no_grad()
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("steps", [5, N])
def test_samples_by_the_official_schedule(system: System, steps: int, cache: bool) -> None:
    """The same order of tokens and the same noise: linear guidance, and as many tokens a step as theirs."""
    assert system.generator is not None
    labels, seed = [3, 0], 11
    options = {
        "steps": steps,
        "num_inference_steps": 10,
        "temperature": 0.95,
        "guidance": {"scale": 2.9, "kind": "linear", "counted": "after"},
    }
    found = system.generator.generate(labels, seed=seed, cache=cache, **options).values
    rng = PerSampleRNG(seed, range(2))
    orders = rng.uniform(N).argsort(dim=1, stable=True).flip(1)

    def draws(step: int, chosen: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        def noise() -> Tensor:
            return rng.normal(chosen.shape[1], LATENT).flip(1).flatten(0, 1)

        return noise(), noise

    expected = theirs.sample(MODEL, labels, orders, draws, steps, head_steps=10, scale=2.9, temperature=0.95)
    close(found, expected)


def test_the_recipe_has_the_official_settings(system: System) -> None:
    recipe = system.recipe
    assert recipe.order is not None
    assert recipe.head is not None
    assert recipe.backbone is not None
    assert [step.hidden_after for step in recipe.order.build().steps(256, 64)] == [*theirs.hidden_counts(256, 64)[:-1], 0]
    assert recipe.order.steps == N  # type: ignore[attr-defined]
    assert (recipe.head.steps, recipe.head.start, recipe.head.clamp_variance) == (100, None, False)  # type: ignore[attr-defined]
    assert recipe.sampling.temperature == 1.0
    assert system.tokenizer.layout.grid == (4, 4)


def test_key_counts_at_official_sizes() -> None:
    with torch.device("meta"):
        assert len(theirs.MAR().state_dict()) == 364
        assert len(theirs.AutoencoderKL().state_dict()) == 312


@pytest.mark.parametrize(
    ("width", "depth", "heads", "head_width", "head_depth", "scale", "millions"),
    [(768, 12, 12, 1024, 6, 2.9, 208), (1024, 16, 16, 1280, 8, 3.0, 479), (1280, 20, 16, 1536, 12, 3.2, 943)],
)
def test_official_sizes_on_meta(width: int, depth: int, heads: int, head_width: int, head_depth: int, scale: float, millions: int) -> None:
    """Every released tensor has its place in the model that is built, and every tensor of ours comes from somewhere."""
    with torch.device("meta"):
        weights = theirs.MAR(theirs.Sizes(width, depth, heads, head_width=head_width, head_depth=head_depth)).state_dict()
        units = theirs.AutoencoderKL().state_dict()
    assert math.ceil(sum(tensor.numel() for tensor in weights.values()) / 1e6) == millions
    imported = mar._model(Source(Path("mar.pth"), weights, under="model_ema"), Source(Path("kl16.ckpt"), units))
    stage = imported.stages["tokenizer"]
    with without_parameters():
        tokenizer = build_tokenizer(Recipe.model_validate({"train": {"samples": 1}, **stage.recipe}), stage.media)
        recipe = Recipe.model_validate({"train": {"samples": 1}, "tokenizer": {"checkpoint": "kl"}, **imported.recipe})
        generator = build_generator(recipe, tokenizer, imported.classes)
    imported.keys.apply(weights, generator.state_dict())
    stage.keys.apply(units, tokenizer.state_dict())
    assert generator.layout.grid == (16, 16)
    assert tokenizer.media.size == (256, 256)
    assert (recipe.sampling.guidance.scale, recipe.sampling.guidance.counted) == (scale, "after")
    assert recipe.backbone.heads == heads  # type: ignore[union-attr]
    assert not any("of the last step" in note for note in imported.notes)


def test_the_map_leads_back(system: System) -> None:
    assert system.generator is not None
    back = mar._keys(SIZES.buffer, SIZES.head_depth).invert(system.generator.state_dict())
    assert back.keys() == MODEL.state_dict().keys()
    assert all(torch.equal(value, MODEL.state_dict()[name]) for name, value in back.items())


def test_which_weights_a_file_holds_is_said(files: tuple[Path, Path], tmp_path: Path) -> None:
    copied, old = tmp_path / "model.safetensors", tmp_path / "checkpoint-last.pth"
    save_file(MODEL.state_dict(), copied)
    torch.save({"model": MODEL.state_dict(), "epoch": 3}, old)
    for path, said in ((copied, "it does not say which weights it holds"), (old, "there are no averages (EMA) in it")):
        imported = RELEASES["mar"].read([path, files[1]])
        assert any(said in note for note in imported.notes)


def test_wrong_files_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, autoencoder = files
    read = RELEASES["mar"].read
    with pytest.raises(CheckpointError, match="that of the autoencoder is missing"):
        read([model])
    with pytest.raises(CheckpointError, match="both a model"):
        read([model, model])
    other = tmp_path / "kl8.ckpt"
    with torch.device("cpu"):
        torch.save({"model": theirs.AutoencoderKL(WIDTHS, 3).state_dict()}, other)
    with pytest.raises(CheckpointError, match=r"tokens of 4 numbers, and .* latents of 3"):
        read([model, other])
    spare = tmp_path / "spare.pth"
    torch.save({"model_ema": MODEL.state_dict() | {"encoder_blocks.2.extra": torch.zeros(1)}}, spare)
    with pytest.raises(CheckpointError, match=r"1 unexpected \(encoder_blocks\.2\.extra\)"):
        import_weights("mar", [spare, autoencoder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_autoencoder_alone(files: tuple[Path, Path], tmp_path: Path) -> None:
    import_weights("mar-tokenizer", [files[1]], tmp_path / "kl16")
    units = load(str(tmp_path / "kl16"), "cpu").tokenizer
    assert units.media.size == (256, 256)
    decoded = units.decode(Tokens(torch.zeros(1, 128 * 128, LATENT), units.layout))
    assert decoded.shape == (1, 3, 256, 256)
