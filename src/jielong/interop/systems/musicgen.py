"""MusicGen of ``transformers`` (arXiv 2306.05284): a decoder over EnCodec's codes in the delay pattern that attends to T5's states.

The text encoder's weights are not copied: T5 stays frozen in MusicGen's training, and the condition ``text`` reads it from its own folder
or from the hub, as it reads every encoder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from jielong.core.json import JSON
from jielong.interop.codec_keys import KEYS as CODECS
from jielong.interop.codec_keys import OF_LIBRARY
from jielong.interop.codecs import CodecConfig, encodec
from jielong.interop.config_keys import Key, NoEffect, Only, Values, checked, whole
from jielong.interop.files import CONFIG, Source, read
from jielong.interop.key_map import Dropped, KeyMap, Row, Transform, given, joined
from jielong.interop.released import Imported
from jielong.interop.systems.codecs import of_codec
from jielong.training.checkpoint import CheckpointError

_TRAINING = "it is of training"
KEYS: Mapping[str, Key] = {
    **OF_LIBRARY,
    "vocab_size": whole(2048),
    "num_codebooks": whole(4),
    "hidden_size": whole(1024),
    "ffn_dim": whole(4096),
    "num_hidden_layers": whole(24),
    "num_attention_heads": whole(16),
    "max_position_embeddings": NoEffect("positions are computed, however many"),
    "activation_function": Only(("gelu",), "the exact GELU"),
    "scale_embedding": Only((False,), "embeddings are not multiplied"),
    "audio_channels": Only((1,), "codebooks of one channel, each a step behind the one before"),
    "cross_attention_hidden_size": Only((None,), "states are projected to the width of the decoder"),
    "tie_word_embeddings": Only((False,), "the heads have weights of their own"),
    "dropout": NoEffect(_TRAINING),
    "attention_dropout": NoEffect(_TRAINING),
    "activation_dropout": NoEffect(_TRAINING),
    "layerdrop": NoEffect(_TRAINING),
    "initializer_factor": NoEffect(_TRAINING),
    "pad_token_id": NoEffect("a missing code is the one behind the last"),
    "bos_token_id": NoEffect("a missing code is the one behind the last"),
    "eos_token_id": NoEffect("the length of the sound is given"),
}
"""Of the section ``decoder`` of ``config.json``."""
SECONDS, WORDS = 30.0, 256
"""The longest sound that MusicGen was trained on; most tokens of a text."""
GUIDANCE, TOP_K = 3.0, 250
"""Of the released models' generation."""


def read_musicgen(paths: Sequence[Path]) -> Imported:
    """MusicGen from its folder; behind it, if it is not on the hub, the folder of its text encoder.

    Raises:
        CheckpointError: if it is none, or its configuration has no counterpart.
    """
    if not 1 <= len(paths) <= 2:
        raise CheckpointError(f"MusicGen is one folder of transformers, and behind it that of its text encoder, not {len(paths)} paths")
    source = read(paths[0])
    if source.config.get("model_type") != "musicgen":
        raise CheckpointError(f"{paths[0]}/{CONFIG}: model_type is {source.config.get('model_type')!r}, not 'musicgen'")
    return musicgen(source, str(paths[1]) if len(paths) > 1 else None)


