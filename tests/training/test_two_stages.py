"""A tokenizer that learns in two stages (TiTok): which losses count, what moves, what the second begins from, and that runs resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from jielong.config.registry import parse_part
from jielong.core.rng import PerSampleRNG
from jielong.data.order import ShuffledOrder
from jielong.data.sets import Batch
from jielong.losses.adversarial import Adversarial
from jielong.losses.base import LossContext, LossTerms
from jielong.losses.regression import Regression
from jielong.media.kinds.image import image_medium
from jielong.tokenizers.base import LearnedTokenizer
from jielong.training.ema import Ema
from jielong.training.objective import StepRNG
from jielong.training.settings import TrainSettings
from jielong.training.state import latest_state
from jielong.training.tokenizer_objective import TokenizerObjective
from jielong.training.trainer import Summary, train

MEDIA = image_medium(3, (8, 8))
FINETUNE_AT, SAMPLES, BATCH = 48, 96, 8
SETTINGS = TrainSettings(
    samples=SAMPLES, batch=BATCH, lr=1e-2, warmup=8, ema=0.9, weight_decay=0.5, precision="fp32", log_every=8, save_every=8, sample_every=96
)
FROZEN = ("model.encoder.", "model.quantizer.")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_tokenizer() -> LearnedTokenizer:
    torch.manual_seed(0)
    autoencoder = {"convolutional": {"channels": [8], "blocks": [1], "patch": 4}}
    vector = {"vector": {"codebook_size": 8, "kmeans_iterations": 0}}
    proxy = parse_part("tokenizer", {"vq": {"autoencoder": autoencoder, "dim": 4, "quantizer": vector}}).build(MEDIA).eval()  # type: ignore[attr-defined]
    size = {"layers": 1, "width": 16, "heads": 2}
    settings = {"proxy": "p", "tokens": 3, "finetune_at": FINETUNE_AT, "patch": 4, "dim": 4, "encoder": size, "decoder": size}
    vector = {"vector": {"codebook_size": 16, "normalize": True}}
    return parse_part("tokenizer", {"titok": settings | {"quantizer": vector}}).build(MEDIA, {"proxy": proxy})  # type: ignore[attr-defined, no-any-return]


def make_objective() -> TokenizerObjective:
    """All kinds of losses of a recipe, each told to start before there is anything to compare."""
    torch.manual_seed(1)
    losses = [Regression(kind="l2"), Adversarial(start_samples=8, channels=8, layers=1)]
    return TokenizerObjective(make_tokenizer(), LossTerms.of(losses, LossContext(MEDIA)), pictures()[:4], lambda model: {})


def pictures() -> Tensor:
    return torch.rand(40, *MEDIA.shape, generator=torch.Generator().manual_seed(5)) * 2 - 1


class Stream:
    """Forty pictures in endless shuffled order."""

    def __init__(self) -> None:
        self.pictures, self.order = pictures(), ShuffledOrder(40, seed=1)

    def batch(self, first: int, count: int) -> Batch:
        rows = self.order.at(first, count)
        return Batch(self.pictures[rows], None, None, [str(row) for row in rows])


def run(out: Path, optimizer: str = "adamw", stop_after: int | None = None) -> Summary:
    settings = SETTINGS.model_copy(update={"optimizer": optimizer})
    options = {"recipe_yaml": f"train: {{optimizer: {optimizer}}}", "progress": False, "device": "cpu", "stop_after": stop_after}
    return train(make_objective(), Stream(), settings, out, **options)  # type: ignore[arg-type]


def tensors(out: Path, name: str = "objective") -> dict[str, Tensor]:
    state = latest_state(out)
    assert state is not None
    return load_file(state / f"{name}.safetensors")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_frozen_weights_are_the_same_bits_to_the_end_and_the_rest_learns(tmp_path: Path, optimizer: str) -> None:
    """With weight decay and momentum that would move them."""
    if optimizer == "muon":
        pytest.importorskip("pytorch_optimizer")
    run(tmp_path, optimizer, stop_after=FINETUNE_AT)
    before, averaged = tensors(tmp_path), tensors(tmp_path, "ema")
    run(tmp_path, optimizer, stop_after=FINETUNE_AT + BATCH)
    begun = tensors(tmp_path)
    assert run(tmp_path, optimizer).finished
    after, kept = tensors(tmp_path), load_file(tmp_path / "model.safetensors")
    frozen = {name for name in after if name.startswith(FROZEN)}
    assert len(frozen) > 20
    for name in after:
        inside = name.removeprefix("model.")
        if name in frozen:
            assert torch.equal(after[name], begun[name]), name
            assert torch.equal(after[name], averaged.get(inside, before[name])), f"{name}: the second stage begins from the averages"
            assert torch.equal(after[name], kept[inside]), f"{name}: what was frozen is what is kept"
        elif name.startswith("model.") and name != "model.proxy_codes":
            assert not torch.equal(after[name], begun[name]), name
    assert not torch.equal(before["model.encoder.out.weight"], averaged["encoder.out.weight"])


def test_in_the_first_stage_only_its_own_losses_count(tmp_path: Path) -> None:
    run(tmp_path, stop_after=FINETUNE_AT)
    first, start = tensors(tmp_path), {f"model.{name}": value for name, value in make_tokenizer().state_dict().items()}
    waiting = [name for name in start if name.startswith("model.pixel_decoder.")]
    assert len(waiting) > 4
    assert all(torch.equal(first[name], start[name]) for name in waiting)
    objective = make_objective()
    batch = Stream().batch(0, BATCH)

    def parts(samples_seen: int) -> set[str]:
        draws = StepRNG(PerSampleRNG(0, range(BATCH)), torch.Generator().manual_seed(0))
        return set(objective(batch, "model", samples_seen, draws).parts)

    assert parts(0) == parts(FINETUNE_AT - BATCH) == {"proxy", "commitment"}
    assert parts(FINETUNE_AT) == {"regression", "adversarial", "adversarial_weight"}
    assert [objective.active("discriminator", seen) for seen in (0, 8, FINETUNE_AT - 1, FINETUNE_AT)] == [False, False, False, True]
    assert objective.active("model", 0)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_stopped_around_the_change_of_stages_equals_one_that_was_not(tmp_path: Path, optimizer: str) -> None:
    if optimizer == "muon":
        pytest.importorskip("pytorch_optimizer")
    run(tmp_path / "whole", optimizer)
    for stop in (FINETUNE_AT - BATCH, FINETUNE_AT, FINETUNE_AT + BATCH):
        assert run(tmp_path / "parts", optimizer, stop_after=stop).samples == stop
    run(tmp_path / "parts", optimizer)
    assert (tmp_path / "parts/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    for name in ("objective", "ema", "optimizer-model", "optimizer-discriminator"):
        one, other = tensors(tmp_path / "parts", name), tensors(tmp_path / "whole", name)
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items()), name


def test_the_proxy_is_in_no_checkpoint(tmp_path: Path) -> None:
    run(tmp_path)
    for stored in (load_file(tmp_path / "model.safetensors"), tensors(tmp_path)):
        assert not [name for name in stored if "proxy." in name]


def test_adopting_averages_changes_the_model_alone() -> None:
    model = torch.nn.Linear(2, 1)
    ema = Ema(model, 0.5)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1
    ema.update(10**6)
    ema.copy_to_model()
    torch.testing.assert_close(model.weight.detach(), start + 0.5)
    ema.update(10**6 + 1)
    assert torch.equal(ema.state()["weight"], model.weight)
