"""A continuous tokenizer in training: stopped and resumed, on two processes, and the scale that is measured in the end."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file
from torch import Tensor
from torch import distributed as dist

from jielong.config.registry import parse_part
from jielong.data.order import ShuffledOrder
from jielong.data.sets import Batch
from jielong.losses.adversarial import Adversarial
from jielong.losses.base import LossContext, LossTerms
from jielong.losses.regression import Regression
from jielong.media.kinds.image import image_medium
from jielong.quantizers.parallel import world
from jielong.tokenizers.kl import KLTokenizer
from jielong.training.settings import TrainSettings
from jielong.training.tokenizer_objective import TokenizerObjective
from jielong.training.trainer import Summary, train

MEDIA = image_medium(3, (8, 8))
SETTINGS = TrainSettings(
    samples=96, batch=8, lr=1e-2, warmup=8, ema=0.9, precision="fp32", log_every=8, save_every=8, sample_every=96, micro_batch=3
)
PICTURES = torch.rand(40, *MEDIA.shape, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_tokenizer() -> KLTokenizer:
    torch.manual_seed(0)
    autoencoder = {"convolutional": {"channels": [8], "blocks": [1], "patch": 4}}
    return parse_part("tokenizer", {"kl": {"autoencoder": autoencoder, "dim": 4, "normalize": "channel", "noise": 0.5}}).build(MEDIA)  # type: ignore[attr-defined, no-any-return]


def shares() -> list[Tensor]:
    rank, processes = world()
    return list(PICTURES[rank::processes].split(7))


def run(out: Path, stop_after: int | None = None) -> Summary:
    torch.manual_seed(1)
    # An adaptive weight is one a micro-batch, so it would differ with the number of processes.
    losses = [
        Regression(kind="l2"),
        Adversarial(start_samples=48, channels=8, layers=1, adaptive=False),
    ]
    objective = TokenizerObjective(make_tokenizer(), LossTerms.of(losses, LossContext(MEDIA)), PICTURES[:4], lambda model: {}, shares)
    return train(objective, Stream(), SETTINGS, out, recipe_yaml="a: 1", progress=False, device="cpu", stop_after=stop_after)


class Stream:
    """Forty pictures in endless shuffled order."""

    def __init__(self) -> None:
        self.order = ShuffledOrder(40, seed=1)

    def batch(self, first: int, count: int) -> Batch:
        rows = self.order.at(first, count)
        return Batch(PICTURES[rows], None, None, [str(row) for row in rows])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole")
    assert run(out).finished
    return out


def kept(out: Path) -> KLTokenizer:
    tokenizer = make_tokenizer().eval()
    tokenizer.load_state_dict(load_file(out / "model.safetensors"))
    return tokenizer


def test_what_is_kept_has_the_scale_of_its_own_tokens(whole: Path) -> None:
    """Not of the raw weights', which are others than the averages that are kept."""
    mean, log_variance = kept(whole).encode_to_cache(PICTURES).values.chunk(2, dim=-1)
    torch.testing.assert_close(mean.mean((0, 1)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(mean.square().mean((0, 1)) + log_variance.exp().mean((0, 1)), torch.ones(4), rtol=1e-4, atol=0)
    assert not torch.allclose(kept(whole).scale, torch.ones(4), rtol=0.01)


def test_a_run_that_was_stopped_equals_one_that_was_not(whole: Path, tmp_path: Path) -> None:
    for stop in (40, 56):  # before and after the discriminator begins
        assert run(tmp_path, stop).samples == stop
    assert run(tmp_path).finished
    assert (tmp_path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def process(rank: int, port: int, out: Path) -> None:
    """One of two, forked."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    AcceleratorState._reset_state(True)
    PartialState._reset_state()
    summary = run(out)
    assert summary.processes == 2
    dist.destroy_process_group()


def test_two_processes_equal_one(whole: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=process, args=(rank, port, tmp_path)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    found, expected = load_file(tmp_path / "model.safetensors"), load_file(whole / "model.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
