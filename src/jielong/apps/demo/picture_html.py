"""Sections of the demo's page on ways to a picture: the two world lines side by side, and edits in words."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from jielong.apps.demo import markup
from jielong.apps.demo.edits import EditedPicture

if TYPE_CHECKING:
    from jielong.apps.demo.page import Strategy

WATCHED = 3
"""Prompts of the animations that are side by side."""


def two_world_lines(strategies: Sequence[Strategy]) -> tuple[Strategy, Strategy] | None:
    """The most accurate model with a trace that chains codes, and the one that makes noise a picture; ``None`` if one is not there."""

    def best(found: list[Strategy]) -> Strategy | None:
        return max(found, key=lambda each: each.accuracy or 0.0, default=None)

    traced = [each for each in strategies if each.traces]
    chain = best([each for each in traced if each.discrete and not each.traces[0].parallel])
    joint = best([each for each in traced if each.traces[0].parallel])
    return None if chain is None or joint is None else (chain, joint)


def world_lines(chain: Strategy, joint: Strategy) -> list[str]:
    """Both models' animations of the same prompts, side by side."""
    sides = (
        (chain, "A chain of tokens", "Each step draws tokens given those that are there, and keeps them."),
        (joint, "Noise that becomes a picture", "Each step moves all tokens together, from noise to the picture."),
    )
    columns = "".join(
        f"<div><h3>{title}</h3><p class='note'>{escape(each.model)}: {words} {len(each.traces[0].frames)} steps.</p>"
        f"{markup.player(each.traces[:WATCHED])}</div>"
        for each, title, words in sides
    )
    return [
        "<p>The same captions, one program: a chain of tokens, and a map from a normal distribution to pictures. Play both.</p>",
        f'<div class="worlds">{columns}</div>',
    ]


def edited(edits: Sequence[EditedPicture]) -> list[str]:
    """Pictures before and after, with the words, the region and the command."""
    figures = "".join(
        f'<figure><div class="row">{_outlined(each)}{markup.picture(each.after, each.words)}</div>'
        f"<figcaption>{escape(each.words)} <small>· {escape(each.model)}; before: {escape(each.caption)}</small></figcaption></figure>"
        for each in edits
    )
    return [
        "<p>Left, a picture of the data set; right, the same picture after the edit. A model that fills a region draws the outlined part "
        "again for the new caption; everything outside it is as it was, pixel for pixel. A model of instructions reads those alone.</p>",
        "<p class='note'>One seed for all edits, the first sample of each, not selected.</p>",
        f'<div class="views edits">{figures}</div>',
        *(markup.command(each.command) for each in edits),
    ]


def _outlined(edit: EditedPicture) -> str:
    """The picture before, with its region outlined."""
    image = markup.picture(edit.before, edit.caption)
    if edit.region is None:
        return f'<div class="outlined">{image}</div>'
    height, width = edit.before.shape[-2:]
    left, top, across, down = edit.region
    place = f"left:{100 * left / width:g}%;top:{100 * top / height:g}%;width:{100 * across / width:g}%;height:{100 * down / height:g}%"
    return f'<div class="outlined">{image}<i style="{place}"></i></div>'
