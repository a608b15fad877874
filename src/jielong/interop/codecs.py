"""Published codecs of sound as tokenizers: the configuration and the weights that ``transformers`` keeps of EnCodec (arXiv 2210.13438)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jielong.bodies.seanet import SEANet
from jielong.quantizers.residual import Residual
from jielong.quantizers.vector import Vector
from jielong.tokenizers.base import MediaFormat
from jielong.tokenizers.vq import VQ, VQTokenizer
from jielong.training.checkpoint import fit_tensors

_RENAMED = (
    (r"\.conv\.(parametrizations\.weight\.original0|weight_g)$", ".gain"),
    (r"\.conv\.(parametrizations\.weight\.original1|weight_v)$", ".weight"),
    (r"\.conv\.(weight|bias)$", r".\1"),
    (r"\.block\.(\d+)\.", r".branch.layers.\1."),
)


def encodec_settings(config: Mapping[str, Any]) -> VQ:
    """The tokenizer that a configuration of ``EncodecModel`` describes.

    Raises:
        ValueError: if it asks for what the body has not.
    """
    if config.get("trim_right_ratio", 1.0) != 1.0:
        raise ValueError(f"trim_right_ratio must be 1, as in all released EnCodecs, not {config['trim_right_ratio']}")
    body = SEANet(
        channels=config["num_filters"],
        ratios=tuple(config["upsampling_ratios"]),
        residual_layers=config["num_residual_layers"],
        dilation_base=config["dilation_growth_rate"],
        kernel=config["kernel_size"],
        last_kernel=config["last_kernel_size"],
        residual_kernel=config["residual_kernel_size"],
        compress=config["compress"],
        shortcut="convolution" if config["use_conv_shortcut"] else "identity",
        lstm=config["num_lstm_layers"],
        causal=config["use_causal_conv"],
        norm=config["norm_type"],
        padding=config["pad_mode"],
    )
    rate = config["sampling_rate"] / body.hop
    levels = int(1000 * config["target_bandwidths"][-1] // (rate * (config["codebook_size"] - 1).bit_length()))
    codes = Vector.model_validate({"codes": config["codebook_size"], "kmeans_iterations": 0})
    return VQ(body=body, dim=config["hidden_size"], quantizer=Residual.model_validate({"levels": levels, "quantizer": codes}))


def encodec(config: Mapping[str, Any], weights: Mapping[str, Tensor], seconds: float = 1.0) -> VQTokenizer:
    """An ``EncodecModel`` of ``transformers`` as a tokenizer, ready to encode and decode.

    What surrounds the network is the caller's: released models at 48 kHz divide each second by its loudness first (``normalize``).

    Args:
        config: What its ``config.json`` holds, or ``model.config.to_dict()``.
        weights: What its ``model.safetensors`` holds, or ``model.state_dict()``.
        seconds: Length of the sound that the tokenizer's layout describes; a whole number of frames.

    Raises:
        ValueError: if the configuration asks for what the body has not.
        jielong.training.checkpoint.CheckpointError: if the weights do not fit the configuration.
    """
    settings = encodec_settings(config)
    hop = settings.body.hop  # type: ignore[attr-defined]
    samples = max(1, round(seconds * config["sampling_rate"] / hop)) * hop
    tokenizer = settings.build(MediaFormat(config["audio_channels"], (samples,), config["sampling_rate"]))
    renamed = {_ours(name): value for name, value in weights.items() if not name.startswith("quantizer.")}
    fit_tensors(tokenizer, renamed | _codebooks(tokenizer, weights), "the weights of EnCodec")
    return tokenizer.eval()


def _ours(name: str) -> str:
    for theirs, ours in _RENAMED:
        name = re.sub(theirs, ours, name)
    return name


def _codebooks(tokenizer: VQTokenizer, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our quantizer's state, with their codes and the averages behind them."""
    state = {f"quantizer.{name}": value for name, value in tokenizer.quantizer.state_dict().items()}
    names = {"codebook": "embed", "sums": "embed_avg", "counts": "cluster_size"}
    for level in range(tokenizer.quantizer.levels):
        for ours, theirs in names.items():
            state[f"quantizer.stages.{level}.{ours}"] = weights[f"quantizer.layers.{level}.codebook.{theirs}"]
        state[f"quantizer.stages.{level}.initialised"] = torch.tensor(True)
    return state
