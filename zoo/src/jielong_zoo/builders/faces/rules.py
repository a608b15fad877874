"""Which values of attributes a style cannot show together."""

from __future__ import annotations

from jielong_zoo.builders.faces.styles import Attributes


def toon_head(a: Attributes) -> None:
    """Values that `toon-head` can draw together; what is hidden becomes ``None``."""
    if a["hair"] not in ("short", "spiky", "undercut"):
        a["facial_hair"] = "none"
    if a["facial_hair"] != "none" and a["expression"] in ("smiling", "surprised"):
        a["expression"] = None  # the beard hides the mouth; brows show the others


def micah(a: Attributes) -> None:
    """Values that `micah` can draw together; what is hidden becomes ``None``."""
    if a["hat"] == "turban":
        a["hair"] = a["hair_color"] = None
    else:
        a["hat_color"] = None
    if a["hair"] in ("bald", "balding"):
        a["hair_color"] = None
    if a["hair"] in ("long wavy", "bob"):
        a["facial_hair"] = "none"
    # Lines of a mouth are black: on black they would not be seen.
    if a["facial_hair"] == "beard" and a["hair_color"] in (None, "black") and a["expression"] in ("smiling", "sad"):
        a["expression"] = "laughing" if a["expression"] == "smiling" else "surprised"


PEEPS_BLACK = frozenset({"afro", "bob", "long straight", "long curly", "dreadlocks", "cornrows", "flat top", "twists", "bantu knots"})
"""Hair that Open Peeps draws black alone."""


def open_peeps(a: Attributes) -> None:
    """Values that `open-peeps` can draw together; what is hidden becomes ``None``."""
    if a["hat"] != "none":
        a["hair"] = a["hair_color"] = None
        a["hat_color"] = "black" if a["hat"] in ("hijab", "brimmed hat") else a["clothes_color"]
    else:
        a["hat_color"] = None
    if a["hair"] == "bald":
        a["hair_color"] = None
    elif a["hair"] in PEEPS_BLACK:
        a["hair_color"] = "black"
    if a["hat"] == "hijab" or a["hair"] in (
        "bun",
        "low bun",
        "bob",
        "long straight",
        "long curly",
        "straight with bangs",
        "curly with bangs",
    ):
        a["facial_hair"] = "none"
    if a["facial_hair"] != "none" and a["expression"] in ("smiling", "laughing"):
        a["expression"] = "grinning"
    if a["expression"] == "surprised" or (a["glasses"] == "sunglasses" and a["expression"] in ("angry", "sad")):
        a["glasses"] = "none"


def personas(a: Attributes) -> None:
    """Values that `personas` can draw together; what is hidden becomes ``None``."""
    if a["hat"] != "none":
        a["hair"] = a["hair_color"] = None
        a["hat_color"] = "orange" if a["hat"] == "cap" else "red"
    else:
        a["hat_color"] = None
    if a["hair"] == "bald":
        a["hair_color"] = None
    if a["hair"] in ("bob", "bob with bangs", "long straight", "shoulder-length", "pigtails", "bun", "curly bun"):
        a["facial_hair"] = "none"
    if a["hair_color"] is None:
        a["facial_hair"] = "none"  # its colour is that of the hair
    if a["facial_hair"] == "beard":
        a["expression"] = "grinning"  # the beard is drawn with this mouth
    if a["glasses"] != "none":
        a["eyes"] = "open" if a["glasses"] == "glasses" else None


def pixel_art(a: Attributes) -> None:
    """Values that `pixel-art` can draw together; what is hidden becomes ``None``."""
    if a["hat"] != "none":
        if a["hair"] in ("short", "balding"):
            a["hair"] = a["hair_color"] = None
    else:
        a["hat_color"] = None
    if a["glasses"] == "sunglasses":
        a["eye_color"] = None
    if a["hair"] in ("long", "bob"):
        a["earrings"] = "none"
