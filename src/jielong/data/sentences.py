"""English sentences for a machine to read: some written out, many put together from phrases, all of this project's own making."""

from __future__ import annotations

from itertools import product

from jielong.data.source import fraction

WRITTEN = """
The kettle is on, and the biscuits are in the blue tin.
Please leave your umbrella by the door.
Nobody had told the goat about the fence.
I counted eleven boats in the harbour this morning.
Could you read that last line once more?
The lighthouse keeper plays chess by letter.
Wet paint! Do not lean on the railing.
She folded the map the wrong way again.
There is a small owl living in the bell tower.
We missed the ferry by less than a minute.
Turn left at the bakery, then follow the smell of coffee.
My grandmother could whistle two notes at once.
The thunder came first, which surprised everyone.
He keeps his spare keys under a very heavy cactus.
Have you ever heard a glacier crack?
The choir hummed while the organ was mended.
Every Thursday the library cat gives away one book.
Rice, beans, onions, and a little patience.
The violin was older than the village.
What a strange colour for a bridge!
Snow fell upwards, or so it seemed from the train.
Your call has reached the wrong planet.
The shortest sentence won the prize.
A zebra yawned, quietly judging the visitors.
They measured the garden in cartwheels.
Is this the queue for the moon?
The judge vanished, but the ice cream stayed.
Five thick feathers floated past the judge's window.
Our voyage through the azure fjord took six hours.
The child chose the cheapest cheese in the shop.
Nothing rhymes with orange, said the poet, and sat down.
Mind the gap between what you hear and what was said.
Yesterday's weather is available free of charge.
The old clock runs backwards on public holidays.
Beige gloves measure pleasure poorly.
Oil boils, toys annoy, and boys enjoy the noise.
Put the good book on the wooden hook.
Thirty-three thieves thought that they thrilled the throne.
We usually treasure casual leisure.
How now does the brown cow find its way out of town?
"""
"""Sentences that bring every sound of English in."""


def _list(text: str) -> list[str]:
    return text.split("|")


_WHO = _list(
    "the baker|a young fox|my neighbour|the tired pilot|our teacher|an honest thief|the tall nurse|a green parrot|the captain|"
    "a curious child|the night watchman|his youngest sister"
)
_DOES = _list(
    "found a silver button|sang an old song|carried three heavy boxes|lost the yellow kite|painted a wooden horse|"
    "wrote a long letter|heard a distant drum|opened the wrong window|dropped a jar of honey|repaired the broken radio|"
    "bought fresh bread|watched the clouds"
)
_WHERE = _list(
    "behind the station|near the quiet lake|under the stairs|at the edge of the forest|on the last bus|beside the river|"
    "in the middle of March|before sunrise|during the storm|after lunch"
)
_NUMBERS = _list("one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fifteen|twenty|thirty|forty|ninety")
_THINGS = _list("apples|candles|red chairs|maps|penguins|stamps|silver spoons|violins|wooden shoes|yellow leaves")
_HOURS = _list("one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve")
_PLACES = _list("the airport|the museum|platform nine|the old mill|the harbour|the north gate|the theatre|the valley")


def sentences() -> list[str]:
    """All sentences, some 2,000, in an order that mixes their kinds and never changes."""
    told = [f"{who[0].upper()}{who[1:]} {does} {where}." for who, does, where in product(_WHO, _DOES, _WHERE)]
    counted = [f"There are {number} {things} in the box." for number, things in product(_NUMBERS[1:], _THINGS)]
    timed = [f"The bus to {place} leaves at {hour} {minute}." for place, hour, minute in product(_PLACES, _HOURS, ("fifteen", "thirty"))]
    asked = [f"Who {does} {where}?" for does, where in product(_DOES, _WHERE)]
    return sorted([*WRITTEN.strip().splitlines(), *told, *counted, *timed, *asked], key=fraction)
