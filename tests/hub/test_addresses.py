"""Addresses of the Hub: read, written, found in recipes and pinned."""

from __future__ import annotations

import pytest

from jielong.config.hub_address import HubAddress, HubAddressError, addresses_in, is_address, parse_address, pinned_text

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("hf://me/vq", "me/vq", None),
        ("hf://me/vq-16.1_b@v1.0", "me/vq-16.1_b", "v1.0"),
        ("hf://me/vq@refs/pr/1", "me/vq", "refs/pr/1"),
        (f"hf://me/vq@{COMMIT}", "me/vq", COMMIT),
    ],
)
def test_an_address_is_read_and_written(text: str, repository: str, revision: str | None) -> None:
    address = parse_address(text)
    assert address == HubAddress(repository, revision)
    assert str(address) == text
    assert address.pinned == (revision == COMMIT)


@pytest.mark.parametrize("text", ["hf://me", "hf://me/vq/more", "hf://me/vq@", "hf:me/vq", "hf://../vq", "hf://me/vq@-x", "me/vq"])
def test_anything_else_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(HubAddressError, match=r"write hf://USER/NAME, or hf://USER/NAME@REVISION"):
        parse_address(text)


def test_data_sets_have_other_addresses() -> None:
    assert not is_address("hf:me/pictures")


def test_the_addresses_of_a_recipe_are_pinned() -> None:
    text = f"tokenizer: {{checkpoint: hf://me/vq}}\nstages: {{coarse: 'hf://me/coarse@v1'}}\nother: hf://me/flow@{COMMIT}\n"
    found = addresses_in(text)
    assert found == [HubAddress("me/vq"), HubAddress("me/coarse", "v1"), HubAddress("me/flow", COMMIT)]
    pinned = pinned_text(text, {found[0]: "a" * 40, found[1]: "b" * 40})
    assert [str(each) for each in addresses_in(pinned)] == [
        f"hf://me/vq@{'a' * 40}",
        f"hf://me/coarse@{'b' * 40}",
        f"hf://me/flow@{COMMIT}",
    ]
