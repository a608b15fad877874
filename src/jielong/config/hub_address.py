"""Addresses of checkpoints on the Hugging Face Hub: ``hf://user/name``, and ``hf://user/name@REVISION``. Imports no torch.

Data sets have addresses of their own, ``hf:owner/name`` (:mod:`jielong.data.hub`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TypeGuard

PREFIX = "hf://"
HUB_LOG = "jielong.hub"
"""Name of the log that says which commit an address means, and what is left out of a repository; commands print it."""
_REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_REVISION = r"[\w.][\w./-]*"
_ADDRESS = re.compile(rf"{PREFIX}(?P<repository>{_REPOSITORY})(?:@(?P<revision>{_REVISION}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubAddressError(ValueError):
    """An address is not one of a checkpoint on the Hub."""


@dataclass(frozen=True)
class HubAddress:
    """A repository of models and a revision of it.

    Attributes:
        repository: ``user/name``.
        revision: A branch, a tag or a commit hash; ``None`` for the newest commit of the main branch.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return PREFIX + self.repository + ("" if self.revision is None else f"@{self.revision}")

    @property
    def name(self) -> str:
        """The repository's name, without its owner's."""
        return self.repository.rpartition("/")[2]

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit hash, which always means the same files."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> HubAddress:
        """The same repository at a commit."""
        return replace(self, revision=commit)


def is_address(name: object) -> TypeGuard[str]:
    """Whether a name is meant as an address, which a path never is."""
    return isinstance(name, str) and name.startswith(PREFIX)


def parse_address(text: str) -> HubAddress:
    """Read an address.

    Raises:
        HubAddressError: if it is none.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise HubAddressError(f"{text!r} is no address of a checkpoint: write {PREFIX}USER/NAME, or {PREFIX}USER/NAME@REVISION")
    return HubAddress(match["repository"], match["revision"])


def addresses_in(text: str) -> list[HubAddress]:
    """The addresses in the text of a recipe, each once."""
    return list(dict.fromkeys(HubAddress(match["repository"], match["revision"]) for match in _ADDRESS.finditer(text)))


def pinned_text(text: str, commits: dict[HubAddress, str]) -> str:
    """The text of a recipe with the addresses of ``commits`` at these commits."""

    def pin(match: re.Match[str]) -> str:
        address = HubAddress(match["repository"], match["revision"])
        return str(address.at(commits[address])) if address in commits else match[0]

    return _ADDRESS.sub(pin, text)
