"""Shapes of a speaking mouth, which phonemes they belong to, and their drawings.

Eight shapes are those of the phoneme chart of animated films (Preston Blair, *Cartoon Animation*, 1994) as the lip-sync program Rhubarb
(https://github.com/DanielSWolf/rhubarb-lip-sync, "Mouth shapes" of its manual) names them A to H; `smile` is added for cues. A closed mouth
is also that of silence (Rhubarb's X). The drawings are by this project, CC0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jielong.data.built import BuildError
from jielong.media.espeak import SpokenPhoneme

LETTERS: Mapping[str, str] = {
    "closed": "pbm",  # A: lips pressed
    "teeth": "tdkɡgsznŋʃʒjiɪᵻcxɾʔ",  # noqa: RUF001 - B: nearly closed, teeth together
    "open": "eɛæəɐʌh",  # C
    "wide": "aɑɒ",  # noqa: RUF001 - D
    "round": "oɔɜɝɚɹr",  # E
    "pucker": "uʊwᵿ",  # F
    "bite": "fv",  # G: upper teeth on the lower lip
    "tongue": "lɫθð",  # H: the tongue behind or between the teeth
}
"""Letters of the International Phonetic Alphabet by mouth shape; of diphthongs and affricates each letter has its own."""
MARKS = "ˈˌːˑ̩̯̃͡ ʲ̪"
"""Marks of stress, length and the like, which change no shape."""
_OF_LETTER = {letter: shape for shape, letters in LETTERS.items() for letter in letters}
REST = "closed"

INSIDE, LINE, TOOTH, TONGUE, LIP = "#3c0c10", "#1e0608", "#ffffff", "#e0707a", "#b8505a"
_LINE = f'fill="none" stroke="{LINE}" stroke-linecap="round"'
DRAWINGS: Mapping[str, str] = {
    "closed": f'<path d="M-44 0Q0 5 44 0" {_LINE} stroke-width="12"/>',
    "teeth": f'<rect x="-50" y="-19" width="100" height="38" rx="19" fill="{INSIDE}"/>'
    f'<rect x="-42" y="-11" width="84" height="22" rx="9" fill="{TOOTH}"/>',
    "open": f'<ellipse rx="48" ry="28" fill="{INSIDE}"/><path d="M-36-17Q0-34 36-17Q0-8-36-17" fill="{TOOTH}"/>'
    f'<ellipse cy="17" rx="26" ry="10" fill="{TONGUE}"/>',
    "wide": f'<ellipse cy="8" rx="54" ry="48" fill="{INSIDE}"/><path d="M-40-22Q0-50 40-22Q0-12-40-22" fill="{TOOTH}"/>'
    f'<ellipse cy="36" rx="32" ry="18" fill="{TONGUE}"/>',
    "round": f'<ellipse rx="34" ry="32" fill="{INSIDE}" stroke="{LIP}" stroke-width="9"/>',
    "pucker": f'<ellipse rx="15" ry="15" fill="{INSIDE}" stroke="{LIP}" stroke-width="13"/>',
    "bite": f'<rect x="-40" y="-16" width="80" height="16" rx="6" fill="{TOOTH}" stroke="{LINE}" stroke-width="6"/>'
    f'<rect x="-38" y="0" width="76" height="16" rx="8" fill="{LIP}"/>',
    "tongue": f'<ellipse rx="46" ry="27" fill="{INSIDE}"/><path d="M-34-16Q0-33 34-16L30-9Q0-15-30-9Z" fill="{TOOTH}"/>'
    f'<ellipse cy="1" rx="20" ry="15" fill="{TONGUE}"/>',
    "smile": f'<path d="M-60-16Q0 38 60-16" {_LINE} stroke-width="13"/>',
}
"""SVG around the middle of the mouth, in units of Toon Head's drawings."""


def shapes_of(symbol: str) -> list[str]:
    """The mouth shapes of a phoneme, one after the other.

    Raises:
        BuildError: if it has a letter that no shape is known of.
    """
    letters = [letter for letter in symbol if letter not in MARKS]
    unknown = [letter for letter in letters if letter not in _OF_LETTER]
    if unknown:
        raise BuildError(f"no mouth shape is known of {unknown[0]!r} in the phoneme {symbol!r}: add it to LETTERS of {__name__}")
    return [_OF_LETTER[letter] for letter in letters]


def spoken_shapes(phonemes: Sequence[SpokenPhoneme], frames: int, rate: float, lead: float) -> list[tuple[str, str]]:
    """Mouth shape and phoneme of each frame: those that last longest within it; silence is at rest.

    The letters of a phoneme share its time equally.

    Args:
        phonemes: Of the speech.
        frames: Of the clip.
        rate: Frames a second.
        lead: Seconds of silence before the speech.
    """
    parts = [(0.0, lead, REST, "")]
    for phoneme in phonemes:
        shapes = shapes_of(phoneme.symbol) or [REST]
        step = (phoneme.end - phoneme.start) / len(shapes)
        for number, shape in enumerate(shapes):
            begin = lead + phoneme.start + number * step
            parts.append((begin, begin + step, shape, phoneme.symbol))
    parts.append((parts[-1][1], float("inf"), REST, ""))
    found = []
    for frame in range(frames):
        begin, end = frame / rate, (frame + 1) / rate
        within: dict[tuple[str, str], float] = {}
        for start, stop, shape, symbol in parts:
            overlap = min(end, stop) - max(begin, start)
            if overlap > 1e-9:
                within[shape, symbol] = within.get((shape, symbol), 0.0) + overlap
        found.append(max(within, key=lambda each: round(within[each], 9)))  # of equal ones the first
    return found
