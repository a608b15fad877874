"""Sections of the demo's page to listen to: what models of sound made, beside the sets' own clips, and how it formed."""

from __future__ import annotations

from html import escape

from jielong.apps.demo import markup
from jielong.apps.demo.audio_samples import Clip, Hearing, Made

AT_ONCE = (
    "All tokens of a clip are drawn together: they begin as noise, and every step takes some of it away. The film shows the spectrogram of "
    "what they decode to after each step, time to the right and low pitches at the bottom; under it, some of the steps to listen to."
)
IN_TURN = (
    "Left, the first code of each token (of very many some, evenly spread); right, the spectrogram of what they decode to so far, time to "
    "the right and low pitches below. What is not known yet is silent."
)
ROUND_TRIP = (
    "Held-out clips, turned into tokens and back into sound. A generator over these tokens can be no better than this. The pictures are "
    "spectrograms, time to the right and low pitches below."
)
SYNTHETIC = "What is labelled as generated is synthetic speech: nobody said it."
DRAWS = "The same seed for all, the first draw of each; none was picked."
BESIDE = "Beside what is generated stands the set's own clip of the same words, which was held out of training."
VOICES = (
    "Above, no voice was asked for, and the model took one of its own. Here, left, is a clip of a voice that it was told; right, the first "
    "sentence again, from the same seed."
)


def content(hearing: Hearing) -> list[str]:
    """The inside of its section, as HTML."""
    parts = [f"<p>{sentence}</p>" for sentence in _about(hearing)]
    parts += [_made(each) for each in hearing.made]
    if hearing.voices:
        parts.append(f"<h3>In other voices</h3><p>{VOICES}</p>")
        parts += [_figure(said.caption, _row(given, said)) for given, said in hearing.voices]
    if hearing.credits:
        parts.append(f"<p class='note'>Recordings: {escape('; '.join(hearing.credits))}.</p>")
    if hearing.licence is not None:
        whose = "; ".join(dict.fromkeys(f"{each.attribution} ({each.licence})" for each in hearing.licence.learned_from))
        parts.append(f"<p class='note'>Made by weights under {escape(hearing.licence.weights)}, which learned from: {escape(whose)}.</p>")
    return [*parts, markup.command(hearing.command)]


def _about(hearing: Hearing) -> list[str]:
    """What there is to see and hear, in words."""
    story = hearing.made[0].story
    if story is None:
        return [ROUND_TRIP]
    beside = any(made.real is not None for made in hearing.made)
    draws = f"{DRAWS} {BESIDE}" if beside else DRAWS
    return [f"{SYNTHETIC} {draws}" if hearing.spoken else draws, AT_ONCE if story.at_once else IN_TURN]


def _made(made: Made) -> str:
    """A tokenizer's clip right of what it is of; a generator's left of the set's own, under its film and its sound on the way."""
    real = [made.real] if made.real is not None else []
    if made.story is None:
        return _figure(made.clip.caption, _row(*real, made.clip))
    way = _row(*made.on_the_way) if made.on_the_way else ""
    return _figure(made.clip.caption, markup.player([made.story]), way, _row(made.clip, *real))


def _figure(caption: str, *inside: str) -> str:
    return f'<figure class="heard"><figcaption>{escape(caption)}</figcaption>{"".join(inside)}</figure>'


def _row(*clips: Clip) -> str:
    cells = "".join(f"<div>{markup.sound(clip.waveform, clip.rate, clip.label)}<small>{escape(clip.label)}</small></div>" for clip in clips)
    return f'<div class="row">{cells}</div>'
