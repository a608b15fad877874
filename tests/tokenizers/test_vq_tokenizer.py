from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from jielong.autoencoders.convolutional import Convolutional
from jielong.core.tokens import Layout, Tokens
from jielong.media.kinds.image import image_medium
from jielong.quantizers.vector import Vector
from jielong.tokenizers.vq import VQ, VQTokenizer

MEDIA = image_medium(3, (16, 24))


def make(**settings: object) -> VQTokenizer:
    torch.manual_seed(0)
    quantizer = Vector(codebook_size=32, kmeans_iterations=0, **settings.pop("quantizer", {}))  # type: ignore[arg-type]
    autoencoder = Convolutional(**{"channels": (8, 16), "blocks": (1, 1), "patch": 2} | settings)  # type: ignore[arg-type]
    return VQ(autoencoder=autoencoder, dim=4, quantizer=quantizer).build(MEDIA)


def pictures(batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(
    ("channels", "patch", "grid"), [((8,), 1, (16, 24)), ((8,), 8, (2, 3)), ((8, 16), 2, (4, 6)), ((4, 8, 8), 2, (2, 3))]
)
def test_the_layout_is_derived(channels: tuple[int, ...], patch: int, grid: tuple[int, int]) -> None:
    tokenizer = make(channels=channels, blocks=(1,) * len(channels), patch=patch).eval()
    assert tokenizer.layout == Layout(grid, 1, 32)
    tokens = tokenizer.encode(pictures())
    assert tokens.values.shape == (3, grid[0] * grid[1], 1)
    assert 0 <= int(tokens.values.min()) <= int(tokens.values.max()) < 32
    rebuilt = tokenizer.decode(tokens)
    assert rebuilt.shape == (3, *MEDIA.shape)
    assert rebuilt.abs().max() <= 1
    assert not rebuilt.requires_grad


@pytest.mark.parametrize("normalize", [False, True])
def test_encode_and_forward_choose_the_same_codes_and_decode_gives_the_same_picture(normalize: bool) -> None:
    tokenizer = make(quantizer={"normalize": normalize}).eval()
    chosen = []
    tokenizer.quantizer.register_forward_hook(lambda module, arguments, result: chosen.append(result.indices))
    media = tokenizer(pictures()).media
    tokens = tokenizer.encode(pictures())
    assert torch.equal(chosen[0].flatten(1, 2), tokens.values)
    torch.testing.assert_close(tokenizer.decode(tokens), media.clamp(-1, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_codes_survive_the_lookup_and_the_grid_keeps_its_order(normalize: bool) -> None:
    tokenizer = make(quantizer={"normalize": normalize}).eval()
    codes = torch.randint(0, 32, (2, 24, 1), generator=torch.Generator().manual_seed(2))
    seen = []
    tokenizer.decoder.register_forward_hook(lambda module, arguments, result: seen.append(arguments[0]))
    tokenizer.decode(Tokens(codes, tokenizer.layout))
    (features,) = seen  # (B, dim, h, w): row by row
    assert torch.equal(tokenizer.quantizer.encode(features.permute(0, 2, 3, 1)).flatten(1, 2), codes)


def test_encoding_changes_nothing_even_in_training_mode() -> None:
    tokenizer = make().train()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    tokenizer.decode(tokenizer.encode(pictures()))
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())
    tokenizer(pictures(), generator=torch.Generator().manual_seed(0))
    assert not torch.equal(tokenizer.quantizer.codebook, before["quantizer.codebook"])


def test_straight_through_gives_the_encoder_the_decoders_gradient() -> None:
    tokenizer = make(quantizer={"commitment": 0.0}).eval()
    seen = {}

    def keep(module: object, arguments: tuple[torch.Tensor, ...], result: object) -> None:
        arguments[0].retain_grad()
        result.values.retain_grad()  # type: ignore[attr-defined]
        seen.update(z=arguments[0], q=result.values)  # type: ignore[attr-defined]

    tokenizer.quantizer.register_forward_hook(keep)
    tokenizer(pictures()).media.square().mean().backward()
    assert torch.equal(seen["z"].grad, seen["q"].grad)
    assert seen["z"].grad.abs().sum() > 0
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in tokenizer.encoder.layers[0].parameters())


def test_losses_are_the_quantizers() -> None:
    tokenizer = make(quantizer={"codebook": "gradient"})
    assert set(tokenizer(pictures()).losses) == {"commitment", "codebook"}
    assert set(make()(pictures()).losses) == {"commitment"}


def test_a_few_steps_of_training_reconstruct_better() -> None:
    tokenizer = make().train()
    optimizer = torch.optim.Adam(tokenizer.parameters(), 1e-2)
    media = pictures(2) * 0.1 + 0.5
    errors = []
    for step in range(15):
        result = tokenizer(media, generator=torch.Generator().manual_seed(step))
        loss = (result.media - media).square().mean()
        optimizer.zero_grad()
        (loss + sum(result.losses.values())).backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < errors[0] / 4


def test_advice_waits_for_enough_assignments_and_then_names_remedies() -> None:
    tokenizer = make(quantizer={"restart_below": 0.0})
    assert tokenizer.advice() is None
    tokenizer.quantizer.usage.update(torch.tensor([float(tokenizer.quantizer.usage.window)] + [0.0] * 31))
    assert tokenizer.statistics() == pytest.approx({"codebook_usage": 1 / 32, "codebook_perplexity": 1.0})
    assert "restart_below" in (tokenizer.advice() or "")


def test_what_does_not_fit_is_refused() -> None:
    tokenizer = make()
    for shape in [(1, 3, 24, 16), (1, 1, 16, 24), (3, 16, 24)]:
        for call in (tokenizer.encode, tokenizer):
            with pytest.raises(ValueError, match=r"reads \(channels, rows, columns\) = \(3, 16, 24\), not"):
                call(torch.zeros(shape))
    with pytest.raises(ValueError, match="these tokens are not this tokenizer's"):
        tokenizer.decode(Tokens(torch.zeros(1, 24, 1, dtype=torch.long), Layout((4, 6), 1, 64)))
    with pytest.raises(ValueError, match="16 x 24 do not divide into tokens of 32 x 32"):
        make(patch=16)
    for wrong in [
        {"channels": (8, 16, 16)},
        {"blocks": (1,)},
        {"decoder_blocks": (1,)},
        {"channels": (), "blocks": ()},
        {"channels": (0, 8)},
    ]:
        with pytest.raises(ValidationError):
            Convolutional(**wrong)
