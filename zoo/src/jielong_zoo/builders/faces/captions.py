"""Sentences about a face in English and Chinese, in several wordings, from its attributes."""

from __future__ import annotations

import random
from collections.abc import Mapping

from jielong_zoo.builders.faces.styles import Attributes
from jielong_zoo.builders.faces.tables import STYLES

HAIR: Mapping[str, tuple[str, str]] = {
    "afro": ("a {c} afro", "{c}爆炸头"),
    "bald": ("a bald head", "光头"),
    "balding": ("thinning {c} hair", "稀疏的{c}头发"),
    "bantu knots": ("{c} Bantu knots", "{c}班图结发髻"),
    "bob": ("a {c} bob", "{c}波波头"),
    "bob with bangs": ("a {c} bob with bangs", "{c}齐刘海波波头"),
    "bun": ("{c} hair in a bun", "{c}丸子头"),
    "cornrows": ("{c} cornrows", "{c}玉米辫"),
    "curly": ("big curly {c} hair", "蓬松的{c}卷发"),
    "curly bun": ("curly {c} hair in a bun", "{c}卷发丸子头"),
    "curly with bangs": ("curly {c} hair with bangs", "带刘海的{c}卷发"),
    "dreadlocks": ("{c} dreadlocks", "{c}脏辫"),
    "flat top": ("a {c} flat top", "{c}平顶头"),
    "high top": ("a curly {c} high top", "{c}卷发高平头"),
    "long": ("long {c} hair", "{c}长发"),
    "long curly": ("long curly {c} hair", "{c}长卷发"),
    "long straight": ("long straight {c} hair", "{c}长直发"),
    "long wavy": ("long wavy {c} hair", "{c}长波浪发"),
    "low bun": ("{c} hair in a low bun", "{c}低发髻"),
    "mohawk": ("a {c} mohawk", "{c}莫西干发型"),
    "pigtails": ("{c} pigtails", "{c}双马尾"),
    "quiff": ("a {c} quiff", "{c}飞机头"),
    "short": ("short {c} hair", "{c}短发"),
    "short with sideburns": ("short {c} hair with sideburns", "带鬓角的{c}短发"),
    "shoulder-length": ("shoulder-length {c} hair", "{c}及肩发"),
    "spiky": ("spiky {c} hair", "{c}刺猬头"),
    "straight": ("straight {c} hair", "{c}直发"),
    "straight with bangs": ("straight {c} hair with bangs", "带刘海的{c}直发"),
    "twists": ("{c} twists", "{c}扭辫短发"),
    "undercut": ("a {c} undercut", "{c}两侧剃短的头发"),
}
"""Hair in English and Chinese; ``{c}`` is its colour."""
HAT = {
    "cap": ("{c} cap", "{c}鸭舌帽"),
    "beanie": ("{c} beanie", "{c}毛线帽"),
    "turban": ("{c} turban", "{c}头巾"),
    "hijab": ("{c} hijab", "{c}希贾布"),
    "brimmed hat": ("{c} brimmed hat", "{c}宽檐帽"),
}
EXPRESSION = {
    "smiling": ("smiling", "微笑"),
    "grinning": ("grinning", "咧嘴笑"),
    "laughing": ("laughing", "大笑"),
    "smirking": ("smirking", "坏笑"),
    "sad": ("sad", "伤心"),
    "angry": ("angry", "生气"),
    "surprised": ("surprised", "惊讶"),
    "nervous": ("nervous", "紧张"),
    "neutral": ("serious", "严肃"),
}
GLASSES = {
    "glasses": ("glasses", "眼镜"),
    "sunglasses": ("sunglasses", "墨镜"),
    "round glasses": ("round glasses", "圆框眼镜"),
    "square glasses": ("square glasses", "方框眼镜"),
}
FACIAL_HAIR = {
    "beard": ("a beard", "络腮胡"),
    "long beard": ("a long beard", "长胡子"),
    "goatee": ("a goatee", "山羊胡"),
    "moustache": ("a mustache", "八字胡"),
    "stubble": ("stubble", "胡茬"),
}
CLOTHES = {
    "T-shirt": ("{c} T-shirt", "{c}T恤"),
    "dress": ("{c} dress", "{c}连衣裙"),
    "jacket": ("{c} jacket", "{c}夹克"),
    "collared shirt": ("{c} collared shirt", "{c}翻领衬衫"),
    "turtleneck": ("{c} turtleneck", "{c}高领衫"),
    "sweater": ("{c} sweater", "{c}毛衣"),
    "checked shirt": ("{c} checked shirt", "{c}格子衬衫"),
    "striped shirt": ("{c} striped shirt", "{c}条纹衬衫"),
    "overalls": ("{c} overalls", "{c}背带裤"),
    "top": ("{c} top", "{c}上衣"),
}
EARRINGS = {"hoops": ("hoop earrings", "圆环耳环"), "earrings": ("earrings", "耳环")}
EYES = {"closed": ("closed eyes", "闭着的眼睛"), "winking": ("a wink", "眨着的一只眼睛")}
SKIN_ZH = {"light": "浅色皮肤", "medium": "中等肤色", "dark": "深色皮肤"}
COLOUR_ZH = {
    "black": "黑色",
    "brown": "棕色",
    "blond": "金色",
    "red": "红色",
    "grey": "灰色",
    "blue": "蓝色",
    "pink": "粉色",
    "green": "绿色",
    "purple": "紫色",
    "orange": "橙色",
    "yellow": "黄色",
}


