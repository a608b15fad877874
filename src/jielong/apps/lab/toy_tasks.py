"""Heads without a backbone: taught what a few fixed hidden vectors mean, and asked again. What experiments about heads share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from jielong.config.registry import Part, parse_part, parts_of
from jielong.config.sampling import SamplingConfig
from jielong.core.rng import PerSampleRNG
from jielong.core.tokens import Layout
from jielong.heads.base import Head

BATCH, LR = 128, 2e-3


class Lesson(Protocol):
    """What may follow on each of ``K`` hidden vectors."""

    @property
    def hidden(self) -> Tensor:
        """``(K, D)``."""

    @property
    def channels(self) -> int:
        """Numbers ``C`` of an answer."""

    def right(self, count: int) -> Tensor:
        """Right answers, ``(K, count, C)``, from torch's global generator."""


def continuous_heads(
    width: int, channels: int, samples: int, network: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Part]:
    """Settings of every head that can predict continuous tokens, by name.

    Args:
        width: Of the hidden vectors.
        channels: Numbers of a token.
        samples: Of training, for heads that pace themselves by it.
        network: Of all heads that have one to choose.
        others: Further settings of some heads, by name.
    """
    found = {}
    for name, part in parts_of("head").items():
        settings: dict[str, Any] = {"network": network} if "network" in part.model_fields else {}
        settings |= (others or {}).get(name, {})
        if "levels" in part.model_fields:
            settings["levels"] = {**settings.get("levels", {}), "samples": samples}
        chosen: Any = parse_part("head", {name: settings})
        try:
            chosen.build(width, Layout((1,), channels))
        except ValueError:  # it needs codes
            continue
        found[name] = chosen
    return found


def teach(part: Any, lesson: Lesson, steps: int, seed: int, batch: int = BATCH, lr: float = LR) -> Head:
    """A head that learned what a lesson's hidden vectors mean, from new answers at every step, at a rate that falls to 0.

    Torch's global generator is left as it was.

    Args:
        part: The head's settings.
        lesson: What to learn.
        steps: Updates, of ``batch`` answers in equal parts for each hidden vector.
        seed: Of weights, answers and whatever the loss draws.
        batch: Answers a step.
        lr: Adam's rate at the start.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kinds, width = lesson.hidden.shape
        head: Head = part.build(width, Layout((1,), lesson.channels))
        optimizer = torch.optim.Adam(head.parameters())
        count = batch // kinds
        hidden = lesson.hidden.repeat_interleave(count, 0)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            head.on_train_step(step * batch)
            optimizer.zero_grad()
            head.loss(hidden, lesson.right(count).flatten(0, 1)).mean().backward()
            optimizer.step()
    return head.eval().requires_grad_(False)


@torch.no_grad()
def ask(head: Head, lesson: Lesson, rounds: int, count: int, seed: int, evaluations: int | None = None) -> Tensor:
    """What a head answers, ``(rounds, K, count, C)``: rounds are independent, and heads of one seed begin at the same noise.

    Args:
        head: The head.
        lesson: Its hidden vectors are asked.
        rounds: How often all of them are.
        count: Draws of each in a round.
        seed: Of the noise.
        evaluations: Of a head that draws in several; its own number by default.
    """
    kinds = len(lesson.hidden)
    hidden = lesson.hidden.repeat(rounds, 1)[:, None].expand(-1, count, -1)
    drawn = head.sample(hidden, PerSampleRNG(seed, range(rounds * kinds)), SamplingConfig(num_inference_steps=evaluations)).values
    return drawn.unflatten(0, (rounds, kinds))
