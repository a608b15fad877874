"""Published audio codecs as tokenizers, in the format of ``transformers``: EnCodec (arXiv 2210.13438), Mimi (2410.00037), DAC (2306.06546).

Preprocessing is left to the caller: EnCodec at 48 kHz divides each second by its loudness first (``normalize``).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from jielong.autoencoders.seanet import DAC, Context, SEANet
from jielong.interop.codec_keys import KEYS
from jielong.interop.config_keys import checked
from jielong.media.kinds.audio import audio_medium
from jielong.networks.time_layer import fold
from jielong.networks.windowed import WindowedTransformer
from jielong.quantizers.base import QuantizerSettings
from jielong.quantizers.residual import Residual
from jielong.quantizers.split import Split
from jielong.quantizers.vector import Vector
from jielong.tokenizers.vq import VQ, VQTokenizer
from jielong.training.checkpoint import WEIGHTS, CheckpointError, fit_tensors, read_tensors

Weights = Mapping[str, Tensor]

_LAYERS = (
    (r"\.conv\.(parametrizations\.weight\.original0|weight_g)$", ".gain"),
    (r"\.conv\.(parametrizations\.weight\.original1|weight_v)$", ".weight"),
    (r"\.conv\.(weight|bias)$", r".\1"),
    (r"\.block\.(\d+)\.", r".branch.layers.\1."),
)
_PREFIXES = (  # prefixes of Mimi's modules in older files
    (r"^(encoder|decoder)\.\1_seanet\.", r"\1."),
    (r"^(encoder|decoder)\.(\1_transformer|downsample|upsample)\.", r"\2."),
)
OF_TRANSFORMER = {
    "attention.out.weight": "self_attn.o_proj.weight",
    "attention_scale": "self_attn_layer_scale.scale",
    "attention_norm.weight": "input_layernorm.weight",
    "attention_norm.bias": "input_layernorm.bias",
    "forward_norm.weight": "post_attention_layernorm.weight",
    "forward_norm.bias": "post_attention_layernorm.bias",
    "up.weight": "mlp.fc1.weight",
    "down.weight": "mlp.fc2.weight",
    "forward_scale": "mlp_layer_scale.scale",
}
STAGES_OF_DAC = {  # layers of a stage in our order; those of a residual unit are in UNIT_OF_DAC
    "encoder": ("res_unit1", "res_unit2", "res_unit3", "snake1", "conv1"),
    "decoder": ("snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3"),
}
UNIT_OF_DAC = ("snake1", "conv1", "snake2", "conv2")


class CodecConfig(TypedDict, total=False):
    """Keys of ``config.json`` that are read; each codec has some of them."""

    audio_channels: int
    sampling_rate: int
    hidden_size: int
    codebook_size: int
    codebook_dim: int
    num_filters: int
    upsampling_ratios: list[int]
    num_residual_layers: int
    dilation_growth_rate: int
    kernel_size: int
    last_kernel_size: int
    residual_kernel_size: int
    compress: int
    use_conv_shortcut: bool
    use_causal_conv: bool
    pad_mode: str
    trim_right_ratio: float
    num_lstm_layers: int
    norm_type: str
    target_bandwidths: list[float]
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    sliding_window: int
    intermediate_size: int
    layer_scale_initial_scale: float
    upsample_groups: int
    num_quantizers: int
    num_semantic_quantizers: int
    vector_quantization_hidden_dimension: int
    downsampling_ratios: list[int]
    encoder_hidden_size: int
    decoder_hidden_size: int
    n_codebooks: int
    quantizer_dropout: float
    commitment_loss_weight: float


@dataclass(frozen=True)
class Codec:
    """A published codec: settings, and the tokenizer built from them with the weights."""

    settings: VQ
    tokenizer: VQTokenizer


def read_codec(folder: str | os.PathLike[str]) -> Codec:
    """Load EnCodec, Mimi or DAC from a folder with ``config.json`` and ``model.safetensors``.

    Raises:
        CheckpointError: if the folder has none of them, or the weights do not fit the configuration.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        make = {"encodec": encodec, "mimi": mimi, "dac": dac}[config["model_type"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder} has no codec of transformers: expected a config.json of encodec, mimi or dac ({type(error).__name__}: {error})"
        ) from None
    checked(config, KEYS[config["model_type"]], str(folder / "config.json"))
    weights = read_tensors(folder / WEIGHTS)
    try:
        return make(config, weights)
    except KeyError as error:
        raise CheckpointError(f"{folder} has an incomplete codec: neither config.json nor {WEIGHTS} has {error}") from None