COMMA_ZH = "\uff0c"


def article(words: str) -> str:
    """The words with their indefinite article."""
    return f"{'an' if words[0] in 'aeiouAEIO' else 'a'} {words}"


def listed(words: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def coloured(pair: tuple[str, str], colour: str | None, language: int) -> str:
    """A pair of English and Chinese words with their colour."""
    named = colour or ""
    text = " ".join(pair[language].format(c=COLOUR_ZH.get(named, "") if language else named).split())
    return article(text.removeprefix("a ")) if text.startswith("a ") else text


class Phrases:
    """Phrases of a face in one language: 0 English, 1 Chinese.

    Attributes:
        features: What a person has: hair, skin, eyes, facial hair.
        worn: What a person wears.
        expression: One word, or ``None``.
    """

    def __init__(self, a: Attributes, language: int) -> None:
        eye = a["eye_color"]
        self.features: dict[str, str] = {}
        self.worn: dict[str, str] = {}
        if a["hair"] is not None:
            self.features["hair"] = coloured(HAIR[a["hair"]], a["hair_color"], language)
        if a["skin"] is not None:
            self.features["skin"] = SKIN_ZH[a["skin"]] if language else f"{a['skin']} skin"
        if eye is not None:
            self.features["eye_color"] = f"{COLOUR_ZH[eye]}眼睛" if language else f"{eye} eyes"
        if a["eyes"] in EYES:
            self.features["eyes"] = EYES[a["eyes"]][language]
        if a["facial_hair"] in FACIAL_HAIR:
            self.features["facial_hair"] = FACIAL_HAIR[a["facial_hair"]][language]
        if a["hat"] in HAT:
            hat = coloured(HAT[a["hat"]], a["hat_color"], language)
            self.worn["hat"] = hat if language else article(hat)
        if a["glasses"] in GLASSES:
            self.worn["glasses"] = GLASSES[a["glasses"]][language]
        if a["earrings"] in EARRINGS:
            self.worn["earrings"] = EARRINGS[a["earrings"]][language]
        if a["clothes_color"] is not None:
            clothes = coloured(CLOTHES[a["clothes"] or "top"], a["clothes_color"], language)
            self.worn["clothes"] = clothes if language or a["clothes"] == "overalls" else article(clothes)
        self.expression = EXPRESSION[a["expression"]][language] if a["expression"] is not None else None


LONG = 116
"""Characters from which the shortest wording comes first: text encoders read 32 tokens by default."""


def captions(style: str, a: Attributes, seed: str) -> list[str]:
    """English: four wordings that name everything visible, in an order that the seed chooses, and a shorter one at the end."""
    phrases, title, rng = Phrases(a, 0), STYLES[style].title, random.Random(f"{seed}/captions")
    features, worn, mood = list(phrases.features.values()), list(phrases.worn.values()), phrases.expression
    person = f"{mood} person" if mood else "person"
    tags = [each.removeprefix("a ").removeprefix("an ") for each in (*features, *worn)]
    full = [
        f"{article(person)} with {listed(features)}, wearing {listed(worn)}, {title} style",
        f"{title} portrait of {article(person)} with {listed(features)}, wearing {listed(worn)}",
        f"{title} style, {person} wearing {listed(worn)}, with {listed(features)}",
        ", ".join([f"{title} style", *tags, *([mood] if mood else [])]),
    ]
    rng.shuffle(full)
    if max(map(len, full)) > LONG:
        full.sort(key=len)
    rest = [name for name in (*phrases.features, *phrases.worn) if name != "hair"]
    kept = {"hair", *rng.sample(rest, min(2, len(rest)))}
    few = [[text for name, text in part.items() if name in kept] for part in (phrases.features, phrases.worn)]
    short = "a person" + (f" with {listed(few[0])}" if few[0] else "") + (f" wearing {listed(few[1])}" if few[1] else "")
    return [*full, f"{short}, {title} style"]


def captions_zh(style: str, a: Attributes, seed: str) -> list[str]:
    """Chinese: two wordings that name everything visible, in an order that the seed chooses."""
    phrases, title = Phrases(a, 1), STYLES[style].title_zh
    features, mood = "、".join(phrases.features.values()), phrases.expression
    head = "、".join(text for name, text in phrases.worn.items() if name != "clothes")
    worn = [*([f"戴着{head}"] if head else []), *(f"穿着{text}" for name, text in phrases.worn.items() if name == "clothes")]
    full = [
        COMMA_ZH.join([f"{title}风格", f"一个{f'{mood}的' if mood else ''}人", features, *worn]),
        COMMA_ZH.join([features, *phrases.worn.values(), *([f"表情{mood}"] if mood else []), f"{title}风格"]),
    ]
    random.Random(f"{seed}/zh").shuffle(full)
    return full
