"""Keys of ``config.json`` of the codecs of ``transformers``; see :mod:`jielong.interop.config_keys`."""

from __future__ import annotations

from collections.abc import Mapping

from jielong.interop.config_keys import Key, NoEffect, Only, Read, whole

OF_LIBRARY: Mapping[str, Key] = dict.fromkeys(
    (
        "model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "is_decoder", "add_cross_attention",
        "is_encoder_decoder", "output_hidden_states", "output_attentions", "return_dict", "return_dict_in_generate", "problem_type",
        "chunk_size_feed_forward", "id2label", "label2id", "tie_word_embeddings", "initializer_range", "use_streaming",
    ),
    NoEffect("it is of loading, of training or of what is returned"),
)  # fmt: skip
"""Keys that every configuration of the library may have."""
_LIST = Read(check=lambda value: isinstance(value, tuple) and bool(value), wanted="a list of numbers")
_FLAG = Read(check=lambda value: isinstance(value, bool), wanted="true or false")
_NATURAL = Read(check=lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0, wanted="a whole number")
_BY_WEIGHTS = NoEffect("it is read from the shapes of the weights")
_SEANET: Mapping[str, Key] = {
    **OF_LIBRARY,
    "audio_channels": whole(),
    "sampling_rate": whole(),
    "hidden_size": whole(),
    "codebook_size": whole(),
    "codebook_dim": _BY_WEIGHTS,
    "num_filters": whole(),
    "upsampling_ratios": _LIST,
    "num_residual_layers": _NATURAL,
    "dilation_growth_rate": whole(),
    "kernel_size": whole(),
    "last_kernel_size": whole(),
    "residual_kernel_size": whole(),
    "compress": whole(),
    "use_conv_shortcut": _FLAG,
    "use_causal_conv": _FLAG,
    "pad_mode": Read(check=lambda value: value in ("reflect", "constant", "replicate"), wanted="reflect, constant or replicate"),
    "trim_right_ratio": Only((1.0, 1), "transposed convolutions are trimmed on the right"),
}
KEYS: Mapping[str, Mapping[str, Key]] = {
    "encodec": {
        **_SEANET,
        "num_lstm_layers": _NATURAL,
        "norm_type": Read(check=lambda value: value in ("weight_norm", "time_group_norm"), wanted="weight_norm or time_group_norm"),
        "target_bandwidths": _LIST,
        "normalize": NoEffect("the caller divides by the loudness, and multiplies by it afterwards"),
        "chunk_length_s": NoEffect("sound is coded whole"),
        "overlap": NoEffect("sound is coded whole"),
    },
    "mimi": {
        **_SEANET,
        "num_hidden_layers": whole(),
        "num_attention_heads": whole(),
        "num_key_value_heads": whole(),
        "head_dim": _BY_WEIGHTS,
        "sliding_window": whole(),
        "intermediate_size": whole(),
        "layer_scale_initial_scale": Read(check=lambda value: isinstance(value, int | float), wanted="a number"),
        "upsample_groups": whole(),
        "num_quantizers": whole(),
        "num_semantic_quantizers": Only((1,), "one semantic codebook"),
        "vector_quantization_hidden_dimension": whole(),
        "hidden_act": Only(("gelu",), "the exact GELU"),
        "norm_eps": Only((1e-5,), "of the layer norms"),
        "attention_bias": Only((False,), "maps of attention have no bias"),
        "attention_dropout": NoEffect("it is of training"),
        "max_position_embeddings": NoEffect("positions are rotated, however many"),
        "rope_theta": Only((10_000.0, 10_000), "the longest wavelength of positions"),
        "rope_parameters": Read(None, lambda value: value is None or _usual_rotation(value), "rope_type default with rope_theta 10000"),
        "frame_rate": _BY_WEIGHTS,
    },
    "dac": {
        **OF_LIBRARY,
        "sampling_rate": whole(),
        "hidden_size": whole(),
        "encoder_hidden_size": whole(),
        "decoder_hidden_size": whole(),
        "downsampling_ratios": _LIST,
        "upsampling_ratios": NoEffect("they are the downsampling ratios, reversed"),
        "hop_length": NoEffect("it is the product of the ratios"),
        "n_codebooks": whole(),
        "codebook_size": whole(),
        "codebook_dim": whole(),
        "quantizer_dropout": Read(0.0, lambda value: isinstance(value, int | float), "a number"),
        "commitment_loss_weight": Read(0.25, lambda value: isinstance(value, int | float), "a number"),
        "codebook_loss_weight": NoEffect("it is of training"),
    },
}
"""By ``model_type``."""


def _usual_rotation(value: object) -> bool:
    if not isinstance(value, dict) or not {"rope_theta", "rope_type"} >= set(value):
        return False
    return value.get("rope_theta", 10_000.0) == 10_000.0 and value.get("rope_type", "default") == "default"
