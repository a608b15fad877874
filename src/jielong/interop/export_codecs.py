"""Codecs as folders of ``transformers``: EnCodec, Mimi and DAC, the inverse of :mod:`jielong.interop.codecs`.

What is written is read again and compared with the tokenizer, settings and weights, before it is kept: a codec with a setting that a
configuration cannot say, or that was trained as none of the three, is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from jielong.autoencoders.seanet import DAC, SEANet
from jielong.core.files import write_bytes
from jielong.core.json import JSON, to_text
from jielong.core.medium import ALONG_TIME
from jielong.interop import codecs
from jielong.interop.codecs import Codec
from jielong.interop.files import CONFIG
from jielong.networks.windowed import WindowedTransformer
from jielong.quantizers.projected import Projected
from jielong.quantizers.residual import Residual
from jielong.quantizers.split import Split
from jielong.quantizers.vector import Vector
from jielong.system.pipeline import System
from jielong.tokenizers.vq import VQ, VQTokenizer
from jielong.training.checkpoint import WEIGHTS, CheckpointError, write_tensors

State = Mapping[str, Tensor]
COUNTED = (".updates", ".usage.recent", ".usage.before", ".initialised", ".sums", ".counts")
"""What a codebook counts in training, which no output depends on; a codec of others begins anew."""


def export_codec(system: System, folder: Path) -> list[str]:
    """Write a codec into an empty folder as an ``EncodecModel``, a ``MimiModel`` or a ``DacModel``.

    Raises:
        CheckpointError: naming the part or the settings that ``transformers`` has no counterpart of.
    """
    tokenizer, settings = system.tokenizer, system.recipe.tokenizer
    if system.generator is not None:
        raise CheckpointError(f"{system.name} is a generator, and transformers has a counterpart of codecs alone: export its tokenizer")
    if not isinstance(settings, VQ) or not isinstance(tokenizer, VQTokenizer) or tokenizer.media.axes != ALONG_TIME:
        raise CheckpointError(f"transformers has codecs of sound with the tokenizer vq, and {system.name} has {settings}")
    network, quantizer = settings.autoencoder, settings.quantizer
    state = {name: tensor.detach().cpu() for name, tensor in tokenizer.state_dict().items()}
    if isinstance(network, DAC) and isinstance(quantizer, Residual) and isinstance(quantizer.quantizer, Projected):
        config, weights, read = _dac(settings, network, quantizer, state), _weights_of_dac(state, len(network.ratios)), codecs.dac
    elif isinstance(network, SEANet) and isinstance(quantizer, Split) and isinstance(quantizer.acoustic, Residual):
        config, weights, read = _mimi(tokenizer, settings, network, quantizer), _weights_of_mimi(tokenizer, state), codecs.mimi
    elif isinstance(network, SEANet) and isinstance(quantizer, Residual) and isinstance(quantizer.quantizer, Vector):
        config, weights, read = _encodec(tokenizer, settings, network, quantizer), _weights_of_encodec(state), codecs.encodec
    else:
        raise CheckpointError(
            f"transformers has seanet with the quantizer residual (EnCodec) or split (Mimi), and dac with residual projected ones, and no "
            f"codec of the autoencoder {network.name} with the quantizer {quantizer.name}"
        )
    media = tokenizer.media
    config |= {"sampling_rate": media.sample_rate}
    if not isinstance(network, DAC):
        config["audio_channels"] = media.channels
    elif media.channels != 1:
        raise CheckpointError(f"transformers has DAC of mono sound alone, and {system.name} is of {media}")
    _compare(read(config, weights, media.duration), settings, tokenizer.layout.channels, state)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / CONFIG, to_text(config, indent=2).encode())
    write_tensors(folder / WEIGHTS, weights)
    return []


def _compare(read: Codec, settings: VQ, num_codebooks: int, state: State) -> None:
    """Raise :class:`CheckpointError` unless what was written is what it was written from."""
    ours, theirs = (_plain(each.model_dump(mode="json")) for each in (settings, read.settings))
    other = [
        f"{name}: {ours.get(name)!r}, not {theirs.get(name)!r}" for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)
    ]
    other = [line for line in other if not _TRAINING.search(line.split(":")[0])]
    if other:
        raise CheckpointError(f"transformers has no counterpart of these settings: {'; '.join(other)}")
    found = read.tokenizer.state_dict()
    for name, tensor in state.items():
        if not name.endswith(COUNTED) and not torch.equal(found[name], tensor):
            raise CheckpointError(f"the tensor {name} is not what it was after export and import: the folder would be another codec")


_TRAINING = re.compile(r"(decay|commitment|kmeans_iterations|restart_\w+|estimator|dropout\w*|reduction|unquantized|scale|codebook)$")
"""Settings that only training reads."""


def _plain(value: object, path: str = "") -> dict[str, object]:
    """Nested settings as one level, ``autoencoder.seanet.channels``."""
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, object] = {}
    for name, inner in value.items():
        found |= _plain(inner, f"{path}.{name}" if path else str(name))
    return found


def _of_seanet(settings: VQ, network: SEANet) -> JSON:
    last = network.last_kernel if isinstance(network.last_kernel, int) else network.last_kernel[0]
    return {
        "hidden_size": settings.dim, "num_filters": network.channels, "upsampling_ratios": list(network.ratios),
        "num_residual_layers": network.residual_layers, "dilation_growth_rate": network.dilation_base, "kernel_size": network.kernel,
        "last_kernel_size": last, "residual_kernel_size": network.residual_kernel, "compress": network.compress,
        "use_conv_shortcut": network.shortcut == "convolution", "use_causal_conv": network.causal, "pad_mode": network.padding,
        "trim_right_ratio": 1.0,
    }  # fmt: skip


def _encodec(tokenizer: VQTokenizer, settings: VQ, network: SEANet, quantizer: Residual) -> JSON:
    size = tokenizer.quantizer.codebook_size
    rate = math.ceil(tokenizer.media.sample_rate / math.prod(network.ratios))
    bits = rate * (size - 1).bit_length()
    return {
        "model_type": "encodec", "architectures": ["EncodecModel"], **_of_seanet(settings, network), "num_lstm_layers": network.lstm,
        "norm_type": network.norm, "codebook_size": size, "codebook_dim": settings.dim, "normalize": False,
        "target_bandwidths": [bits * quantizer.num_codebooks / 1000],
    }  # fmt: skip


def _mimi(tokenizer: VQTokenizer, settings: VQ, network: SEANet, quantizer: Split) -> JSON:
    context = network.transformer
    if context is None:
        raise CheckpointError("transformers has no codec with the quantizer split and without a transformer around it")
    return {
        "model_type": "mimi", "architectures": ["MimiModel"], **_of_seanet(settings, network),
        "codebook_size": tokenizer.quantizer.codebook_size, "frame_rate": tokenizer.media.sample_rate / network.reduction[0],
        "codebook_dim": quantizer.width or settings.dim,
        "vector_quantization_hidden_dimension": quantizer.width or settings.dim,
        "num_quantizers": tokenizer.quantizer.num_codebooks,
        "num_semantic_quantizers": 1, "num_hidden_layers": context.layers, "num_attention_heads": context.heads,
        "num_key_value_heads": context.heads, "head_dim": settings.dim // context.heads, "sliding_window": context.window,
        "intermediate_size": context.hidden or 4 * settings.dim, "layer_scale_initial_scale": context.scale,
        "upsample_groups": settings.dim if network.channelwise_upsampling else 1,
    }  # fmt: skip


def _dac(settings: VQ, network: DAC, quantizer: Residual, state: State) -> JSON:
    level = quantizer.quantizer
    assert isinstance(level, Projected)
    book = level.quantizer
    stages = len(network.ratios)
    return {
        "model_type": "dac", "architectures": ["DacModel"], "encoder_hidden_size": network.channels,
        "downsampling_ratios": list(network.ratios[::-1]),
        "decoder_hidden_size": (network.decoder_channels or network.channels) * 2**stages,
        "n_codebooks": quantizer.num_codebooks, "codebook_size": state["quantizer.stages.0.quantizer.codebook"].shape[0],
        "codebook_dim": level.width, "hidden_size": settings.dim, "quantizer_dropout": quantizer.dropout,
        "commitment_loss_weight": getattr(book, "commitment", 0.25),
    }  # fmt: skip


def _name(name: str, state: State) -> str:
    """The name of a weight of a SEANet in EnCodec and Mimi."""
    name = re.sub(r"\.branch\.layers\.(\d+)\.", r".block.\1.", name)
    stem, _, kind = name.rpartition(".")
    if kind not in ("weight", "bias", "gain") or stem.endswith(".norm"):
        return name
    ours = re.sub(r"\.block\.(\d+)$", r".branch.layers.\1", stem)
    normed = f"{ours}.gain" in state
    parts = {
        "gain": "parametrizations.weight.original0",
        "weight": "parametrizations.weight.original1" if normed else "weight",
        "bias": "bias",
    }
    return f"{stem}.conv.{parts[kind]}"


def _weights_of_encodec(state: State) -> dict[str, Tensor]:
    weights = {_name(name, state): tensor for name, tensor in state.items() if not name.startswith("quantizer.")}
    level = 0
    while f"quantizer.stages.{level}.codebook" in state:
        ours, theirs = f"quantizer.stages.{level}.", f"quantizer.layers.{level}.codebook."
        codes = state[f"{ours}codebook"]
        weights[f"{theirs}embed"] = codes
        weights[f"{theirs}embed_avg"] = state.get(f"{ours}sums", codes)
        weights[f"{theirs}cluster_size"] = state[f"{ours}counts"]
        weights[f"{theirs}inited"] = torch.ones(1)
        level += 1
    return weights


def _weights_of_mimi(tokenizer: VQTokenizer, state: State) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for half, between in (("encoder", "downsample"), ("decoder", "upsample")):
        layers = getattr(tokenizer, half).layers
        index = next(number for number, layer in enumerate(layers) if isinstance(layer, WindowedTransformer))
        offset, joint = (index + 1, index - 1) if half == "decoder" else (0, index + 1)
        for name, tensor in state.items():
            match = re.match(rf"{half}\.layers\.(\d+)\.(.*)", name)
            if match is None:
                continue
            number, rest = int(match[1]), match[2]
            if number == index:
                weights |= _of_transformer(f"{half}_transformer.", rest, tensor)
            elif number == joint:
                weights[f"{between}.conv.weight"] = tensor
            else:
                weights[_name(f"{half}.layers.{number - offset}.{rest}", state)] = tensor
    for branch in ("semantic", "acoustic"):
        ours, theirs = f"quantizer.{branch}.", f"quantizer.{branch}_residual_vector_quantizer."
        for mine, projection in (("inward", "input_proj"), ("outward", "output_proj")):
            weights[f"{theirs}{projection}.weight"] = state[f"{ours}{mine}.weight"][..., None]
        level, stage = 0, "" if branch == "semantic" else "stages.0."
        while f"{ours}quantizer.{stage}codebook" in state:
            book, mine = f"{theirs}layers.{level}.codebook.", f"{ours}quantizer.{stage}"
            counts, codes = state[f"{mine}counts"], state[f"{mine}codebook"]
            weights[f"{book}embed_sum"] = _sums(codes, counts, state.get(f"{mine}sums"))
            weights[f"{book}cluster_usage"], weights[f"{book}initialized"] = counts, torch.ones(1)
            level += 1
            stage = f"stages.{level}." if branch == "acoustic" else "none."
    return weights


def _sums(codes: Tensor, counts: Tensor, sums: Tensor | None) -> Tensor:
    """Sums whose quotient with the counts are the codes."""
    least = counts.clamp_min(1e-5)[:, None]
    return sums if sums is not None and torch.equal(sums / least, codes) else codes * least


def _of_transformer(prefix: str, rest: str, tensor: Tensor) -> dict[str, Tensor]:
    match = re.fullmatch(r"layers\.(\d+)\.(.*)", rest)
    if match is None:
        return {}
    layer, name = f"{prefix}layers.{match[1]}.", match[2]
    if name == "attention.qkv.weight":
        return {f"{layer}self_attn.{part}_proj.weight": each for part, each in zip("qkv", tensor.chunk(3), strict=True)}
    return {f"{layer}{codecs.OF_TRANSFORMER[name]}": tensor}


def _weights_of_dac(state: State, stages: int) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if match := re.fullmatch(r"quantizer\.stages\.(\d+)\.(inward|outward|quantizer)\.(weight|bias|codebook)", name):
            module = {"inward": "in_proj", "outward": "out_proj", "quantizer": "codebook"}[match[2]]
            value = tensor[..., None] if match[3] == "weight" else tensor
            weights[f"quantizer.quantizers.{match[1]}.{module}.{'weight' if match[3] == 'codebook' else match[3]}"] = value
        elif not name.startswith("quantizer."):
            weights[_name_in_dac(name, stages)] = tensor[None] if name.endswith("alpha") else tensor
    return weights


def _name_in_dac(name: str, stages: int) -> str:
    """Their name of a weight of DAC's encoder or decoder, the inverse of :func:`jielong.interop.codecs._name_in_dac`."""
    half, _, number, *inner, kind = name.split(".")
    index = int(number)
    if index in (0, 1 + 5 * stages, 2 + 5 * stages):
        module = {0: "conv1", 1 + 5 * stages: "snake1", 2 + 5 * stages: "conv2"}[index]
        return f"{half}.{module}.{kind}"
    stage, place = divmod(index - 1, 5)
    unit = [codecs.UNIT_OF_DAC[int(inner[-1])]] if inner else []
    return ".".join([half, "block", str(stage), codecs.STAGES_OF_DAC[half][place], *unit, kind])
