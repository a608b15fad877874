"""Repeated blocks in training: computed again for the backward pass, they give the same gradients in less memory."""

from __future__ import annotations

import weakref

import pytest
import torch
from test_divided_batches import NAMES, Divided
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jielong.config.recipe import load
from jielong.config.registry import RecipeError
from jielong.networks.convolutional import ResidualBlock
from jielong.networks.repeated import blocks_of
from jielong.training.blocks import check_blocks, prepare_blocks

DEEP = {
    "maskgit-tiny": (0.5, "backbone.transformer.layers=6"),
    "mar-tiny": (0.9, "head.diffusion.network.mlp.layers=6", "backbone.mar.decoder_layers=4"),  # shifts and scales of rows stay
    "kl-tiny": (0.7, "data.size=64", "tokenizer.kl.autoencoder.convolutional.blocks=[4,4]"),
    "encodec-tiny": (0.8, "tokenizer.vq.autoencoder.seanet.residual_layers=4"),
}
"""Overrides of recipes by which most of the memory is that of blocks, and what is left of the peak at most."""


WITHOUT_BLOCKS = {"dcgan-tiny", "nice-tiny", "video-gan-tiny"}


class Live(TorchDispatchMode):
    """The most bytes of tensors that were live at once, of those that were made inside; no clock and no allocator decides it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and each.untyped_storage().data_ptr() not in self._known and each.untyped_storage().nbytes():
                storage = each.untyped_storage()
                pointer, size = storage.data_ptr(), storage.nbytes()
                self._known.add(pointer)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, pointer, size)
        return result

    def _free(self, pointer: int, size: int) -> None:
        self._known.discard(pointer)
        self.now -= size


def with_checkpointing(divided: Divided, on: bool) -> None:
    prepare_blocks(divided.objective.model, divided.settings.model_copy(update={"gradient_checkpointing": on}))


@pytest.mark.usefixtures("stages")
@pytest.mark.parametrize("name", NAMES)
def test_checkpointed_gradients_equal_those_without(name: str) -> None:
    divided = Divided(name)
    if name in WITHOUT_BLOCKS:
        with pytest.raises(RecipeError, match="no repeated blocks"):
            check_blocks(divided.objective.model, divided.settings.model_copy(update={"gradient_checkpointing": True}))
        return
    names = list(divided.objective.state_dict())
    plain = divided.step((0, 2))
    assert any(True for _ in blocks_of(divided.objective.model))
    with_checkpointing(divided, True)
    checkpointed = divided.step((0, 2))
    with_checkpointing(divided, False)
    assert list(divided.objective.state_dict()) == names
    assert checkpointed.values == plain.values
    for each, gradient in plain.gradients.items():
        assert torch.equal(checkpointed.gradients[each], gradient), each
    for each, tensor in plain.state.items():
        assert torch.equal(checkpointed.state[each], tensor), each


@pytest.mark.usefixtures("stages")
@pytest.mark.parametrize("name", DEEP)
def test_checkpointing_lowers_the_most_that_is_live_at_once(name: str) -> None:
    share, *overrides = DEEP[name]
    divided, peaks = Divided(name, *overrides), {}
    for on in (False, True):
        with_checkpointing(divided, on)
        with Live() as live:
            divided.step((0, 4))
        peaks[on] = live.peak
    assert peaks[True] < share * peaks[False]


def test_a_model_without_blocks_is_refused() -> None:
    settings = load("maskgit-tiny").train.model_copy(update={"gradient_checkpointing": True})
    check_blocks(torch.nn.Sequential(ResidualBlock(4, 4)), settings)
    with pytest.raises(RecipeError, match=r"train\.gradient_checkpointing: this model has no repeated blocks"):
        check_blocks(torch.nn.Sequential(torch.nn.Linear(2, 2)), settings)
