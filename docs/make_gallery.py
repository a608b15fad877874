"""Draw docs/gallery.png: the demo's prompts by each shipped strategy, first draws, seed 0.

python docs/make_gallery.py
python docs/make_gallery.py --quick --out gallery.png    # a smoke run: one model, two prompts
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from jielong.apps.demo import PROMPTS, shipped_models
from jielong.media.images import write_image
from jielong.system import load

CELL, GAP, LEFT, TOP, LINE = 192, 12, 196, 12, 30
INK, SOFT = (28, 27, 25), (102, 98, 91)


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Words on lines no wider than ``width`` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def main() -> None:
    """Draw and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="a row each; those of the demo by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("gallery.png"))
    parser.add_argument("--quick", action="store_true", help="the first model and two prompts: whether it runs")
    options = parser.parse_args()
    options.models, prompts = options.models or shipped_models(), PROMPTS
    if options.quick:
        options.models, prompts = options.models[:1], PROMPTS[:2]
    font, small = ImageFont.load_default(24), ImageFont.load_default(20)
    pitch = CELL + GAP
    captions = [wrapped(prompt, small, CELL - 8) for prompt in prompts]
    foot = LINE * max(caption.count("\n") + 1 for caption in captions) + TOP
    canvas = Image.new("RGB", (LEFT + len(prompts) * pitch, TOP + len(options.models) * pitch + foot), "white")
    draw = ImageDraw.Draw(canvas)
    for row, name in enumerate(options.models):
        system = load(name)
        parts = [each.name for each in (system.recipe.order, system.recipe.head) if each is not None]
        top = TOP + row * pitch
        draw.text((GAP, top + CELL / 2 - 36), name.partition("-faces")[0], fill=INK, font=font)
        draw.multiline_text((GAP, top + CELL / 2 - 4), "\n".join(parts), fill=SOFT, font=small, spacing=4)
        for column, picture in enumerate(system.generate(prompts, seed=0)):
            canvas.paste(picture.image.resize((CELL, CELL), Image.Resampling.LANCZOS), (LEFT + column * pitch, top))
    for column, caption in enumerate(captions):
        place = (LEFT + column * pitch + 4, TOP + len(options.models) * pitch)
        draw.multiline_text(place, caption, fill=SOFT, font=small, spacing=6)
    print(write_image(options.out, canvas))


if __name__ == "__main__":
    main()
