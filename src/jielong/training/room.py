"""Room on the disk for what a run saves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from torch import nn
from torch.optim import Optimizer

from jielong.core.storage import check_room, size_words
from jielong.training.checkpoint import bytes_of
from jielong.training.ema import Ema
from jielong.training.objective import Objective
from jielong.training.optimizers import moments_bytes

Model = TypeVar("Model", bound=nn.Module)


def check_states(
    out: Path, objective: Objective[Model], ema: Ema[Model], optimizers: Iterable[Optimizer], copies: int, states: int
) -> None:
    """Check that ``states`` states of a run, each with ``copies`` further copies of the weights, and its checkpoint fit on the disk.

    Raises:
        StorageError: with what they need and what is free.
    """
    weights = bytes_of(objective.model.state_dict())
    state = bytes_of(objective.state_dict()) + bytes_of(ema.state()) + copies * weights + sum(map(moments_bytes, optimizers))
    what = f"Two states of the run, of {size_words(state)} each," if states == 2 else f"A state of the run, of {size_words(state)},"
    check_room(out, state * states + weights, f"{what} and the weights are to be saved")
