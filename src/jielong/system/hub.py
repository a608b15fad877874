"""Checkpoints and adapters on the Hugging Face Hub: which commit an address means, and its files, fetched once and verified.

Of a repository only the files of a checkpoint or an adapter are fetched; weights are safetensors, never pickles.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jielong.config.hub_address import HUB_LOG, HubAddress, addresses_in, pinned_text
from jielong.config.recipe import parse, read_file
from jielong.config.schema import Recipe
from jielong.core.files import new_folder, write_bytes
from jielong.core.version import __version__
from jielong.data.licences import LICENCE
from jielong.system.checkpoint import DESCRIPTION, STAGES
from jielong.training.checkpoint import ADAPTER, CHECKSUMS, RECIPE, WEIGHTS, CheckpointError, check_checksum, checksums_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(HUB_LOG)
ORIGIN = "hub.json"
"""The address that a pulled folder came from, with its commit."""
NEEDED = (RECIPE, DESCRIPTION, WEIGHTS)
"""Files of a checkpoint; of an adapter it is :data:`ADAPTER` alone."""
CARD = ("README.md", "card.json", "evaluation.json", LICENCE, "metrics.jsonl", "summary.json", "loss.png")
"""Card and metrics of a checkpoint."""
FILES = (*NEEDED, CHECKSUMS, *CARD)
PICTURES = "samples/*.png"
"""Sample grids, of which the card shows one."""
_OWN = (*FILES, ADAPTER, PICTURES, *(f"{STAGES}/*/{name}" for name in (*NEEDED, CHECKSUMS, LICENCE)))
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_NAMED = 3
"""Files that are named in a message."""
OFFLINE = "HF_HUB_OFFLINE"
"""Environment variable of the client; 1 takes everything from the cache."""
TIMEOUT = 10.0
"""Seconds that the Hub may take to answer what a repository holds."""


@cache
def fetch(address: HubAddress, needed: tuple[str, ...] | None = NEEDED) -> Path:
    """The folder of a repository of the Hub in its cache, fetched if it is not there; one commit for each address in a process.

    Without network, the commit that was fetched last is taken, and said.

    Args:
        address: Which.
        needed: Files that it must have: those of a checkpoint, or :data:`ADAPTER`; ``None`` for either.

    Raises:
        CheckpointError: if there is no such repository or revision, it cannot be read or lacks a file, or its files are damaged.
    """
    with explained(address):
        folder = _snapshot(address, here=_from_cache(address, needed))
    if not address.pinned:
        log.info("%s is at commit %s", address, folder.name)
    _check_complete([path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()], address, needed)
    try:
        for path in sorted(folder.rglob(CHECKSUMS)):
            for name in checksums_of(path.parent):
                check_checksum(path.parent / name)
    except CheckpointError as error:
        raise CheckpointError(f"{address}: {error}. To fetch it once more, remove {folder} from the cache") from None
    return folder


def _snapshot(address: HubAddress, here: bool) -> Path:
    """The folder of an address in the cache; ``here``: without asking the Hub."""
    from huggingface_hub import snapshot_download

    folder: str = snapshot_download(
        address.repository,
        revision=address.revision,
        allow_patterns=[*_OWN],
        local_files_only=here,
        library_name="jielong",
        library_version=__version__,
    )
    return Path(folder)


def _from_cache(address: HubAddress, needed: tuple[str, ...] | None) -> bool:
    """Whether the files are taken from the cache: a commit that is there, or the last one where the Hub cannot be reached.

    What the repository holds is checked before anything is fetched.
    """
    cached = _in_cache(address)
    if address.pinned and cached is not None:
        return True
    try:
        info = api().model_info(address.repository, revision=address.revision, timeout=TIMEOUT)
    except Exception as error:
        if not _unreachable(error) or cached is None:
            raise
        log.warning("%s: %s; the cached commit is taken", address, _why(error))
        return True
    names = [each.rfilename for each in info.siblings or ()]
    _check_complete(names, address, needed)
    if pickles := [name for name in names if name.endswith(_PICKLES)]:
        more = f" and {len(pickles) - _NAMED} more" if len(pickles) > _NAMED else ""
        log.info("%s: pickles can run any code and are not fetched: %s%s", address, ", ".join(pickles[:_NAMED]), more)
    return False


def _in_cache(address: HubAddress) -> str | None:
    """The commit of an address whose files are all in the cache; ``None`` if they are not."""
    try:
        return _snapshot(address, here=True).name
    except OSError:  # which the client raises for what is not there
        return None


def api(token: str | None = None) -> HfApi:
    """The client of the Hub, which names this library to it."""
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="jielong", library_version=__version__)


def _check_complete(names: Sequence[str], address: HubAddress, needed: tuple[str, ...] | None) -> None:
    """Raise ``CheckpointError`` if the files of a repository are no checkpoint, or no adapter."""
    if needed is None:
        needed = (ADAPTER,) if ADAPTER in names else NEEDED
    missing = [name for name in needed if name not in names]
    if not missing:
        return
    if ADAPTER in names:
        raise CheckpointError(f"{address} holds an adapter, not a model: load the model that it was trained for, with --adapter {address}")
    if ADAPTER in missing:
        raise CheckpointError(
            f"{address} is no adapter of Jielong: the repository has no {ADAPTER}. `jielong push` writes such repositories"
        )
    raise CheckpointError(
        f"{address} is no checkpoint of Jielong: the repository has no {missing[0]}. `jielong push` writes such repositories; "
        "those of other programs are read by `jielong import`"
    )


@contextmanager
def explained(address: HubAddress, action: str = "read") -> Iterator[None]:
    """Turn the errors of the client of the Hub into sentences.

    Raises:
        CheckpointError: saying what is wrong and what would be right.
    """
    from huggingface_hub import errors

    login = "log in by `hf auth login`, or set HF_TOKEN to a token"
    repository, revision = address.repository, address.revision
    try:
        yield
    except CheckpointError:
        raise
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"the repository {repository} has no revision {revision!r}: name a branch, a tag or a commit of it") from None
    except errors.GatedRepoError:
        raise CheckpointError(
            f"access to {repository} must be granted by its owners: ask on its page, then {login} that may read it"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"there is no repository {repository} on the Hub, or it is private: if it is, {login} that may {action} it"
        ) from None
    except errors.HfHubHTTPError as error:
        status = None if error.response is None else error.response.status_code
        if status in (401, 403):
            raise CheckpointError(f"you may not {action} {repository}: {login} that may {action} it") from None
        raise CheckpointError(f"the Hub answered for {repository} with an error ({status}): {_reason(error)}") from None
    except errors.HFValidationError as error:
        raise CheckpointError(f"{repository!r} is no name of a repository: {_reason(error)}") from None
    except Exception as error:
        if isinstance(error, ValueError):  # such as a card whose metadata the Hub refuses
            raise CheckpointError(f"{address}: {' '.join(str(error).split())}") from None
        if not _unreachable(error):
            raise
        cached = " and it is not in the cache; with a network, `jielong pull` fetches it" if action == "read" else ""
        raise CheckpointError(f"{address}: {_why(error)}{cached}") from None


def _unreachable(error: BaseException) -> bool:
    """Whether an error means that the Hub was not asked or did not answer."""
    from huggingface_hub import errors

    names = {each.__name__ for each in type(error).__mro__}  # of the client's own HTTP library, which changed over the years
    return isinstance(error, errors.OfflineModeIsEnabled | ConnectionError | errors.LocalEntryNotFoundError) or bool(
        names & {"ConnectError", "TimeoutException", "NetworkError", "Timeout", "ProxyError"}
    )


def _why(error: BaseException) -> str:
    """Why the Hub was not asked, or did not answer."""
    from huggingface_hub import constants

    return f"{OFFLINE} forbids to ask the Hub" if constants.HF_HUB_OFFLINE else f"the Hub cannot be reached ({_reason(error)})"


def _reason(error: BaseException) -> str:
    """The first line of an error."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def pinned(recipe: Recipe, out: Path) -> Recipe:
    """A recipe whose addresses all name commits, so that a run's recipe means the same for ever.

    Args:
        recipe: The recipe.
        out: The folder of its run; the commits in a recipe that is there stay.

    Raises:
        CheckpointError: as :func:`fetch`.
    """
    text = recipe.to_yaml()
    loose = [each for each in addresses_in(text) if not each.pinned]
    if not loose:
        return recipe
    earlier = addresses_in(read_file(out / RECIPE)) if (out / RECIPE).is_file() else []
    known = {each.repository: each.revision for each in earlier if each.pinned}
    commits = {each: known.get(each.repository) or fetch(each).name for each in loose}
    return parse(pinned_text(text, commits), "the recipe")


def pull(address: HubAddress, out: Path | None = None) -> Path:
    """Fetch a checkpoint or an adapter of the Hub, and copy it.

    Args:
        address: Which.
        out: A new folder, whole or not at all; ``None`` leaves it in the Hub's cache alone.

    Returns:
        The folder.

    Raises:
        CheckpointError: as :func:`fetch`.
        StorageError: if the folder cannot be written, or exists.
    """
    folder = fetch(address, None)
    if out is None:
        return folder
    with new_folder(out) as target:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                copy = target / path.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
        origin = {"address": str(address.at(folder.name)), "asked_for": str(address)}
        write_bytes(target / ORIGIN, json.dumps(origin, indent=2).encode())
    return out
