"""Rows of the residual autoencoder by the names of latent diffusion's code (arXiv 2112.10752), which MAR and VAR kept.

Their stages and middle are modules of their own; ours are one list of layers in the order in which they are applied.
"""

from __future__ import annotations

from collections.abc import Sequence

from jielong.autoencoders.resnet import Resnet
from jielong.interop.key_map import Row, Weights, joined, numbers

KIND = "{kind:weight|bias}"
MIDDLE = ("mid.block_1", "mid.attn_1", "mid.block_2")


def network_of(weights: Weights) -> Resnet:
    """The settings that the shapes of weights tell, but for kernels of the projections."""
    stages, blocks = numbers(weights, "encoder.down.{i}.block.0.norm1.weight"), numbers(weights, "encoder.down.0.block.{i}.norm1.weight")
    return Resnet(
        channels=tuple(weights[f"encoder.down.{stage}.block.0.conv2.weight"].shape[0] for stage in range(stages)),
        blocks=blocks,
        attention=f"encoder.down.{stages - 1}.attn.0.norm.weight" in weights,
        decoder_attention=f"decoder.up.{stages - 1}.attn.0.norm.weight" in weights,
    )


def rows_of(network: Resnet) -> list[Row]:
    """Rows of encoder, decoder, and the projections between them."""
    stages, last = range(len(network.channels)), len(network.channels) - 1
    encoder, decoder = ["conv_in"], ["conv_in", *MIDDLE]
    for stage in stages:
        encoder += _blocks(f"down.{stage}", network.blocks, network.attention and stage == last)
        encoder += [f"down.{stage}.downsample"] * (stage < last)
    for stage in reversed(stages):
        decoder += _blocks(f"up.{stage}", network.blocks + 1, bool(network.decoder_attention) and stage == last)
        decoder += [f"up.{stage}.upsample"] * (stage > 0)
    rows = [*_half("encoder", [*encoder, *MIDDLE]), *_half("decoder", decoder)]
    projections = (("encoder", "quant_conv"), ("decoder", "post_quant_conv"))
    return rows + [Row(f"{theirs}.{KIND}", f"{half}.projection.{KIND}") for half, theirs in projections]


def _blocks(stage: str, count: int, attention: bool) -> list[str]:
    return [f"{stage}.{kind}.{block}" for block in range(count) for kind in (("block", "attn") if attention else ("block",))]


def _half(half: str, layers: Sequence[str]) -> list[Row]:
    rows = [row for index, layer in enumerate(layers) for row in _layer(f"{half}.{layer}", f"{half}.layers.{index}")]
    ends = (("norm_out", "norm"), ("conv_out", "out"))
    return rows + [Row(f"{half}.{theirs}.{KIND}", f"{half}.{ours}.{KIND}") for theirs, ours in ends]


def _layer(theirs: str, ours: str) -> list[Row]:
    if ".attn" in theirs:
        maps = tuple(f"{theirs}.{part}.{KIND}" for part in "qkv")
        rows = [Row(f"{theirs}.norm.{KIND}", f"{ours}.norm.{KIND}"), Row(maps, f"{ours}.qkv.{KIND}", joined(3))]
        return [*rows, Row(f"{theirs}.proj_out.{KIND}", f"{ours}.out.{KIND}")]
    if ".block" in theirs:
        inside = "{part:norm1|conv1|norm2|conv2}"
        return [Row(f"{theirs}.{inside}.{KIND}", f"{ours}.{inside}.{KIND}"), Row(f"{theirs}.nin_shortcut.{KIND}", f"{ours}.skip.{KIND}")]
    conv = f"conv.{KIND}" if theirs.endswith("sample") else KIND
    return [Row(f"{theirs}.{conv}", f"{ours}.{conv}")]
