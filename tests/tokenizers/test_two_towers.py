"""Two towers: unit vectors of pictures and texts, what learns from which loss, and that captions are found after a short training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from jielong.autoencoders.convolutional import Convolutional
from jielong.config.recipe import load, parse
from jielong.config.registry import RecipeError
from jielong.core.tokens import Layout
from jielong.losses.contrastive import contrastive_loss
from jielong.media.kinds.image import image_medium
from jielong.tokenizers.two_towers import TextTowerSettings, TwoTowers, TwoTowerTokenizer
from jielong.training import experiment

SMALL = TwoTowers(
    autoencoder=Convolutional(patch=4, channels=(8,), blocks=(1,)), features=4, dim=6, text=TextTowerSettings(layers=1, width=8, heads=2)
)
TEXTS = ["red", "a green one", "blue"]


def built(settings: TwoTowers = SMALL) -> TwoTowerTokenizer:
    torch.manual_seed(0)
    return settings.build(image_medium(3, (8, 8)))


def pictures(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_infonce_of_orthogonal_vectors_is_its_closed_form() -> None:
    for count, scale in ((2, 1.0), (5, 3.0), (8, 0.5)):
        expected = math.log(1 + (count - 1) * math.exp(-scale))
        assert contrastive_loss(scale * torch.eye(count)).item() == pytest.approx(expected, rel=1e-5)


def test_a_picture_is_one_token_and_decoding_reads_its_direction() -> None:
    tokenizer = built().eval()
    tokens = tokenizer.encode(pictures())
    assert tokens.layout == Layout((1,), 6, axes=("latents",))
    torch.testing.assert_close(tokens.values.square().mean(-1), torch.ones(3, 1))
    shown = tokenizer.decode(tokens)
    assert shown.shape == (3, 3, 8, 8)
    longer = type(tokens)(3 * tokens.values, tokens.layout)
    torch.testing.assert_close(tokenizer.decode(longer), shown)


def test_scores_are_cosines_over_the_temperature_and_padding_does_not_matter() -> None:
    tokenizer = built().eval()
    scores = tokenizer.scores(pictures(), TEXTS)
    vectors = tokenizer.encode(pictures()).values[:, 0] / math.sqrt(6)
    texts = torch.cat([tokenizer.text([text]) for text in TEXTS])
    torch.testing.assert_close(scores, vectors @ texts.T / 0.07, rtol=1e-4, atol=1e-4)
    loss = tokenizer(pictures(), captions=TEXTS).losses["contrastive"]
    torch.testing.assert_close(loss, contrastive_loss(scores))
    with torch.no_grad():
        tokenizer.log_scale.fill_(9.0)
    torch.testing.assert_close(tokenizer.scores(pictures(), TEXTS), 100 * vectors @ texts.T, rtol=1e-4, atol=1e-3)


def test_the_decoder_learns_from_pixels_and_the_towers_from_the_comparison() -> None:
    def moved(by: str) -> set[str]:
        tokenizer = built().train()
        result = tokenizer(pictures(), captions=TEXTS)
        assert result.media is not None
        (result.losses["contrastive"] if by == "contrastive" else result.media.square().mean()).backward()
        return {name.split(".")[0] for name, each in tokenizer.named_parameters() if each.grad is not None and each.grad.any()}

    assert moved("contrastive") == {"encoder", "output", "text", "log_scale"}
    assert moved("pixels") == {"decoder", "input"}


def test_captions_are_found_after_a_short_training() -> None:
    """Eight colours with a name each; by chance one of eight captions is found."""
    tokenizer = built(SMALL.model_copy(update={"dim": 16})).train()
    draw = torch.Generator().manual_seed(0)
    colours = torch.tensor([[r, g, b] for r in (-1.0, 1.0) for g in (-1.0, 1.0) for b in (-1.0, 1.0)])[:, :, None, None]
    names = ["black", "blue", "green", "cyan", "red", "magenta", "yellow", "white"]
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=1e-2)
    for _ in range(60):
        media = (0.7 * colours + 0.3 * torch.randn(8, 3, 8, 8, generator=draw)).clamp(-1, 1)
        loss = tokenizer(media, captions=names).losses["contrastive"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = tokenizer.eval().scores((0.7 * colours + 0.3 * torch.randn(8, 3, 8, 8, generator=draw)).clamp(-1, 1), names)
    assert int((found.argmax(1) == torch.arange(8)).sum()) >= 7
    assert int((found.argmax(0) == torch.arange(8)).sum()) >= 7


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="compares the items of a whole batch: leave out"):
        load("unclip-embedding-tiny", ["train.micro_batch=4"])
    for number in range(4):
        path = tmp_path / "train" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(path)
        if number:
            path.with_suffix(".txt").write_text("a colour")
    with pytest.raises(RecipeError, match=r"compares media with captions, and 1 of [34] items of .* have none"):
        experiment.prepare(load("unclip-embedding-tiny"), str(tmp_path / "train"))
    with pytest.raises(RecipeError, match="must be a multiple of 8, twice the heads"):
        parse("tokenizer: {two_towers: {text: {width: 12, heads: 4}}}\nlosses: regression\ntrain: {samples: 8}\n")
