"""Write the tables of docs/recipes.md: which orders, backbones and heads fit which tokens, by building each and computing its loss.

python docs/make_recipes.py
python docs/make_recipes.py --check    # write nothing; exit with 1 if the tables are not what would be written
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import torch
from written import write_or_check

from jielong.backbones.base import BackboneSettings
from jielong.config.registry import parse_part, parts_of
from jielong.core.medium import Medium
from jielong.core.rng import PerSampleRNG
from jielong.generation.generator import Generator
from jielong.generation.plan import SequencePlan
from jielong.heads.base import HeadSettings
from jielong.orders.base import OrderSettings
from jielong.tokenizers.base import Tokenizer, TokenizerSettings
from jielong.tokenizers.scaled import ScaledTokenizer

PAGE = Path(__file__).with_name("recipes.md")
PICTURE = Medium("image", 3, ("rows", "columns"), (8, 8))
SOUND = Medium("audio", 1, ("time",), (32,), 16_000)
CLIP = Medium("video", 3, ("time", "rows", "columns"), (2, 2, 2), 8)
_GRID = {"convolutional": {"patch": 4, "channels": [8], "blocks": [0]}}
_VECTOR = {"vector": {"codebook_size": 16}}
_RESIDUAL = {"residual": {"num_codebooks": 2, "quantizer": _VECTOR}}
_SCALES = {"multi_scale": {"codebook_size": 16}}

TOKENS: dict[str, tuple[Medium, dict[str, object]]] = {
    "codes in rows and columns": (PICTURE, {"vq": {"autoencoder": _GRID, "dim": 4, "quantizer": _VECTOR}}),
    "codes of several codebooks": (PICTURE, {"vq": {"autoencoder": _GRID, "dim": 4, "quantizer": _RESIDUAL}}),
    "codes on scales": (PICTURE, {"vq": {"autoencoder": _GRID, "dim": 4, "quantizer": _SCALES}}),
    "vectors in rows and columns": (PICTURE, {"kl": {"autoencoder": _GRID, "dim": 4}}),
    "pixels": (PICTURE, {"pixels": {"levels": 8}}),
    "pixels of clips": (CLIP, {"pixels": {"levels": 8}}),
    "samples of sound": (SOUND, {"samples": {"levels": 16}}),
}
"""Kinds of tokens: what is read, and a tokenizer that makes them."""
USUAL = {"codes on scales": "next_scale"}
"""The order of the table of heads, where it is not raster."""
OF_VECTORS: dict[str, dict[str, object]] = {"next_scale": {"divide": {}}}
"""Settings of an order without which it does not serve vectors on one grid."""
SMALL: dict[str, dict[str, object]] = {
    "transformer": {"layers": 1, "width": 12, "heads": 2},
    "pixelcnn": {"layers": 1, "width": 12},
    "vpn": {"encoder_layers": 1, "decoder_layers": 1, "width": 12},
}


def tokenizer_of(kind: str) -> Tokenizer:
    """A tokenizer of a kind of tokens."""
    medium, settings = TOKENS[kind]
    part = parse_part("tokenizer", settings)
    assert isinstance(part, TokenizerSettings)
    return part.build(medium).eval()


def reason(tokenizer: Tokenizer, order: str, backbone: str, head: str) -> str:
    """Why parts do not fit tokens; empty where they do, and a loss is computed."""
    of_order = {order: {} if tokenizer.layout.discrete else OF_VECTORS.get(order, {})}
    parts = [parse_part("order", of_order), parse_part("backbone", {backbone: SMALL.get(backbone, {})}), parse_part("head", head)]
    assert isinstance(parts[0], OrderSettings)
    assert isinstance(parts[1], BackboneSettings)
    assert isinstance(parts[2], HeadSettings)
    torch.manual_seed(0)
    try:
        if scales := parts[0].scales_of(tokenizer.layout):
            tokenizer = ScaledTokenizer(tokenizer, scales)
        built, layout = parts[0].build(), tokenizer.layout
        network = parts[1].build(SequencePlan.of(built, layout).layout, None)
        built_head = parts[2].build(network.width, layout)
        model = Generator(layout, built, network, built_head, None, built.embedding(tokenizer, network.width), None)
        media = torch.rand(2, tokenizer.media.channels, *tokenizer.media.size) * 2 - 1
        tokens = tokenizer.sample_cached(tokenizer.encode_to_cache(media), PerSampleRNG(0, range(2)))
        loss = model.loss(tokens, None, PerSampleRNG(0, range(2)))
    except ValueError as error:
        return str(error)
    return "" if bool(loss.isfinite()) else "no finite loss"


def table(first: str, rows: Sequence[str], names: Sequence[str], fits: Callable[[str, str], bool]) -> Iterator[str]:
    """A Markdown table of what fits."""
    yield f"| {first} | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for row in rows:
        yield f"| {row} | " + " | ".join("yes" if fits(row, name) else "-" for name in names) + " |"


def tables() -> dict[str, list[str]]:
    """The tables by the name of their place in the page."""
    made = {kind: tokenizer_of(kind) for kind in TOKENS}
    orders, heads, backbones = (list(parts_of(family)) for family in ("order", "head", "backbone"))

    def head_of(kind: str) -> str:
        return "flow_matching" if made[kind].layout.vocabulary is None else "softmax"

    @cache  # the table of backbones asks again
    def order_fits(kind: str, order: str) -> bool:
        return not reason(made[kind], order, "transformer", head_of(kind))

    def head_fits(head: str, kind: str) -> bool:
        return not reason(made[kind], USUAL.get(kind, "raster"), "transformer", head)

    def backbone_fits(backbone: str, order: str) -> bool:
        kinds = [kind for kind in TOKENS if order_fits(kind, order)]
        return any(not reason(made[kind], order, backbone, head_of(kind)) for kind in kinds)

    return {
        "orders": list(table("tokens", list(TOKENS), orders, order_fits)),
        "heads": list(table("head", heads, list(TOKENS), head_fits)),
        "backbones": list(table("backbone", backbones, orders, backbone_fits)),
    }


def page() -> str:
    """The page with new tables between its marks."""
    text = PAGE.read_text("utf-8")
    for name, lines in tables().items():
        begin, end = f"<!-- table: {name} -->\n", f"<!-- end: {name} -->"
        before, _, rest = text.partition(begin)
        text = before + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2]
    return text


def main() -> None:
    """Write the tables, or check them."""
    write_or_check(PAGE, page, str(__doc__))


if __name__ == "__main__":
    main()
