"""Systems whose released weights ``jielong import`` reads: a row each, and a module each that reads them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # which imports torch: a list of systems does without
    from jielong.interop.released import Imported


@dataclass(frozen=True)
class Release:
    """Released weights.

    Attributes:
        about: What the system is, in a line.
        files: What the command takes.
        licence: Of the weights, by a name of :data:`jielong.system.model_card.SPDX`.
        source: Where they are.
        reader: ``MODULE.FUNCTION`` of this package: paths to :class:`~jielong.interop.released.Imported`.
    """

    about: str
    files: str
    licence: str
    source: str
    reader: str

    def read(self, paths: Sequence[Path]) -> Imported:
        """Read the files.

        Raises:
            CheckpointError: if they are not those of the system.
        """
        module, _, function = self.reader.rpartition(".")
        imported: Imported = getattr(importlib.import_module(f"{__name__}.{module}"), function)(paths)
        return imported


FOLDER = "a folder of transformers"
_LLAMAGEN = "https://github.com/FoundationVision/LlamaGen"
VAR = "https://huggingface.co/FoundationVision/var"
RELEASES = {
    "musicgen": Release(
        "MusicGen, sound from a text in the delay pattern",
        "a folder of transformers, and behind it that of its T5 where the hub is not at hand",
        "CC BY-NC 4.0",
        "https://huggingface.co/facebook/musicgen-small",
        "musicgen.read_musicgen",
    ),
    "stable-diffusion-vae": Release(
        "Stable Diffusion's KL autoencoder, and others of its class",
        "a folder of diffusers with an AutoencoderKL, or a pipeline with one",
        "MIT",
        "https://huggingface.co/stabilityai/sd-vae-ft-mse",
        "diffusers_autoencoders.read_kl",
    ),
    "ldm-vq": Release(
        "LDM's VQ autoencoder, and others of its class",
        "a folder of diffusers with a VQModel, or a pipeline with one",
        "Apache-2.0",
        "https://huggingface.co/CompVis/ldm-celebahq-256",
        "diffusers_autoencoders.read_vq",
    ),
    "dit": Release(
        "DiT, a latent diffusion transformer of ImageNet's classes",
        "a DiTPipeline of diffusers, or the folders of its transformer, vae and scheduler",
        "CC BY-NC 4.0",
        "https://huggingface.co/facebook/DiT-XL-2-256",
        "diffusers_dit.read_dit",
    ),
    "sd3": Release(
        "Stable Diffusion 3's transformer, without its text encoders",
        "a pipeline of diffusers, or the folders of its transformer, vae and scheduler",
        "Stability AI Community License",
        "https://huggingface.co/stabilityai/stable-diffusion-3-medium-diffusers",
        "diffusers_sd3.read_sd3",
    ),
    "encodec": Release("EnCodec, a codec of sound", FOLDER, "MIT", "https://huggingface.co/facebook/encodec_24khz", "codecs.read"),
    "mimi": Release("Mimi, the codec of Moshi", FOLDER, "CC BY 4.0", "https://huggingface.co/kyutai/mimi", "codecs.read"),
    "mar": Release(
        "MAR, pictures of ImageNet's classes, with its autoencoder",
        "kl16.ckpt and checkpoint-last.pth",
        "MIT",
        "https://github.com/LTH14/mar",
        "mar.read_model",
    ),
    "mar-tokenizer": Release(
        "KL-16, MAR's autoencoder of pictures", "kl16.ckpt", "MIT", "https://github.com/LTH14/mar", "mar.read_autoencoder"
    ),
    "titok": Release(
        "TiTok, pictures of 256 pixels as 32, 64 or 128 codes",
        "a folder of the hub, or its file",
        "Apache-2.0",
        "https://huggingface.co/yucornetto/tokenizer_titok_l32_imagenet",
        "titok.read_tokenizer",
    ),
    "dac": Release("Descript Audio Codec", FOLDER, "MIT", "https://huggingface.co/descript/dac_44khz", "codecs.read"),
    "llamagen-tokenizer": Release(
        "LlamaGen's tokenizers VQ-16 and VQ-8", "a file, such as vq_ds16_c2i.pt", "MIT", _LLAMAGEN, "llamagen.read_tokenizer"
    ),
    "llamagen": Release(
        "LlamaGen's transformers and their tokenizer",
        "two files, such as c2i_B_256.pt and vq_ds16_c2i.pt; with texts also the folder of Flan-T5 XL",
        "MIT",
        _LLAMAGEN,
        "llamagen.read_generator",
    ),
    "var-tokenizer": Release("VAR's tokenizer of several scales", "vae_ch160v4096z32.pth", "MIT", VAR, "var.read_tokenizer"),
    "var": Release("VAR, class to picture by next scales", "vae_ch160v4096z32.pth var_dN.pth", "MIT", VAR, "var.read_generator"),
}
"""By the name that the command takes."""
