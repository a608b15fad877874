"""Train and sample heads without a backbone, on a few fixed hidden vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from jielong.config.registry import OfFamily, parse_part, parts_of
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import Head, HeadSettings

BATCH, LR = 128, 2e-3


class Task(Protocol):
    """A distribution of tokens given each of ``K`` hidden vectors."""

    @property
    def hidden(self) -> Tensor:
        """``(K, D)``."""

    @property
    def channels(self) -> int:
        """Channels ``C`` of a token."""

    def sample(self, count: int) -> Tensor:
        """Tokens ``(K, count, C)``, from torch's global generator."""


def continuous_heads(
    width: int,
    channels: int,
    samples: int,
    network: Mapping[str, Mapping[str, int]],
    others: Mapping[str, Mapping[str, object]] | None = None,
) -> dict[str, HeadSettings]:
    """Settings of every head that draws continuous tokens one by one, by name.

    Args:
        width: Width of the hidden vectors.
        channels: Channels of a token.
        samples: Training samples, for heads with a schedule.
        network: Network of all heads whose setting ``network`` is a part.
        others: Further settings by head.
    """
    found = {}
    for name, part in parts_of("head").items():
        field = part.model_fields.get("network")
        settings: dict[str, object] = {"network": network} if field is not None and OfFamily("network") in field.metadata else {}
        settings |= (others or {}).get(name, {})
        if "levels" in part.model_fields:
            levels = settings.get("levels", {})
            assert isinstance(levels, Mapping)
            settings["levels"] = {**levels, "samples": samples}
        head = parse_part("head", {name: settings})
        assert isinstance(head, HeadSettings)
        try:
            whole = head.build(width, Layout((1,), channels)).whole
        except ValueError:  # it needs codes, or rows and columns
            continue
        if not whole:
            found[name] = head
    return found


def train_head(part: HeadSettings, task: Task, steps: int, seed: int, batch: int = BATCH, lr: float = LR) -> Head:
    """Train a head on a task, with new tokens at each step and linear learning-rate decay to 0; keeps torch's global generator.

    Args:
        part: Settings of the head.
        task: Distribution to learn.
        steps: Updates.
        seed: Seed of weights, tokens and the loss.
        batch: Tokens per step, in equal numbers for each hidden vector.
        lr: Initial learning rate of Adam.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kinds, width = task.hidden.shape
        head: Head = part.build(width, Layout((1,), task.channels))
        optimizer = torch.optim.Adam(head.parameters())
        count = batch // kinds
        hidden = task.hidden.repeat_interleave(count, 0)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            head.on_train_step(step * batch)
            optimizer.zero_grad()
            head.loss(hidden, task.sample(count).flatten(0, 1)).mean().backward()
            optimizer.step()
    return head.eval().requires_grad_(False)


@torch.no_grad()
def sample_head(head: Head, task: Task, rounds: int, count: int, seed: int, steps: int | None = None) -> Tensor:
    """Samples ``(rounds, K, count, C)`` of a head; rounds are independent, and heads with one seed start from the same noise.

    Args:
        head: A trained head.
        task: Task whose hidden vectors are used.
        rounds: Number of rounds.
        count: Samples per hidden vector and round.
        seed: Seed of the noise.
        steps: Inference steps of an iterative head; its default if ``None``.
    """
    kinds = len(task.hidden)
    hidden = task.hidden.repeat(rounds, 1)[:, None].expand(-1, count, -1)
    values = head.sample(hidden, PerSampleRNG(seed, range(rounds * kinds)), SamplingConfig(num_inference_steps=steps)).values
    return values.unflatten(0, (rounds, kinds))
