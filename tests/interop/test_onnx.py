"""Tokenizers in ONNX: onnxruntime gives the tokenizer's codes and media, for any number of items; what cannot be exported is named."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from jielong.apps.cli import app
from jielong.config.recipe import load as load_recipe
from jielong.config.registry import parse_part
from jielong.core.medium import Medium
from jielong.core.tokens import Layout, Tokens
from jielong.interop import onnx
from jielong.media.kinds.audio import audio_medium
from jielong.media.kinds.image import image_medium
from jielong.system import System
from jielong.tokenizers.base import Tokenizer

PICTURE, SOUND = image_medium(3, (16, 16)), audio_medium(1, 320, 16_000)
BODY = {"convolutional": {"channels": [8], "blocks": [1], "patch": 4}}
RESNET = {"resnet": {"channels": [8, 16], "blocks": 1, "groups": 4}}
SEANET = {"seanet": {"channels": 4, "ratios": [5, 4, 2]}}
CODES = {"vector": {"codebook_size": 50, "kmeans_iterations": 0}}
TITOK = {
    "proxy": "p",
    "tokens": 5,
    "finetune_at": 100,
    "patch": 8,
    "dim": 4,
    "encoder": {"layers": 1, "width": 16, "heads": 2},
    "decoder": {"layers": 1, "width": 16, "heads": 2},
    "quantizer": {"vector": {"codebook_size": 32, "normalize": True, "kmeans_iterations": 0}},
}
VQ = {"vq": {"autoencoder": BODY, "dim": 6, "quantizer": CODES}}
PIXELS: dict[str, object] = {"pixels": {}}
TOKENIZERS: dict[str, tuple[dict[str, object], Medium]] = {
    "vq, finite scalar, resnet": (
        {"vq": {"autoencoder": RESNET, "dim": 3, "quantizer": {"finite_scalar": {"levels": [5, 5, 5]}}}},
        PICTURE,
    ),
    "kl": ({"kl": {"autoencoder": RESNET, "dim": 4}}, PICTURE),
    "titok": ({"titok": TITOK}, PICTURE),
    "residual codec": (
        {"vq": {"autoencoder": SEANET, "dim": 6, "quantizer": {"residual": {"quantizer": CODES, "num_codebooks": 3}}}},
        SOUND,
    ),
}


def stirred(settings: dict[str, object], media: Medium) -> Tokenizer:
    """A tokenizer whose codes spread and whose media do not stand still."""
    torch.manual_seed(0)
    proxy = {"proxy": parse_part("tokenizer", VQ).build(media)} if "titok" in settings else None  # type: ignore[attr-defined]
    tokenizer: Tokenizer = parse_part("tokenizer", settings).build(media, proxy)  # type: ignore[attr-defined]
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return tokenizer.eval().requires_grad_(False)


def system(tokenizer: Tokenizer) -> System:
    return System("tiny", load_recipe("vqgan-tiny"), tokenizer, None)


def run(path: Path, name: str, values: Tensor) -> Tensor:
    return torch.from_numpy(onnxruntime.InferenceSession(str(path)).run(None, {name: values.numpy()})[0])


@pytest.mark.parametrize(("settings", "media"), TOKENIZERS.values(), ids=list(TOKENIZERS))
def test_graphs_compute_what_the_tokenizer_does(settings: dict[str, object], media: Medium, tmp_path: Path) -> None:
    tokenizer = stirred(settings, media)
    found = onnx.export_onnx(system(tokenizer), tmp_path / "out")
    assert found.equal == found.codes
    for count in (1, 7):  # neither is a number of items that the export saw
        items = torch.rand(count, *media.shape, generator=torch.Generator().manual_seed(count)) * 2 - 1
        ours = tokenizer.encode(items)
        tokens = run(tmp_path / "out" / onnx.ENCODER, "media", items)
        if tokenizer.layout.discrete:
            assert torch.equal(tokens, ours.values)
            assert count == 1 or len(tokens.unique()) > 4  # nothing is compared by one code
        else:
            torch.testing.assert_close(tokens, ours.values, atol=1e-4, rtol=1e-4)
        decoded = run(tmp_path / "out" / onnx.DECODER, "tokens", ours.values)
        assert decoded.std() > 0.01
        torch.testing.assert_close(decoded, tokenizer.decode(ours), atol=1e-4, rtol=0)
    described = json.loads((tmp_path / "out" / onnx.DESCRIPTION).read_text("utf-8"))
    assert Layout.from_json(described["layout"]) == tokenizer.layout
    assert Medium.from_json(described["media"]) == media


def test_a_graph_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = stirred(PIXELS, PICTURE)
    decode = type(tokenizer).decode
    monkeypatch.setattr(type(tokenizer), "decode", lambda self, tokens: decode(self, tokens) + 0.01 * torch.compiler.is_exporting())
    with pytest.raises(onnx.ExportError, match=r"tiny differ from its tokenizer .*media differ by at most 1\.0e-02"):
        onnx.export_onnx(system(tokenizer), tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_what_has_no_graph_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = stirred(PIXELS, PICTURE)

    def by_values(tokens: Tokens) -> Tensor:
        return torch.zeros(len(tokens)) if int(tokens.values.sum()) > 3 else torch.ones(len(tokens))

    monkeypatch.setattr(tokenizer, "decode", by_values)
    with pytest.raises(onnx.ExportError, match="the tokens of a PixelTokenizer cannot be exported to ONNX"):
        onnx.export_onnx(system(tokenizer), tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_the_command_says_what_it_leaves_out(tmp_path: Path) -> None:
    out = tmp_path / "tok"
    result = CliRunner().invoke(app, ["export", "maskgit-faces", "--format", "onnx", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "the generator of maskgit-faces is left out" in result.stderr
    assert "320 of 320 codes are equal" in result.stderr
    assert sorted(path.name for path in out.iterdir()) == [onnx.DECODER, onnx.ENCODER, onnx.DESCRIPTION]
    again = CliRunner().invoke(app, ["export", "maskgit-faces", "--format", "onnx", "--out", str(out)])
    assert again.exit_code == 2
    assert "choose a new folder" in again.stderr
