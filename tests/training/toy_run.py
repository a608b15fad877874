"""A tiny objective with all that a real one has (dropout, buffers, two phases, noise a sample), and a stream that can kill its process."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jielong.core.locks import one_run
from jielong.data.order import ShuffledOrder
from jielong.data.sets import Batch
from jielong.media.pictures import Pictures
from jielong.training.objective import Losses, Objective, StepRNG
from jielong.training.settings import TrainSettings
from jielong.training.trainer import Summary, train

SETTINGS = TrainSettings(
    samples=320, batch=8, lr=1e-2, warmup=32, ema=0.9, precision="fp32", log_every=40, sample_every=160, save_every=40, seed=3
)


class ToyModel(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.inside = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Linear(8, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.to(memory_format=torch.channels_last)

    def forward(self, media: Tensor) -> Tensor:
        if self.training:
            self.seen += len(media)
        hidden = F.silu(self.inside(media)).permute(0, 2, 3, 1)
        hidden = hidden + self.dropout(F.silu(self.middle(hidden)))
        return self.head(hidden).permute(0, 3, 1, 2)


class ToyObjective(Objective[ToyModel]):
    """Denoise pictures; from ``late`` samples on a discriminator learns beside it."""

    model: ToyModel

    def __init__(self, dropout: float = 0.2, late: int = 120, poison: range = range(0)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = ToyModel(dropout)
        self.discriminator = nn.Linear(48, 1)
        self.late, self.poison = late, poison

    @property
    def phases(self) -> Mapping[str, nn.Module]:
        return {"model": self.model, "discriminator": self.discriminator}

    def active(self, phase: str, samples_seen: int) -> bool:
        return phase == "model" or samples_seen >= self.late

    def lr_ratio(self, phase: str) -> float:
        return 0.5 if phase == "discriminator" else 1.0

    def forward(self, batch: Batch, phase: str, samples_seen: int, draws: StepRNG) -> Losses:
        shift = torch.rand((), generator=draws.shared)
        media = batch.media + 0.1 * draws.per_sample.normal(*batch.media.shape[1:]) + 0.01 * shift
        if samples_seen in self.poison:
            media = media * float("nan")
        if phase == "discriminator":
            with torch.no_grad():
                fake = self.model(media)
            loss = F.softplus(-self.discriminator(batch.media.flatten(1))).mean() + F.softplus(self.discriminator(fake.flatten(1))).mean()
            return Losses(loss, {"discriminator": loss.detach()})
        fake = self.model(media)
        loss = F.mse_loss(fake, batch.media)
        if self.active("discriminator", samples_seen):
            loss = loss + 0.1 * F.softplus(-self.discriminator(fake.flatten(1))).mean()
        return Losses(loss, {"loss": loss.detach(), "l2": F.mse_loss(fake, batch.media).detach()})

    def samples(self, model: nn.Module) -> Pictures:
        return Pictures(model(torch.zeros(2, 3, 4, 4)))

    def statistics(self) -> dict[str, float]:
        return {"seen": float(self.model.seen)}

    def advice(self) -> str | None:
        return "a word of advice"

    figures = MappingProxyType({"weight": False})

    def evaluate(self, model: nn.Module) -> dict[str, Any]:
        return {"weight": float(next(model.parameters()).abs().mean())}


class ToyStream:
    """Fifty pictures in endless shuffled order; reaching ``kill_at`` kills the process, whatever its other thread is doing."""

    def __init__(self, kill_at: int | None = None, delay: float = 0.0) -> None:
        self.pictures = torch.rand(50, 3, 4, 4, generator=torch.Generator().manual_seed(5)) * 2 - 1
        self.order, self.kill_at, self.delay = ShuffledOrder(50, seed=1), kill_at, delay

    def batch(self, first: int, count: int) -> Batch:
        if self.kill_at is not None and first >= self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.delay)
        rows = self.order.at(first, count)
        return Batch(self.pictures[rows], None, None, [str(row) for row in rows])


def recipe(settings: TrainSettings) -> str:
    return "train:\n" + "".join(f"  {key}: {value}\n" for key, value in settings.model_dump(exclude_none=True, exclude={"betas"}).items())


def run(
    out: Path,
    settings: TrainSettings = SETTINGS,
    objective: ToyObjective | None = None,
    stream: ToyStream | None = None,
    **options: Any,
) -> Summary:
    options = {"progress": False, "device": "cpu", "recipe_yaml": recipe(settings), **options}
    # Other processes of a launcher go on without the lock.
    with one_run(out) if os.environ.get("RANK", "0") == "0" else nullcontext():
        return train(objective or ToyObjective(), stream or ToyStream(), settings, out, **options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    torch.set_num_threads(1)
    # Dropout draws from each process's own stream: without it, processes share the work of one.
    run(parser.parse_args().out, SETTINGS.model_copy(update={"keep": "best"}), ToyObjective(dropout=0.0))
