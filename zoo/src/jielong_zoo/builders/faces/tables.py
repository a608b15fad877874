"""The styles of the set `faces`: their values, by the names of parts and variants that DiceBear uses."""

from __future__ import annotations

from collections.abc import Mapping

from jielong_zoo.builders.faces import rules
from jielong_zoo.builders.faces.styles import Style, variants

STYLES: Mapping[str, Style] = {
    style.name: style
    for style in (
        Style(
            name="toon-head",
            title="Toon Head",
            title_zh="Toon Head",
            values={
                "hair": {
                    "bun": {"hair": ("bun",)},
                    "short": {"hair": ("sideComed",)},
                    "spiky": {"hair": ("spiky",)},
                    "undercut": {"hair": ("undercut",)},
                    "long straight": {"hair": ("sideComed",), "rearHair": ("longStraight",)},
                    "long wavy": {"hair": ("sideComed",), "rearHair": ("longWavy",)},
                    "bob": {"hair": ("sideComed",), "rearHair": ("neckHigh",)},
                    "shoulder-length": {"hair": ("sideComed",), "rearHair": ("shoulderHigh",)},
                },
                "eyes": variants("eyes", {"open": "happy", "closed": "bow humble", "winking": "wink"}),
                "expression": {
                    "smiling": {"mouth": ("smile", "laugh"), "eyebrows": ("happy", "neutral")},
                    "sad": {"mouth": ("sad",), "eyebrows": ("sad",)},
                    "angry": {"mouth": ("angry",), "eyebrows": ("angry",)},
                    "surprised": {"mouth": ("agape",), "eyebrows": ("raised",)},
                },
                "facial_hair": variants(
                    "beard",
                    {"none": "", "beard": "fullBeard", "long beard": "longBeard", "moustache": "moustacheTwirl", "goatee": "chinMoustache"},
                ),
                "clothes": variants(
                    "clothes",
                    {"T-shirt": "tShirt", "dress": "dress", "jacket": "openJacket", "collared shirt": "shirt", "turtleneck": "turtleNeck"},
                ),
            },
            colours={"hair_color": ("hairColor",), "skin": ("skinColor",), "clothes_color": ("clothesColor",)},
            settle=rules.toon_head,
            optional=("beard", "rearHair"),
            fixed={"mouth": ("smile",), "eyebrows": ("neutral",)},
            weights={"facial_hair": {"none": 3.0}, "eyes": {"open": 4.0}},
        ),
        Style(
            name="micah",
            title="Micah",
            title_zh="Micah",
            values={
                "hair": variants(
                    "hair",
                    {
                        "quiff": "fonze",
                        "mohawk": "mrT",
                        "balding": "dougFunny",
                        "bald": "mrClean",
                        "long wavy": "full",
                        "bob": "pixie",
                        "straight": "dannyPhantom",
                    },
                ),
                "hat": variants("hair", {"none": "", "turban": "turban"}),
                "eyes": variants("eyes", {"open": "eyes round", "closed": "smiling"}),
                "expression": variants(
                    "mouth",
                    {"smiling": "smile", "laughing": "laughing", "sad": "sad frown", "surprised": "surprised", "nervous": "nervous"},
                ),
                "glasses": variants("glasses", {"none": "", "round glasses": "round", "square glasses": "square"}),
                "facial_hair": variants("facialHair", {"none": "", "beard": "beard", "stubble": "scruff"}),
                "earrings": variants("earrings", {"none": "", "hoops": "hoop"}),
                "clothes": variants("shirt", {"sweater": "crew", "collared shirt": "collared", "top": "open"}),
            },
            colours={
                "hair_color": ("hairColor", "facialHairColor"),
                "hat_color": ("hairColor",),
                "skin": ("baseColor",),
                "clothes_color": ("shirtColor",),
            },
            settle=rules.micah,
            optional=("glasses", "facialHair", "earrings"),
            fixed={
                "hairColor": ("2b2626",),
                "glassesColor": ("000000",),
                "earringColor": ("e0a000",),
                "mouthColor": ("000000",),
                "eyebrowsColor": ("000000",),
            },
            free={"nose": ("curve", "pointed", "tound"), "ears": ("attached", "detached"), "eyebrows": ("up", "eyelashesUp")},
            weights={
                "hair": {"bald": 0.5, "balding": 0.5},
                "hat": {"none": 12.0},
                "glasses": {"none": 4.0},
                "facial_hair": {"none": 3.0},
                "earrings": {"none": 3.0},
                "eyes": {"open": 4.0},
            },
        ),
        Style(
            name="open-peeps",
            title="Open Peeps",
            title_zh="Open Peeps",
            values={
                "hair": {
                    **variants("head", {"bun": "grayBun", "mohawk": "mohawk", "balding": "noHair3", "bald": "noHair1"}),
                    **variants("head", {"straight with bangs": "bangs", "curly with bangs": "mediumBangs2", "low bun": "grayMedium"}),
                    **variants(
                        "head_black",
                        {
                            "afro": "afro",
                            "bob": "bangs2 medium1",
                            "long straight": "mediumStraight longBangs",
                            "long curly": "longCurly long",
                        },
                    ),
                    **variants("head_black", {"dreadlocks": "dreads1 dreads2", "cornrows": "cornrows2", "flat top": "flatTop flatTopLong"}),
                    **variants("head_black", {"twists": "twists twists2", "bantu knots": "bantuKnots"}),
                    "short": {"head": ("grayShort",), "head_black": ("short1", "short2")},
                    "quiff": {"head": ("short4",), "head_black": ("pomp",)},
                },
                "hat": variants("head", {"none": "", "beanie": "hatBeanie", "turban": "turban", "hijab": "hijab", "brimmed hat": "hatHip"}),
                "expression": variants(
                    "face",
                    {
                        "smiling": "smile",
                        "grinning": "smileBig",
                        "laughing": "smileLOL",
                        "angry": "veryAngry",
                        "sad": "solemn",
                        "surprised": "awe",
                    },
                ),
                "glasses": variants(
                    "accessories", {"none": "", "glasses": "glasses glasses2 glasses3 glasses5", "sunglasses": "sunglasses sunglasses2"}
                ),
                "facial_hair": variants(
                    "facialHair", {"none": "", "beard": "full full2", "goatee": "goatee1 goatee2", "moustache": "moustache5 moustache6"}
                ),
            },
            colours={"hair_color": ("headContrastColor",), "skin": ("skinColor",), "clothes_color": ("clothingColor",)},
            settle=rules.open_peeps,
            optional=("accessories", "facialHair", "mask"),
            weights={
                "hair": {
                    "short": 4.0,
                    "quiff": 3.0,
                    "bun": 3.0,
                    "low bun": 3.0,
                    "mohawk": 3.0,
                    "straight with bangs": 4.0,
                    "curly with bangs": 4.0,
                },
                "hat": {"none": 24.0},
                "glasses": {"none": 4.0},
                "facial_hair": {"none": 4.0},
            },
        ),
        Style(
            name="personas",
            title="Personas",
            title_zh="Personas",
            values={
                "hair": {
                    **variants(
                        "hair",
                        {
                            "short": "shortCombover",
                            "short with sideburns": "shortComboverChops",
                            "long straight": "extraLong",
                            "bob": "bobCut",
                        },
                    ),
                    **variants(
                        "hair", {"shoulder-length": "long", "bob with bangs": "bobBangs", "curly": "curly", "high top": "curlyHighTop"}
                    ),
                    **variants(
                        "hair",
                        {
                            "pigtails": "pigtails",
                            "bun": "straightBun",
                            "curly bun": "curlyBun",
                            "bald": "bald",
                        },
                    ),
                },
                "hat": variants("hair", {"none": "", "cap": "cap", "beanie": "beanie"}),
                "eyes": variants("eyes", {"open": "open", "closed": "sleep happy", "winking": "wink"}),
                "expression": variants(
                    "mouth", {"smiling": "smile", "grinning": "bigSmile", "sad": "frown", "surprised": "surprise", "smirking": "smirk"}
                ),
                "glasses": variants("eyes", {"none": "", "glasses": "glasses", "sunglasses": "sunglasses"}),
                "facial_hair": variants(
                    "facialHair",
                    {"none": "", "beard": "beardMustache", "goatee": "goatee", "moustache": "walrus pyramid"},
                ),
                "clothes": variants("body", {"T-shirt": "rounded squared", "checked shirt": "checkered"}),
            },
            colours={"hair_color": ("hairColor",), "skin": ("skinColor",), "clothes_color": ("clothingColor",)},
            settle=rules.personas,
            optional=("facialHair",),
            free={"nose": ("mediumRound", "smallRound")},
            weights={
                "hair": {"bald": 0.5},
                "hat": {"none": 10.0},
                "glasses": {"none": 4.0},
                "facial_hair": {"none": 3.0},
                "eyes": {"open": 4.0},
            },
        ),
        Style(
            name="pixel-art",
            title="pixel art",
            title_zh="像素画",
            values={
                "hair": {
                    **variants(
                        "hair",
                        {"long": "long01 long02 long03 long07 long12", "bob": "long04 long10 long11 long16", "pigtails": "long18"},
                    ),
                    **variants("hair", {"short": "short01 short02 short06 short09 short14 short16", "balding": "short18"}),
                },
                "hat": variants("hat", {"none": "", "cap": "variant02 variant06 variant07", "beanie": "variant03 variant04 variant09"}),
                "expression": variants(
                    "mouth",
                    {
                        "smiling": "happy09 happy06",
                        "grinning": "happy12",
                        "smirking": "happy08 happy10",
                        "sad": "sad01",
                        "neutral": "sad05 sad06",
                        "surprised": "happy01",
                    },
                ),
                "glasses": variants("glasses", {"none": "", "glasses": "light05 light06 light07", "sunglasses": "dark01 dark02 dark03"}),
                "earrings": variants("accessories", {"none": "", "earrings": "variant01 variant02 variant03"}),
                "clothes": variants(
                    "clothing",
                    {
                        "T-shirt": "variant03 variant04 variant05",
                        "checked shirt": "variant06",
                        "striped shirt": "variant13",
                        "overalls": "variant09",
                    },
                ),
            },
            colours={
                "hair_color": ("hairColor",),
                "hat_color": ("hatColor",),
                "skin": ("skinColor",),
                "eye_color": ("eyesColor",),
                "clothes_color": ("clothingColor",),
            },
            settle=rules.pixel_art,
            optional=("accessories", "beard", "glasses", "hat"),
            fixed={"eyes": ("variant01",), "glassesColor": ("191919",), "accessoriesColor": ("ffd700",), "mouthColor": ("b8433f",)},
            weights={
                "hat": {"none": 6.0},
                "glasses": {"none": 4.0},
                "earrings": {"none": 3.0},
                "hair": {"short": 2.0, "long": 2.0, "balding": 0.5},
            },
        ),
    )
}
"""Styles by name."""