def musicgen(source: Source, text_encoder: str | None = None, seconds: float = SECONDS) -> Imported:
    """A ``MusicgenForConditionalGeneration``; ``text_encoder``: folder or hub id of its T5, by default what the configuration names."""
    parts: dict[str, JSON] = {}
    for name in ("text_encoder", "audio_encoder", "decoder"):
        part = source.config.get(name)
        if not isinstance(part, dict):
            raise CheckpointError(f"{source.path}/{CONFIG} has no section {name!r}: expected a MusicgenForConditionalGeneration")
        parts[name] = part
    values = checked(parts["decoder"], KEYS, f"{source.path}/{CONFIG} (decoder)")
    kind = str(parts["audio_encoder"].get("model_type"))
    words = text_encoder or str(parts["text_encoder"].get("_name_or_path") or "google-t5/t5-base")
    if kind != "encodec":
        raise CheckpointError(f"{source.path}: the codec is {kind!r}, and MusicGen's is encodec")
    checked(parts["audio_encoder"], CODECS[kind], f"{source.path}/{CONFIG} (audio_encoder)")
    codec = encodec(cast("CodecConfig", parts["audio_encoder"]), _under(source, "audio_encoder."), seconds)
    layout, width, books = codec.tokenizer.layout, values.integer("hidden_size"), values.integer("num_codebooks")
    if (layout.channels, layout.vocabulary) != (books, values.integer("vocab_size")):
        raise CheckpointError(
            f"{source.path}: the decoder draws {books} codebooks of {values['vocab_size']} codes, and the codec has {layout.channels} of "
            f"{layout.vocabulary}"
        )
    projected = "enc_to_dec_proj.weight" in source.weights
    transformer: JSON = {
        "layers": values["num_hidden_layers"], "width": width, "heads": values["num_attention_heads"], "hidden": values["ffn_dim"],
        "norm": "layer", "activation": "gelu_erf", "rotary": False, "condition": "cross",
    }  # fmt: skip
    recipe: JSON = {
        "data": {"set": "prompts"},
        "condition": {"text": {"encoder": words, "length": WORDS, "projection": width if projected else None, "cfg_dropout": 0.3}},
        "order": {"raster": {"pattern": "delay"}},
        "backbone": {"transformer": transformer},
        "head": "softmax",
        "sampling": {"top_k": TOP_K, "guidance": {"scale": GUIDANCE}},
    }
    dropped = (
        Dropped("text_encoder.{name:.+}", f"the text encoder, which the condition text reads from {words}"),
        Dropped("audio_encoder.{name:.+}", "the codec, which is the tokenizer"),
        Dropped("decoder.model.decoder.embed_positions.weights", "sines and cosines, which are computed"),
    )
    positions = layout.positions + books - 1
    rows = rows_of(values, positions, width if projected else int(str(parts["text_encoder"].get("d_model"))))
    note = f"texts are read by {words}: give its folder as a second path, or have it in the cache of the hub"
    stages = {"tokenizer": of_codec(codec)}
    return Imported(recipe, codec.tokenizer.media, source.weights, KeyMap(rows, dropped), stages=stages, notes=(*source.notes, note))


def _under(source: Source, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in source.weights.items() if name.startswith(prefix)}


def sinusoids(positions: int, width: int) -> Tensor:
    """``[cos(p f_i), sin(p f_i)]``, ``f_i = 10000^(-i / (width / 2 - 1))``, of positions ``p`` from 0: ``(positions, width)``."""
    frequencies = torch.exp(torch.arange(width // 2).float() * (-math.log(10_000) / (width // 2 - 1)))
    angles = torch.arange(positions).float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


def _tables(books: int) -> Transform:
    """Tables of codes behind each other; the start of the chain is the sum of their last rows, those of no code."""
    return Transform(
        "joined tables of codes, and the sum of their rows of no code as the chain's start",
        lambda tensors: [torch.cat(list(tensors)), torch.stack([table[-1] for table in tensors]).sum(0)],
    )


def rows_of(values: Values, positions: int, states: int) -> list[Row]:
    """Rows of the decoder, with the projection of the text's states."""
    books, width, kind = values.integer("num_codebooks"), values.integer("hidden_size"), "{kind:weight|bias}"
    decoder = "decoder.model.decoder"
    theirs, ours = f"{decoder}.layers.{{i}}", "backbone.blocks.{i}"
    tables = tuple(f"{decoder}.embed_tokens.{book}.weight" for book in range(books))
    heads = tuple(f"decoder.lm_heads.{book}.weight" for book in range(books))
    norms = {"self_attn_layer_norm": "attention_norm", "encoder_attn_layer_norm": "cross_norm", "final_layer_norm": "forward_norm"}
    return [
        Row(tables, ("embedding.weight", "placeholder"), _tables(books)),
        Row((), "position_embeddings.0.weight", given(sinusoids(positions, width))),
        Row((), "condition.null", given(torch.zeros(states))),
        Row(f"enc_to_dec_proj.{kind}", f"condition.projection.{kind}"),
        *(Row(f"{theirs}.{their}.{kind}", f"{ours}.{mine}.{kind}") for their, mine in norms.items()),
        Row(tuple(f"{theirs}.self_attn.{part}_proj.weight" for part in "qkv"), f"{ours}.attention.qkv.weight", joined(3)),
        Row(f"{theirs}.self_attn.out_proj.weight", f"{ours}.attention.out.weight"),
        Row(f"{theirs}.encoder_attn.q_proj.weight", f"{ours}.cross.q.weight"),
        Row(tuple(f"{theirs}.encoder_attn.{part}_proj.weight" for part in "kv"), f"{ours}.cross.kv.weight", joined(2)),
        Row(f"{theirs}.encoder_attn.out_proj.weight", f"{ours}.cross.out.weight"),
        Row(f"{theirs}.fc1.weight", f"{ours}.feed_forward.up.weight"),
        Row(f"{theirs}.fc2.weight", f"{ours}.feed_forward.down.weight"),
        Row(f"{decoder}.layer_norm.{kind}", f"backbone.norm.{kind}"),
        Row(heads, "head.logits.weight", joined(books)),
    ]
