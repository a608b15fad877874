"""Parts of a model that keep their weights in training: ``train.freeze``, patterns of names (:mod:`jielong.core.module_paths`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from jielong.conditions.base import Condition
from jielong.config.registry import RecipeError
from jielong.core.module_paths import expanded, is_at, is_below, path_of
from jielong.generation.generator import Generator
from jielong.heads.base import Head
from jielong.losses.adversarial import Adversarial
from jielong.losses.base import LossSettings
from jielong.tokenizers.base import LearnedTokenizer

TOKENIZER = "tokenizer"
"""Before the names of a tokenizer, where that is what a recipe trains, and of a generator's."""


@dataclass(frozen=True)
class Frozen:
    """What is frozen of a model.

    Attributes:
        names: Of its tensors, as its state dict has them.
        modules: Those that stay in evaluation mode: no dropout, and neither statistics of batches nor codebooks move. A head and a
            condition themselves do not, since their mode chooses the loss; what is inside them does.
        words: What is frozen, for the log.
    """

    names: frozenset[str] = frozenset()
    modules: tuple[nn.Module, ...] = ()
    words: str = ""


def freeze(
    model: Generator | LearnedTokenizer, patterns: Sequence[str], tokenizer: nn.Module | None = None, losses: Sequence[LossSettings] = ()
) -> Frozen:
    """Freeze the parts of a model that patterns mean, in place.

    Args:
        model: To be trained.
        patterns: Of ``train.freeze``.
        tokenizer: Of a generator, which is not trained anyway; patterns may name it.
        losses: Of a tokenizer's training.

    Raises:
        RecipeError: if a pattern, or a number of its range, matches nothing, nothing is left to train, or a loss reads what is frozen.
    """
    root = () if isinstance(model, Generator) else (TOKENIZER,)
    own = {(*root, *path_of(name)): name for name in model.state_dict()}
    others = [] if tokenizer is None else [(TOKENIZER, *path_of(name)) for name in tokenizer.state_dict()]
    try:
        paths = [path for pattern in patterns for path in expanded(pattern, [*own, *others])]
    except ValueError as error:
        raise RecipeError(f"train.freeze: {error}") from None
    names = frozenset(name for path, name in own.items() if any(is_below(path, each) for each in paths))
    before = _trained(model)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in names:
            parameter.requires_grad_(False)
    after = _trained(model)
    if not after:
        raise RecipeError(f"train.freeze: {', '.join(patterns)} leaves nothing to train: leave some of it out")
    balanced = any(isinstance(loss, Adversarial) and loss.adaptive for loss in losses)
    if balanced and isinstance(model, LearnedTokenizer) and not model.last_layer.requires_grad:
        raise RecipeError(
            "train.freeze: the adaptive weight of the adversarial loss needs gradients at the decoder's last layer: leave that out, "
            "or set losses.adversarial.adaptive: false"
        )
    modules = {(*root, *path_of(name)): module for name, module in model.named_modules() if name}
    still = tuple(part for path, module in modules.items() if any(is_at(path, each) for each in paths) for part in _still(module))
    words = f"train.freeze keeps {before - after:,} of {before:,} trained weights as they are: {', '.join(patterns)}"
    if any(is_below(path, each) for path in others for each in paths):
        words += f"; the {TOKENIZER} of a generator is not trained anyway"
    return Frozen(names, still, words)


def _trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _still(module: nn.Module) -> Iterator[nn.Module]:
    """The module, or what is inside it where its own mode chooses the loss."""
    if isinstance(module, Head | Condition):
        for child in module.children():
            yield from _still(child)
    else:
        yield module
