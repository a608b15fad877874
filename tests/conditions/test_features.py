"""Given features as a condition: files, sizes, negatives in guidance, and dropped ones in training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from jielong.backbones.none import NoBackbone
from jielong.conditions.features import Features, FeaturesCondition, GivenFeatures, read_features
from jielong.core.tokens import Layout
from jielong.generation.generator import Generator
from jielong.heads.flow_matching import FlowMatching
from jielong.networks.mmdit import MMDiT
from jielong.orders.at_once import AtOnce

WIDTH, POOLED, LAYOUT = 6, 4, Layout((2, 2), channels=3)
GIVEN = GivenFeatures(width=WIDTH, pooled=POOLED, length=5, null_condition="given")


def features(seed: int, length: int = 3, negative: bool = True) -> Features:
    draws = torch.Generator().manual_seed(seed)
    rest = (torch.randn(2, WIDTH, generator=draws), torch.randn(POOLED, generator=draws)) if negative else (None, None)
    return Features(torch.randn(length, WIDTH, generator=draws), torch.randn(POOLED, generator=draws), *rest)


def model_of(settings: GivenFeatures) -> Generator:
    torch.manual_seed(0)
    head = FlowMatching(network=MMDiT(layers=1, width=8, heads=2), steps=3).build(8, LAYOUT, WIDTH)
    backbone = NoBackbone(width=8, pooled="mlp").build(LAYOUT, WIDTH)
    model = Generator(LAYOUT, AtOnce().build(), backbone, head, settings.build(), torch.nn.Identity())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_a_file_is_read_as_what_was_written(tmp_path: Path) -> None:
    path, wanted = tmp_path / "one.safetensors", features(1)
    save_file({name: tensor for name, tensor in wanted._asdict().items() if tensor is not None}, path)
    for value in (path, str(path), path.read_bytes(), wanted._asdict()):
        for found, given in zip(read_features(value), wanted, strict=True):
            assert found is not None
            assert torch.equal(found, given)


@torch.no_grad()
def test_states_and_pooled_vector_are_those_given() -> None:
    condition = FeaturesCondition(GIVEN)
    one, other = features(1, 2), features(2, 5)
    out = condition(condition.prepare([one, other]))
    assert out.mask.tolist() == [[True, True, False, False, False], [True] * 5]
    assert torch.equal(out.states[0, :2], one.states)
    assert torch.equal(out.states[1], other.states)
    assert torch.equal(out.pooled[:, :POOLED], torch.stack([one.pooled, other.pooled]))
    assert not out.pooled[:, POOLED:].any()


@torch.no_grad()
def test_guidance_leads_away_from_the_negative_features() -> None:
    model, items = model_of(GIVEN), [features(1), features(2)]
    plain = [Features(each.states, each.pooled, each.states, each.pooled) for each in items]
    drawn = model.generate(items, guidance=3.0, seed=1).values
    assert not torch.allclose(drawn, model.generate(items, seed=1).values)
    # Where the negative is the item's own, guidance of any scale changes nothing.
    torch.testing.assert_close(model.generate(plain, guidance=3.0, seed=1).values, model.generate(items, seed=1).values)
    # As the negatives of the generator's own call.
    learned = model_of(GIVEN.model_copy(update={"null_condition": "learned"}))
    learned.load_state_dict(model.state_dict())
    negatives = [Features(each.negative_states, each.negative_pooled) for each in items]  # type: ignore[arg-type]
    torch.testing.assert_close(learned.generate(items, guidance=3.0, seed=1, negatives=negatives).values, drawn)


@torch.no_grad()
def test_dropped_features_are_the_negative_ones_or_the_null_vector() -> None:
    items, dropped = [features(1), features(2)], torch.tensor([False, True])
    condition = FeaturesCondition(GIVEN)
    out = condition(condition.prepare(items), dropped)
    assert out.mask.sum(1).tolist() == [3, 2]
    assert torch.equal(out.states[1, :2], items[1].negative_states)
    assert torch.equal(out.pooled[1, :POOLED], items[1].negative_pooled)
    assert torch.equal(out.states[0, :3], items[0].states)
    learned = FeaturesCondition(GIVEN.model_copy(update={"null_condition": "learned"}))
    out = learned(learned.prepare(items), dropped)
    assert out.mask.sum(1).tolist() == [3, 1]
    assert torch.equal(out.states[1, 0], learned.null)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    condition = FeaturesCondition(GIVEN)
    with pytest.raises(ValueError, match="lack negative_states and negative_pooled"):
        condition.prepare([features(1, negative=False)])
    with pytest.raises(ValueError, match=r"states must be \(1 to 5, 6\), not \(7, 6\)"):
        condition.prepare([features(1, 7)])
    with pytest.raises(ValueError, match=r"pooled must be \(4,\), not \(6,\)"):
        condition.prepare([features(1)._replace(pooled=torch.zeros(6))])
    with pytest.raises(ValueError, match="must be finite"):
        condition.prepare([features(1)._replace(states=torch.full((1, WIDTH), torch.nan))])
    with pytest.raises(ValueError, match="there are no features at"):
        condition.prepare([str(tmp_path / "none")])
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match="are no safetensors file"):
        condition.prepare([tmp_path / "text"])
    with pytest.raises(ValueError, match="not states"):
        read_features({"states": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="draws nothing without features"):
        model_of(GIVEN).generate(count=1)
    with pytest.raises(ValueError, match="at most that, not 7"):
        GivenFeatures(width=6, pooled=7)
