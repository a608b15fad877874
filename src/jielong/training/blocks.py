"""What a run does with the repeated blocks of its model: ``train.gradient_checkpointing``."""

from __future__ import annotations

from torch import nn

from jielong.config.registry import RecipeError
from jielong.networks.repeated import blocks_of
from jielong.training.settings import TrainSettings


def check_blocks(model: nn.Module, settings: TrainSettings) -> None:
    """Refuse settings of repeated blocks for a model without any.

    Raises:
        RecipeError: naming the setting.
    """
    if settings.gradient_checkpointing and not any(True for _ in blocks_of(model)):
        raise RecipeError("train.gradient_checkpointing: this model has no repeated blocks to compute again; set it to false")


def prepare_blocks(model: nn.Module, settings: TrainSettings) -> None:
    """Apply the settings to a model in training; nothing of its state dict changes."""
    for _, block in blocks_of(model):
        block.recomputed = settings.gradient_checkpointing
