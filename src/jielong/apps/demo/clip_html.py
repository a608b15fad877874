"""Sections of clips on the demo's page: what was given, each clip as it plays and its frames in a row, and the judge's verdict."""

from __future__ import annotations

import base64
from html import escape

from jielong.apps.demo import markup
from jielong.apps.demo.clips import ClipSection, ShownClip
from jielong.media.audio import encode_audio
from jielong.media.images import encode
from jielong.media.video import encode_video
from jielong.media.videos import strip

ABOUT = {
    "missions": "Every model gets the same mission of a grid world, and its first frame where it reads one. The judge reads frames back "
    "and asks the simulator whether every transition is a legal move, and whether the mission is done.",
    "strokes": "The model gets the name of a character and writes it. The judge finds the frame at which each stroke appears.",
    "avatars": "The model gets a face and the sound of a sentence. The judge compares the mouth of each frame with the phoneme that is "
    "spoken.",
}
"""By the judge of the set."""
DRAWS = "One seed for all clips, the first sample of each, not selected."


def content(section: ClipSection) -> list[str]:
    """The section's content as HTML."""
    split = "No model was trained on this clip." if section.held_out else "The models were trained on this clip too."
    given = f" Given: {', '.join(name.replace('_', ' ') for name in sorted(section.given))}." if section.given else ""
    return [
        f"<p>{ABOUT[section.judge]}</p>",
        f"<p class='note'>{DRAWS} {split}{escape(given)}</p>",
        f'<div class="films">{"".join(map(_figure, section.clips))}</div>',
        *(markup.command(each.command) for each in section.clips if each.command),
        *(
            [f"<p class='note'>Clips, and weights that were trained on clips: {escape('; '.join(section.credits))}.</p>"]
            if section.credits
            else []
        ),
    ]


def _figure(each: ShownClip) -> str:
    """A clip as it plays, its frames in a row, what made it, and the verdict."""
    label = f"{each.caption}, {each.title}"
    row = base64.b64encode(encode(strip(each.frames))).decode()
    frames = f'<img class="strip" src="data:image/png;base64,{row}" alt="frames of {escape(label)}">'
    verdict = ""
    if each.judgement is not None:
        kind = {True: " right", False: " wrong", None: ""}[each.judgement.right]
        verdict = f'<p class="verdict{kind}">{escape(each.judgement.words)}</p>'
    return (
        f'<figure class="film">{_playing(each, label)}<div>{frames}<figcaption><b>{escape(each.title)}</b> '
        f"<small>{escape(each.description)}</small><br>{escape(each.caption)}</figcaption>{verdict}</div></figure>"
    )


def _playing(each: ShownClip, label: str) -> str:
    """An animated picture; a clip with sound is drawn frame by frame as its sound plays, so that both stay together."""
    height, width = each.frames.shape[-2:]
    if each.sound is None:
        data = base64.b64encode(encode_video(each.frames, each.rate)).decode()
        return f'<img class="plays" src="data:image/webp;base64,{data}" width="{width}" height="{height}" alt="{escape(label)}">'
    count = each.frames.shape[1]
    waveform = each.sound.waveform if each.sound.waveform.ndim == 2 else each.sound.waveform[None]
    sound = base64.b64encode(encode_audio(waveform, each.sound.rate)).decode()
    frames = markup.frame_strip(each.frames.transpose(0, 1), count)
    return (
        f'<div class="talking" data-frames="{frames}" data-count="{count}" data-rate="{each.rate:g}">'
        f'<canvas class="plays" width="{width}" height="{height}" role="img" aria-label="{escape(label)}"></canvas>'
        f'<audio controls preload="metadata" src="data:audio/wav;base64,{sound}"></audio></div>'
    )
