"""Tiny models of diffusers with weights that all matter, and folders that the library writes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    VQModel,
)
from torch import Tensor, nn

STAGES: dict[str, Any] = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 16}
STAGES |= {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
ATTENDING = {
    "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
}


def noisy(model: Any, std: float = 0.15, seed: int = 0) -> Any:
    """A model with weights that all matter, the same for the same seed."""
    draws = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std, generator=draws)
    return model.eval()


def autoencoder(latent_channels: int = 4, **settings: Any) -> Any:
    """A KL autoencoder of pictures of 16 x 16 as 8 x 8 latents."""
    return noisy(AutoencoderKL(latent_channels=latent_channels, **{**STAGES, **settings}), std=0.2)


def vector_autoencoder(**settings: Any) -> Any:
    """A VQ autoencoder of them, with 6 numbers behind the encoder and codes of 4."""
    return noisy(VQModel(latent_channels=6, vq_embed_dim=4, num_vq_embeddings=32, **{**STAGES, **settings}), std=0.3)


def dit(layers: int = 2, classes: int = 1000, **settings: Any) -> Any:
    """A DiT of 8 x 8 latents of 4 channels, whose layers have the same embeddings of times and classes, as released."""
    given: dict[str, Any] = {"sample_size": 8, "num_layers": layers, "num_embeds_ada_norm": classes, "out_channels": 8}
    model = noisy(DiTTransformer2DModel(2, 16, 4, **{**given, "norm_eps": 1e-6, **settings}))
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    return model


def dit_pipeline(folder: Path, labels: dict[int, str] | None = None, **scheduler: Any) -> Any:
    """A DiT's pipeline, written into a folder."""
    pipeline = DiTPipeline(dit(), autoencoder(), DDIMScheduler(**{"clip_sample": False, **scheduler}), id2label=labels)
    if labels is not None:
        pipeline.register_to_config(id2label=labels)
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sd3(**settings: Any) -> Any:
    """SD3's transformer of 8 x 8 latents of 4 channels, whose table of positions is larger than their grid."""
    given: dict[str, Any] = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 16}
    given |= {"num_attention_heads": 2, "joint_attention_dim": 12, "caption_projection_dim": 32, "pooled_projection_dim": 10}
    return noisy(SD3Transformer2DModel(**{**given, "pos_embed_max_size": 6, **settings}))


def sd3_folder(folder: Path, shift: float = 3.0, **settings: Any) -> tuple[Any, Any]:
    """Transformer and autoencoder of SD3 in folders, with their scheduler."""
    network, pictures = sd3(**settings), autoencoder(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False)
    network.save_pretrained(folder / "transformer")
    pictures.save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(shift=shift).save_pretrained(folder / "scheduler")
    return network, pictures


def pictures(count: int = 2, rows: int = 16, columns: int = 16) -> Tensor:
    """``(B, 3, rows, columns)`` in [-1, 1]."""
    return torch.rand(count, 3, rows, columns, generator=torch.Generator().manual_seed(1)) * 2 - 1


def squares(latents: Tensor, patch: int = 2) -> Tensor:
    """Latents ``(B, C, h, w)`` to tokens ``(B, N, p p C)``, values in the order row, column, channel."""
    columns = nn.functional.unfold(latents, patch, stride=patch).mT  # (B, N, C p p)
    return columns.unflatten(-1, (latents.shape[1], -1)).transpose(-1, -2).flatten(-2)


def latents_of(tokens: Tensor, channels: int, side: int, patch: int = 2) -> Tensor:
    """The inverse of :func:`squares`."""
    columns = tokens.unflatten(-1, (-1, channels)).transpose(-1, -2).flatten(-2).mT
    return nn.functional.fold(columns, side, patch, stride=patch)
