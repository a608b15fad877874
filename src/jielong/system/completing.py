"""Completion: what is kept of an item, by the generator and by the earlier stages of a cascade."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jielong.conditions.inputs import InputError
from jielong.conditions.low_resolution import first_shown, shown_frames
from jielong.core.medium import ALONG_FRAMES, Medium
from jielong.core.tokens import Tokens
from jielong.generation.inpainting import Side, begun, kept
from jielong.media.kinds.base import kind_of
from jielong.system.inputs import StageOptions, condition_parts, stage_names

if TYPE_CHECKING:
    from jielong.system.pipeline import System


def completion(system: System, media: Tensor, keep: Side) -> dict[str, Any]:
    """Arguments of :meth:`System.generate` that keep a part of an item; arguments and errors of :meth:`System.complete`."""
    if system.generator is None:
        raise ValueError(f"{system.name} is a tokenizer; to complete an item, load a generator such as maskgit-emoji")
    layout, order, tokenizer = system.generator.layout, system.generator.order, system.tokenizer
    stages = {name: _of_stage(system.stages[name], media, tokenizer.media, keep) for name in stage_names(system.recipe)}
    if tokenizer.hop_length is not None:
        known = begun(layout, order, media.shape[-1] // tokenizer.hop_length)
        media = F.pad(media, (0, tokenizer.media.frames - media.shape[-1]))
    else:
        known = kept(layout, order, keep, system.generator.head)
    start = Tokens(system.encode(media[None]).values, layout)
    return {"start": start, "known": known, **({"stage_options": stages} if stages else {})}


def resized(media: Tensor, medium: Medium) -> Tensor:
    """A picture ``(C, H, W)`` at an earlier stage's size, reduced as that stage's training pictures were."""
    return media if tuple(media.shape[1:]) == medium.size else kind_of(medium).fitted(media[None], medium)[0]


def _of_stage(stage: System, media: Tensor, of: Medium, keep: Side) -> dict[str, Any]:
    medium = stage.tokenizer.media
    if of.axes == medium.axes == ALONG_FRAMES and of.rate != medium.rate:
        media = media[:, first_shown(torch.tensor(shown_frames(medium, of)))]
    return completion(stage, media if stage.tokenizer.hop_length is not None else resized(media, stage.tokenizer.media), keep)


def check_kept_alike(system: System, given: Mapping[str, object], options: Mapping[str, Any], stages: StageOptions) -> None:
    """Raise :class:`InputError` where a cascade would keep tokens of its last stage and draw an earlier one without any of the item."""
    if options.get("start") is None:
        return
    for part in condition_parts(system.recipe):
        name = part.reads_stage
        if name is not None and part.input.keyword not in given and stages.get(name, {}).get("start") is None:
            raise InputError(
                f"`start` keeps tokens of the last stage alone, and the stage {name!r} would be drawn without them: use `edit` or "
                f"`complete`, or give {{{part.input.name}}}, or `stage_options` with its own `start` and `known`",
                [part.input],
            )
