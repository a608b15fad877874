"""How clearly each voice of a set speaks: words that Whisper base hears wrong, and DNSMOS, on clips spread evenly over the set.

    python benchmarks/voices.py synthetic-speech --column voice --clips 10
    python benchmarks/voices.py --quick                # a smoke run: four clips made for it; needs the extra speech

Of English. Sentences with numbers are left out, which are written in many ways, and so are those of fewer than four words.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from quick import spoken

from jielong.data.opening import open_data
from jielong.data.order import spread
from jielong.data.sets import MediaSet
from jielong.evaluation.sound.listening import dnsmos
from jielong.evaluation.sound.words import Recogniser, intelligibility, normalise

RATE = 16_000
NUMBERS = """
oh zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty
thirty forty fifty sixty seventy eighty ninety hundred thousand million half percent dollars cents first second third fourth fifth sixth
seventh eighth ninth tenth eleventh twelfth thirteenth fifteenth eighteenth twentieth thirtieth fortieth fiftieth hundredth
"""


def main() -> None:
    """Measure every voice, then all clips together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", help="a set of English speech with its words")
    parser.add_argument("--column", default="voice", help="what tells voices apart")
    parser.add_argument("--clips", type=int, default=10, help="of each voice")
    parser.add_argument("--quick", action="store_true", help="two voices of two clips made for it: whether it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.set, arguments.clips = spoken(), 1
    if arguments.set is None:
        parser.error("name a set of speech, such as synthetic-speech")
    sounds, recogniser = open_data(arguments.set, sample_rate=RATE), Recogniser("en")
    voices = sounds.columns[arguments.column]
    numbers = set(NUMBERS.split())
    fit = [i for i, words in enumerate(normalise(text).split() for text in sounds.captions) if len(words) > 3 and not numbers & set(words)]
    chosen: list[int] = []
    print(f"{arguments.column:<24} clips minutes  words wrong  DNSMOS")
    for voice in sorted(set(voices)):
        own = [index for index in fit if voices[index] == voice]
        measured = [own[place] for place in spread(len(own), arguments.clips)]
        minutes = sum(sounds.full_length(index) for index in range(len(sounds)) if voices[index] == voice) / RATE / 60
        report(f"{voice:<24} {voices.count(voice):5} {minutes:7.1f}", measured, sounds, recogniser)
        chosen += measured
    report(f"{'all':<24} {len(sounds):5} {sum(map(sounds.full_length, range(len(sounds)))) / RATE / 60:7.1f}", chosen, sounds, recogniser)


def report(name: str, rows: Sequence[int], sounds: MediaSet, recogniser: Recogniser) -> None:
    """Print a line about those clips."""
    clips = [sounds.whole(row) for row in rows]
    wrong = intelligibility(clips, [sounds.captions[row] for row in rows], RATE, recogniser)["wer"].value
    print(f"{name} {wrong:12.1%} {dnsmos(clips, RATE).value:7.2f}", flush=True)


if __name__ == "__main__":
    main()
