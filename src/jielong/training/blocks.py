"""What a run does with the repeated blocks of its model: ``train.gradient_checkpointing`` and ``train.compile``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from torch import nn

from jielong.config.registry import RecipeError
from jielong.networks.repeated import blocks_of
from jielong.training.settings import TrainSettings

BACKEND = "inductor"
"""Of ``torch.compile``."""
_SETTINGS = {"gradient_checkpointing": "compute again", "compile": "compile"}


def check_blocks(model: nn.Module, settings: TrainSettings) -> None:
    """Refuse settings of repeated blocks that cannot be met.

    Raises:
        RecipeError: naming the setting, for a model without repeated blocks or, to compile, on a machine without a C++ compiler.
    """
    for name, what in _SETTINGS.items():
        if getattr(settings, name) and not any(True for _ in blocks_of(model)):
            raise RecipeError(f"train.{name}: this model has no repeated blocks to {what}; set it to false")
    if settings.compile and BACKEND == "inductor" and (reason := _cannot_compile()) is not None:
        raise RecipeError(f"train.compile: {reason}; install g++, name a compiler in the environment variable CXX, or set it to false")


def _cannot_compile() -> str | None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "torch.compile needs a C++ compiler, and there is none"
    return None


def prepare_blocks(model: nn.Module, settings: TrainSettings) -> None:
    """Apply the settings to a model in training; nothing of its state dict changes.

    Each block is compiled by itself ("regional compilation"), so that equal blocks share the compiled code.
    """
    blocks = [block for _, block in blocks_of(model)]
    for block in blocks:
        block.recomputed = settings.gradient_checkpointing
        if settings.compile:
            block.compile(backend=BACKEND)
    if settings.compile:
        allow_recompiling(len(blocks))


def allow_recompiling(count: int) -> None:
    """Raise the limits beyond which ``torch.compile`` leaves blocks as they are, for so many blocks."""
    from torch._dynamo import config

    # A block that reads its number in the network, as of dropout, is compiled for itself.
    config.recompile_limit = max(config.recompile_limit, 8 * count)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 64 * count)


class GraphBreaks:
    """Counts where ``torch.compile`` ran Python between two compiled parts, from now on; ``wanted``: whether anything is compiled."""

    def __init__(self, wanted: bool = True) -> None:
        self._wanted, self._before = wanted, self._now() if wanted else Counter()

    @staticmethod
    def _now() -> Counter[str]:
        from torch._dynamo.utils import counters

        return Counter(counters["graph_break"])

    def say_once(self, say: Callable[[str], None]) -> None:
        """Pass :meth:`words` on, when the first step has compiled what it needs."""
        if self._wanted:
            self._wanted = False
            say(self.words())

    def words(self) -> str:
        """The count, with the most frequent reason."""
        found = self._now() - self._before
        if not found:
            return "compiled the repeated blocks without graph breaks"
        reason, _ = found.most_common(1)[0]
        details = reason.split("Developer debug context:")[0].split("Hint:")[0]
        return f"compiled the repeated blocks with {found.total()} graph breaks, most often: {' '.join(details.split())}"
