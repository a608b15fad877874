"""English sentences for speech synthesis: some written out, most from patterns; all are part of this project."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache

from jielong.data.splits import fraction
from jielong_zoo.builders.phrases import PROMPTS, QUESTIONS, SHORT, STATEMENTS, WORDS

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
I don't know what you mean by that.
You're quite right, and I'm sorry.
They've already gone, haven't they?
We'll be there as soon as we can.
He wasn't at home, so I left a note.
She'd rather stay here with us.
It's not as bad as it looks.
That doesn't sound like him at all.
What's the matter with your voice?
Whose turn is it to wash up?
Which of these belongs to you?
Why didn't anyone tell me?
When will it be ready?
How much does that cost?
How often do you think about the sea?
Where have all the teaspoons gone?
Who else would have known?
Let me think about it for a moment.
Give it to her before she asks.
Show them how it works, would you?
Make sure that both doors are shut.
Take your time; there is no hurry.
Come in, sit down, and tell us everything.
Don't worry, it happens to everybody.
Try again, but push a little harder this time.
Go straight on until you see the traffic lights.
I have never said such a thing in my life.
You should have been here an hour ago.
If I were you, I would ask for help.
Although it was late, nobody felt tired.
Because of the snow, the schools were closed.
Either the price is wrong, or I am.
Neither of them knew what to say.
Some people agree, others do not, and most do not care.
As far as we know, this has never been tried.
The more you practise, the easier it becomes.
There are at least two sides to every story.
Once upon a time, a king lost his shoes.
Good morning, how may I help you?
Good evening, and welcome to the show.
Good night, sleep well.
Happy birthday to you both!
Thank you very much for your patience.
You're welcome, any time.
Excuse me, is this seat taken?
I beg your pardon?
See you next week, same place, same time.
Hello, is anybody there?
Goodbye for now.
Yes, of course.
No, thank you.
Maybe later.
Ready, steady, go!
Not so fast!
Oh, what a pity.
Really? Are you sure?
Sorry, wrong number.
Just a second, please.
The number you have reached has been changed.
This number is no longer in use.
All of our lines are busy; someone will be with you shortly.
Your call may be recorded so that we can train our staff.
Please stay on the line, and do not hang up.
To hear these choices again, press nine.
To go back to the main menu, press star.
If you know your party's extension, dial it now.
Leave your name and number after the beep.
That is not a valid choice.
We did not hear you; please speak up.
The password you gave is wrong.
You have three tries left.
Nobody is here to take your call.
Your request has been sent to our office.
The person you are calling is speaking to somebody else.
This mailbox is full.
There are no new messages.
Recording has started; press any key to stop.
Please type the digits of your card, then wait.
You will be called back within two working days.
The line will close in thirty seconds.
Our opening hours are nine to five, Monday through Friday.
The next train does not stop here.
Stand clear of the doors, please.
Change here for trains to the airport.
In two hundred yards, turn right.
At the roundabout, take the second exit.
You have arrived.
The temperature will fall to minus three degrees.
Expect heavy showers, with bright spells later on.
A gentle breeze will blow from the southwest.
The answer is seven eighths, or eighty-seven point five percent.
Ten minus four is six; six times three is eighteen.
It weighs two pounds and four ounces.
Born in nineteen eighty-five, she moved north in two thousand and eleven.
The match ended five to three.
Chapter twelve, page one hundred and six.
Add a pinch of salt, and stir until smooth.
Bake it for forty minutes, and let it cool.
The doctor's daughter thought she ought to laugh.
Though tough enough, the dough went through the trough.
Sixth-grade texts asked for strengths and depths.
Which witch switched the wristwatches?
Charge the judge for each orange ledge and bridge.
Vivid waves veered over the very wet verge.
Zebras, zippers and prizes buzz lazily.
Father bothered to breathe; mother smoothed the leather.
The singer's finger lingered on a single string.
Yesterday you used a yellow unicycle, yes?
Hush, the whole house can hear who is here.
The azure mirage was an unusual illusion.
Boys join voices; coins make noise.
Our hour of power turned sour by the tower.
Fair bears share rare pears there.
Near here, clear tears appear each year.
Sure, the tour cures poor tourists.
The nurse heard the first bird's words.
Large cars park far apart in March.
Four more doors for the morning storm.
The cook took a good look at the book.
Move the new blue shoes to the moon room soon.
"""
"""Sentences with every English phoneme, everyday sentences, and announcements."""


def sentences() -> list[str]:
    """All sentences, about 6,000, in a fixed order that mixes the kinds."""
    generated = [
        text for kind in (SHORT, PROMPTS, STATEMENTS, QUESTIONS) for pattern, count in kind.items() for text in filled(pattern, count)
    ]
    return sorted(dict.fromkeys([*WRITTEN.strip().splitlines(), *generated]), key=fraction)


_SLOT = re.compile(r"(\b[Aa] )?\{(([a-z]+)\d*)\}")


def filled(pattern: str, count: int, words: Mapping[str, Sequence[str]] = WORDS) -> list[str]:
    """Sentences of a pattern: each slot uses every word once before any is repeated, in an order that depends on the slot.

    Args:
        pattern: Text with slots ``{list}`` or ``{list2}``; slots of one list get different words.
        count: Number of sentences before duplicates are removed.
        words: Words by list.
    """

    @cache
    def order(slot: str, kind: str, turn: int) -> list[str]:
        return sorted(words[kind], key=lambda word: fraction(f"{pattern}|{slot}|{turn}|{word}"))

    def sentence(number: int) -> str:
        used: set[str] = set()

        def word(match: re.Match[str]) -> str:
            article, slot, kind = match.groups("")
            turn, first = divmod(number, len(words[kind]))
            rotated = order(slot, kind, turn)[first:] + order(slot, kind, turn)[:first]
            chosen = next(word for word in rotated if word not in used)
            used.add(chosen)
            return (f"{article[0]}n " if article and chosen[0] in "aeiou" and not chosen.startswith("us") else article) + chosen

        text = _SLOT.sub(word, pattern)
        return text[0].upper() + text[1:]

    return list(dict.fromkeys(sentence(number) for number in range(count)))
