"""unCLIP: the prior learns a vector, the decoder reads what the prior drew, and variations read a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cascades import noise_pictures, train_stages
from torch import Tensor

from jielong.conditions.classes import ClassCondition
from jielong.conditions.picture_embedding import PictureEmbeddingCondition
from jielong.config.recipe import parse
from jielong.core.rng import PerSampleRNG, seed_of
from jielong.core.tokens import Layout, Tokens
from jielong.generation.generator import Generator
from jielong.heads.diffusion import Diffusion
from jielong.networks.denoiser import MLP
from jielong.networks.identity import Identity
from jielong.orders.at_once import AtOnce
from jielong.system import System, load
from jielong.training import experiment

AUTOENCODER = "{convolutional: {patch: 4, channels: [8], blocks: [0]}}"
TRAIN = "train: {samples: 8, batch: 4, warmup: 4, sample_every: 8, save_every: 8, precision: fp32}\n"
EMBEDDING = f"""\
data: {{size: 8}}
tokenizer: {{two_towers: {{autoencoder: {AUTOENCODER}, features: 4, dim: 6, text: {{layers: 1, width: 8, heads: 2}}}}}}
losses: {{regression: {{kind: l2}}}}
{TRAIN}"""
TEXT = "{encoder: bytes, length: 8, width: 8"
CHAIN = "order: at_once\nbackbone: {none: {width: 8}}\n"
PRIOR = f"""\
data: {{size: 8}}
condition: {{text: {TEXT}}}}}
head: {{diffusion: {{network: {{mlp: {{layers: 1, width: 16}}}}, prediction: x0, variance: fixed, steps: 4}}}}
sampling: {{guidance: {{scale: 2.0}}}}
{CHAIN}{TRAIN}"""
PARTS = f"{{text: {TEXT}, cfg_dropout: 0.5}}, picture_embedding: {{stage: prior, width: 8}}}}"
DECODER = f"""\
data: {{size: 8}}
tokenizer: {{patches: {{patch: 4}}}}
condition: {{composite: {{parts: {PARTS}, width: 8, cfg_dropout: 0}}}}
head: {{flow_matching: {{network: {{dit: {{layers: 1, width: 16, heads: 2, condition: cross}}}}, steps: 3}}}}
sampling: {{guidance: {{scale: 2.0}}}}
{CHAIN}{TRAIN}"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_pictures(tmp_path_factory.mktemp("pictures"), 8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """Two steps of the embedding, the prior and the decoder."""
    root = tmp_path_factory.mktemp("runs")
    recipes = {
        "embedding": EMBEDDING,
        "prior": PRIOR + f"tokenizer: {{checkpoint: {root / 'embedding'}}}\n",
        "decoder": DECODER + f"stages: {{prior: {root / 'prior'}}}\n",
    }
    train_stages(root, recipes, pictures)
    return root


@pytest.fixture
def system(trained: Path) -> System:
    """The cascade, with weights large enough that everything matters."""
    loaded = load(str(trained / "decoder"), "cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for model in (loaded.generator, loaded.stages["prior"].generator):
            for parameter in model.parameters() if model else ():
                parameter += 0.2 * torch.randn(parameter.shape)
    return loaded


def condition_of(system: System) -> PictureEmbeddingCondition:
    assert system.generator is not None
    assert system.generator.condition is not None
    found = system.generator.condition.get_submodule("parts.picture_embedding")
    assert isinstance(found, PictureEmbeddingCondition)
    return found


def test_generation_reads_what_the_prior_has_drawn(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, condition = list[Tensor](), condition_of(system)
    embed = condition.embed

    def spy(prepared: Tensor) -> Any:
        seen.append(prepared)
        return embed(prepared)

    monkeypatch.setattr(condition, "embed", spy)
    assert system.inputs == ("text",)
    drawn = system.generate(text=["red", "blue"], count=2, seed=7).tensor
    promised = system.stages["prior"].generate_tokens(["red", "red", "blue", "blue"], seed=seed_of(7, "stage", "prior")).values
    assert len(seen) == 1, "guidance drops the vector too"
    torch.testing.assert_close(seen[0], promised)
    for batch in (1, 3):
        torch.testing.assert_close(system.generate(text=["red", "blue"], count=2, seed=7, batch=batch).tensor, drawn, rtol=1e-4, atol=1e-4)


def test_variations_read_the_picture_that_is_given(system: System, pictures: Path) -> None:
    path = pictures / "heldout" / "1.png"
    drawn = system.generate(variation_of=path, count=2, seed=1).tensor
    embedding = system.stages["prior"].stages["tokenizer"].tokenizer
    data = experiment.prepare(parse(EMBEDDING), str(pictures)).heldout
    token = embedding.encode(data.media([1])).values[0]
    torch.testing.assert_close(system.generate(variation_of=token, count=2, seed=1).tensor, drawn)
    assert not torch.allclose(drawn[0], drawn[1])
    assert not torch.allclose(system.generate(variation_of=-token, count=2, seed=1).tensor, drawn)


def test_training_reads_the_vectors_of_the_real_pictures(trained: Path, pictures: Path) -> None:
    parts = experiment.prepare(parse(DECODER + f"stages: {{prior: {trained / 'prior'}}}\n"), str(pictures))
    assert parts.generator is not None
    assert parts.generator.condition is not None
    parts.generator.condition.precompute(parts.data, parts.heldout)
    condition = parts.generator.condition.get_submodule("parts.picture_embedding")
    assert isinstance(condition, PictureEmbeddingCondition)
    expected = condition.tokenizer.encode(parts.data.media(range(8))).values
    torch.testing.assert_close(condition.prepare(parts.data.keys), expected)


def test_the_loss_sees_the_vector_unless_it_is_dropped(system: System) -> None:
    model = system.generator
    assert model is not None
    assert model.condition is not None
    tokens = system.encode(torch.rand(2, 3, 8, 8))
    vectors = torch.randn(2, 1, 6).requires_grad_()
    prepared = model.condition.prepare([{"text": "red", "picture_embedding": torch.zeros(1, 6)}] * 2)
    prepared["picture_embedding"] = prepared["picture_embedding"]._replace(prepared=vectors)
    for dropped in (None, torch.tensor([[False, False, True]] * 2), torch.tensor([[True, False, False]] * 2)):
        found = model.condition(prepared, dropped)
        (gradient,) = torch.autograd.grad(found.states.sum() + found.pooled.sum(), vectors, allow_unused=True)
        assert (gradient is not None and bool(gradient.any())) == (dropped is None)
    (gradient,) = torch.autograd.grad(model.eval().loss(tokens, prepared, PerSampleRNG(0, range(2))), vectors)
    assert bool((gradient.abs() > 0).all())


def test_the_prior_recovers_the_vectors_of_a_toy() -> None:
    """Two classes with one vector each: what is drawn is near its own; the other is orthogonal."""
    torch.manual_seed(0)
    layout, width = Layout((1,), 4, axes=("latents",)), 16
    head = Diffusion(network=MLP(layers=2, width=32), prediction="x0", variance="fixed", steps=10).build(width, layout)
    model = Generator(layout, AtOnce().build(), Identity(width, 8), head, ClassCondition(["a", "b"], 8, 0.1))
    targets = 2 * torch.eye(4)[:2, None]  # unit mean square
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(150):
        labels = torch.arange(32) % 2
        values = ["ab"[label] for label in labels.tolist()]
        assert model.condition is not None
        loss = model.loss(Tokens(targets[labels], layout), model.condition.prepare(values), PerSampleRNG(step, range(32)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = model.eval().generate(["a", "b"] * 8, seed=1).values[:, 0]
    cosines = torch.nn.functional.cosine_similarity(drawn, targets[torch.arange(16) % 2, 0])
    assert float(cosines.min()) > 0.9


def test_a_stage_of_many_tokens_is_refused(trained: Path, pictures: Path, tmp_path: Path) -> None:
    grid = PRIOR + "tokenizer: {patches: {patch: 4}}\n"
    experiment.run(parse(grid), tmp_path / "grid", data=str(pictures), device="cpu", progress=False, evaluate=False)
    with pytest.raises(
        ValueError, match=r"reads one vector a picture, but the stage 'prior' has a grid .*: take a stage over the tokenizer"
    ):
        experiment.prepare(parse(DECODER + f"stages: {{prior: {tmp_path / 'grid'}}}\n"), str(pictures))
