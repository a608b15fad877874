"""Chains of continuous tokens that are drawn in one evaluation: their recipes through every command, and nats per token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jielong.core.rng import PerSampleRNG
from jielong.data.opening import open_data
from jielong.evaluation.likelihood import bits_per_dimension, nats_per_token
from jielong.networks.backbone import BackboneInputs
from jielong.system import System, load

from .conftest import brief, command, succeed


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> dict[str, System]:
    """The three recipes after two steps, over one tokenizer."""
    out = tmp_path_factory.mktemp("densities")
    succeed("train", "kl-tiny", "--data", pictures, "--out", out / "kl", *brief())
    for name in ("givt-causal", "givt-masked", "mar-energy"):
        succeed("train", f"{name}-tiny", "--data", pictures, "--out", out / name, *brief(f"tokenizer={{checkpoint: {out / 'kl'}}}"))
    return {name: load(str(out / name)) for name in ("givt-causal", "givt-masked", "mar-energy")}


@pytest.mark.parametrize("name", ["givt-causal", "givt-masked", "mar-energy"])
def test_samples_do_not_depend_on_the_batch_or_the_cache(name: str, systems: dict[str, System]) -> None:
    system, captions = systems[name], ["a red square", "a blue square", "a green square"]
    together = system.generate_tokens(captions, seed=3, guidance=2.0)
    assert together.values.shape == (3, 16, 4)
    assert bool(torch.isfinite(together.values).all())
    alone = system.generate_tokens(captions, seed=3, guidance=2.0, batch=1)
    torch.testing.assert_close(together.values, alone.values, rtol=1e-3, atol=1e-3)
    naive = system.generate_tokens(captions, seed=3, guidance=2.0, cache=False)
    torch.testing.assert_close(together.values, naive.values, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_nats_per_token_are_the_chain_rule_written_out(systems: dict[str, System], pictures: Path) -> None:
    """Each token's density given those before it, one position at a time, from hidden vectors of the uncached backbone."""
    system, images = systems["givt-causal"], open_data(pictures, size=16, split="heldout")
    measured = nats_per_token(system, images.media(range(6)), list(images.captions), batch=4, seed=1)
    model = system.generator
    assert model is not None
    assert model.condition is not None
    total, count = 0.0, model.layout.positions
    for index in range(6):
        kept = system.tokenizer.encode_to_cache(images.media([index]))
        values = system.tokenizer.sample_cached(kept, PerSampleRNG(1, [index])).values
        conditioning = model.condition(model.condition.prepare([images.captions[index]]))
        for place in (0, 1, count - 1):  # what comes later cannot change what is said of a place
            shown = values.clone()
            shown[:, place:] = 7.0
            inputs = model.embeddings(shown, torch.ones(1, count, dtype=torch.bool), slice(0, count), model.position_vectors(model.plan))
            early = model.backbone(BackboneInputs(inputs, model.plan.coords, model.plan.blocks, conditioning))[:, place]
            inputs = model.embeddings(values, torch.ones(1, count, dtype=torch.bool), slice(0, count), model.position_vectors(model.plan))
            late = model.backbone(BackboneInputs(inputs, model.plan.coords, model.plan.blocks, conditioning))[:, place]
            torch.testing.assert_close(model.head.log_prob(early, values[:, place]), model.head.log_prob(late, values[:, place]))
        total -= float(
            model.head.log_prob(model.backbone(BackboneInputs(inputs, model.plan.coords, model.plan.blocks, conditioning)), values).sum()
        )
    assert measured.value == pytest.approx(total / (6 * count), rel=1e-5)
    assert measured.details["nats_a_number"] == pytest.approx(measured.value / 4)
    assert "not comparable" in measured.details["warning"]


def test_where_there_is_no_density_a_sentence_says_why(systems: dict[str, System], chain: Path) -> None:
    picture = torch.zeros(1, 3, 16, 16)
    for name, reason in (("givt-masked", "does not draw one position after the other"), ("mar-energy", "one position after the other")):
        with pytest.raises(ValueError, match=reason):
            nats_per_token(systems[name], picture, ["a red square"])
    with pytest.raises(ValueError, match="its tokens are codes"):
        nats_per_token(load(str(chain)), picture)
    with pytest.raises(ValueError, match="its tokens are not pixels"):
        bits_per_dimension(systems["givt-causal"], picture, ["a red square"])
    causal = systems["givt-causal"].generator
    assert causal is not None
    causal.head.nats_a_value = lambda loss: None  # type: ignore[method-assign]
    try:
        with pytest.raises(ValueError, match="its head's loss is not a likelihood"):
            nats_per_token(systems["givt-causal"], picture, ["a red square"])
    finally:
        del causal.head.nats_a_value


def test_top_k_is_refused_in_a_sentence(systems: dict[str, System]) -> None:
    refused = command("generate", systems["mar-energy"].name, "--text", "a red square", "--top-k", 5)
    assert refused.exit_code == 1
    assert "draws numbers, not codes" in refused.stderr