def encodec(config: CodecConfig, weights: Weights, seconds: float = 1.0) -> Codec:
    """An ``EncodecModel`` of ``transformers``.

    Args:
        config: ``model.config.to_dict()``, or contents of ``config.json``.
        weights: ``model.state_dict()``, or contents of ``model.safetensors``.
        seconds: Duration that the tokenizer's layout describes; any duration is encoded.

    Raises:
        ValueError: if the configuration is not supported by the autoencoder network.
        CheckpointError: if the weights do not fit the configuration.
    """
    autoencoder = _seanet(config, lstm=config["num_lstm_layers"], norm=config["norm_type"])
    rate = config["sampling_rate"] / autoencoder.reduction[0]
    levels = int(1000 * config["target_bandwidths"][-1] // (rate * (config["codebook_size"] - 1).bit_length()))
    codec = _built(config, autoencoder, Residual.model_validate({"num_codebooks": levels, "quantizer": _codes(config)}), seconds)
    tokenizer = codec.tokenizer
    state = {f"quantizer.{name}": value for name, value in tokenizer.quantizer.state_dict().items()}
    for level in range(levels):
        theirs, ours = f"quantizer.layers.{level}.codebook.", f"quantizer.stages.{level}."
        state |= _codebook(ours, weights[f"{theirs}embed"], weights[f"{theirs}embed_avg"], weights[f"{theirs}cluster_size"])
    halves = {_renamed(name, _LAYERS): value for name, value in weights.items() if not name.startswith("quantizer.")}
    return _ready(codec, halves | state, "the weights of EnCodec")


def mimi(config: CodecConfig, weights: Weights, seconds: float = 1.28) -> Codec:
    """A ``MimiModel`` of ``transformers``; arguments and errors as of :func:`encodec`."""
    if config.get("num_semantic_quantizers", 1) != 1 or config.get("num_key_value_heads") != config["num_attention_heads"]:
        raise ValueError("Mimi has one semantic quantizer, and a key and a value for every head, unlike this configuration")
    placed = {_renamed(name, _PREFIXES): value for name, value in weights.items()}
    between = placed.get("downsample.conv.weight")
    context = Context(
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        window=config["sliding_window"],
        hidden=config["intermediate_size"],
        scale=config["layer_scale_initial_scale"],
    )
    ratio = {} if between is None else {"downsample": between.shape[-1] // 2, "channelwise_upsampling": config["upsample_groups"] > 1}
    autoencoder = _seanet(config, lstm=0, norm="none", transformer=context, **ratio)
    acoustic = Residual.model_validate({"num_codebooks": config["num_quantizers"] - 1, "quantizer": _codes(config)})
    width = config["vector_quantization_hidden_dimension"]
    quantizer = Split.model_validate({"semantic": _codes(config), "acoustic": acoustic, "width": width})
    codec = _built(config, autoencoder, quantizer, seconds)
    tokenizer = codec.tokenizer
    state = {f"quantizer.{name}": value for name, value in tokenizer.quantizer.state_dict().items()}
    for branch, levels in (("semantic", 1), ("acoustic", acoustic.num_codebooks)):
        theirs = f"quantizer.{branch}_residual_vector_quantizer."
        for ours, projection in (("inward", "input_proj"), ("outward", "output_proj")):
            state[f"quantizer.{branch}.{ours}.weight"] = placed[f"{theirs}{projection}.weight"].squeeze(-1)
        for level in range(levels):
            book, stage = f"{theirs}layers.{level}.codebook.", f"stages.{level}." if branch == "acoustic" else ""
            sums, counts = placed[f"{book}embed_sum"], placed[f"{book}cluster_usage"]
            state |= _codebook(f"quantizer.{branch}.quantizer.{stage}", sums / counts.clamp_min(1e-5)[:, None], sums, counts)
    return _ready(codec, state | _halves_of_mimi(tokenizer, placed), "the weights of Mimi")


def dac(config: CodecConfig, weights: Weights, seconds: float = 1.0) -> Codec:
    """A ``DacModel`` of ``transformers``; arguments and errors as of :func:`encodec`.

    Its decoder drops the last sample of every transposed convolution with an odd ratio, so ``n`` tokens give fewer than ``n hop_length``
    samples; ours keeps them. The outputs differ near the end of a clip, within the receptive field of these samples.
    """
    ratios = tuple(config["downsampling_ratios"])
    divisor = 2 ** len(ratios)
    if config["decoder_hidden_size"] % divisor:
        raise ValueError(f"decoder_hidden_size must be a multiple of {divisor}, not {config['decoder_hidden_size']}: each ratio halves it")
    autoencoder = DAC(
        channels=config["encoder_hidden_size"],
        decoder_channels=config["decoder_hidden_size"] // divisor,
        ratios=ratios[::-1],
        norm="none",
    )
    book = {"codebook": "gradient", "metric": "cosine", "commitment": config["commitment_loss_weight"], "restart_below": 0.0}
    level = {"projected": {"width": config["codebook_dim"], "quantizer": _codes(config, **book)}}
    levels = {"num_codebooks": config["n_codebooks"], "dropout": config["quantizer_dropout"], "quantizer": level}
    codec = _built({"audio_channels": 1, **config}, autoencoder, Residual.model_validate(levels), seconds)
    state = {f"quantizer.{name}": value for name, value in codec.tokenizer.quantizer.state_dict().items()}
    plain = _without_norm(weights)
    for number in range(config["n_codebooks"]):
        theirs, ours = f"quantizer.quantizers.{number}.", f"quantizer.stages.{number}."
        state[f"{ours}quantizer.codebook"] = plain[f"{theirs}codebook.weight"]
        for name, projection in (("inward", "in_proj"), ("outward", "out_proj")):
            state[f"{ours}{name}.weight"] = plain[f"{theirs}{projection}.weight"].squeeze(-1)
            state[f"{ours}{name}.bias"] = plain[f"{theirs}{projection}.bias"]
    halves = {name: value for name, value in plain.items() if not name.startswith("quantizer.")}
    for name, value in halves.items():
        state[_name_in_dac(name, len(ratios))] = value.squeeze(0) if name.endswith("alpha") else value
    return _ready(codec, state, "the weights of DAC")


def _name_in_dac(name: str, stages: int) -> str:
    """Our name of a weight of DAC's encoder or decoder."""
    half, module, *within, kind = name.split(".")
    if module != "block":
        number = {"conv1": 0, "snake1": 1 + 5 * stages, "conv2": 2 + 5 * stages}[module]
        return f"{half}.layers.{number}.{kind}"
    stage, layer, *inner = within
    number = 1 + 5 * int(stage) + STAGES_OF_DAC[half].index(layer)
    return ".".join([f"{half}.layers.{number}", *(f"branch.layers.{UNIT_OF_DAC.index(each)}" for each in inner), kind])


def _without_norm(weights: Weights) -> dict[str, Tensor]:
    """Weights with weight norm resolved, ``w = g v / |v|``."""
    plain = {}
    for name, value in weights.items():
        stem, _, part = name.rpartition(".parametrizations.weight." if "parametrizations" in name else ".weight_")
        if part in ("original1", "v"):
            gain = weights[name[: -len(part)] + {"original1": "original0", "v": "g"}[part]]
            plain[f"{stem}.weight"] = torch._weight_norm(value, gain)
        elif part not in ("original0", "g"):
            plain[name] = value
    return plain


def _seanet(config: CodecConfig, **more: object) -> SEANet:
    """SEANet settings from a configuration of EnCodec or Mimi."""
    if config.get("trim_right_ratio", 1.0) != 1.0:
        raise ValueError(f"trim_right_ratio must be 1, as in all released codecs, not {config['trim_right_ratio']}")
    settings = {
        "channels": config["num_filters"],
        "ratios": tuple(config["upsampling_ratios"]),
        "residual_layers": config["num_residual_layers"],
        "dilation_base": config["dilation_growth_rate"],
        "kernel": config["kernel_size"],
        "last_kernel": config["last_kernel_size"],
        "residual_kernel": config["residual_kernel_size"],
        "compress": config["compress"],
        "shortcut": "convolution" if config["use_conv_shortcut"] else "identity",
        "causal": config["use_causal_conv"],
        "padding": config["pad_mode"],
    }
    return SEANet.model_validate(settings | more)


def _codes(config: CodecConfig, **more: object) -> Vector:
    return Vector.model_validate({"codebook_size": config["codebook_size"], "kmeans_iterations": 0, **more})


def _built(config: CodecConfig, autoencoder: SEANet, quantizer: QuantizerSettings, seconds: float) -> Codec:
    samples = max(1, round(seconds * config["sampling_rate"] / autoencoder.reduction[0])) * autoencoder.reduction[0]
    media = audio_medium(config["audio_channels"], samples, config["sampling_rate"])
    settings = VQ(autoencoder=autoencoder, dim=config["hidden_size"], quantizer=quantizer)
    return Codec(settings, settings.build(media))


def _ready(codec: Codec, state: Weights, origin: str) -> Codec:
    fit_tensors(codec.tokenizer, state, origin)
    codec.tokenizer.eval().requires_grad_(False)
    fold(codec.tokenizer)
    return codec


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for theirs, ours in rules:
        name = re.sub(theirs, ours, name)
    return name


def _codebook(ours: str, codes: Tensor, sums: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """State of a codebook, with the moving averages of the published one."""
    return {f"{ours}codebook": codes, f"{ours}sums": sums, f"{ours}counts": counts, f"{ours}initialised": torch.tensor(True)}


def _halves_of_mimi(tokenizer: VQTokenizer, placed: Weights) -> dict[str, Tensor]:
    """Encoder and decoder: separate modules SEANet, transformer and resampling convolution become one list of layers."""
    state = {}
    for half, between in (("encoder", "downsample"), ("decoder", "upsample")):
        layers = getattr(tokenizer, half).layers
        index = next(number for number, layer in enumerate(layers) if isinstance(layer, WindowedTransformer))
        offset = index + 1 if half == "decoder" else 0  # layers before SEANet
        for name, value in placed.items():
            if match := re.match(rf"{half}\.layers\.(\d+)\.(.*)", name):
                ours = _renamed(f"{half}.layers.{int(match[1]) + offset}.{match[2]}", _LAYERS)
                state[ours] = value
        if f"{between}.conv.weight" in placed:
            state[f"{half}.layers.{index + 1 if half == 'encoder' else index - 1}.weight"] = placed[f"{between}.conv.weight"]
        for number in range(len(layers[index].layers)):
            theirs, ours = f"{half}_transformer.layers.{number}.", f"{half}.layers.{index}.layers.{number}."
            state |= {f"{ours}{new}": placed[f"{theirs}{old}"] for new, old in OF_TRANSFORMER.items()}
            parts = [placed[f"{theirs}self_attn.{part}_proj.weight"] for part in "qkv"]
            state[f"{ours}attention.qkv.weight"] = torch.cat(parts)
    return state
