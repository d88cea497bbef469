"""Sends folders to the Hugging Face hub, and checks before training that this will work."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.errors import InputError
from detox_lightning.models.opening import is_local

_FLAG = "export.push_to_hub"
MERGED = "merged"
_HOMES = ("home", "Users")  # the folders in them are named after users


def _path(stop: str) -> str:
    """Returns the pattern of a path, folders and a name, that ends before ``stop`` matches.

    A path starts with / or file:/, ~, . or .., a drive, or two backslashes, not inside a word.
    """
    folder = rf"(?:(?!{stop}|[/\\]).)+[/\\]"
    begin = rf"(?:file:|…)?/+(?={folder})|~[\w.-]*[/\\]|\.\.?[/\\]|[A-Za-z]:[/\\]|\\\\"
    name = rf"(?:(?!{stop})[^/\\()\[\]{{}}<>])*"
    return rf"(?<![\w/.~\\-])(?:{begin})(?:(?:(?!{stop}).)*[/\\])?{name}"


_QUOTE = "'\"`"
_QUOTED = (
    rf"(?<![^\s=:,|(\[{{])[{_QUOTE}](?=\S)(?:(?!://[^/])[^{_QUOTE}|\n/\\~])*?"  # and up to a path
)
_SPACED = _path(rf"(?:[{_QUOTE}|\n]|, )")  # in quotes, in a table's cell, in a list
_PLAIN = _path(rf"[\s{_QUOTE}|,]")
_PATHS = re.compile(
    rf"(?P<address>(?<![\w+.-])(?!file:)[\w+.-]+://(?!/)[^\s{_QUOTE}|,]*)"
    rf"|(?P<lead>{_QUOTED}|\| |, )(?P<spaced>{_SPACED})"
    rf"|(?P<plain>{_PLAIN})"
)


def check_push(repository: str, base: str | None, merged: bool) -> str:
    """Checks before training that a folder can be sent to the hub, and is of use there.

    Args:
        repository: ``user/name``, or only the name, for a repository of the user.
        base: The base of the adapter to send; None: a whole model is sent.
        merged: Whether the adapter is also sent merged with its base.

    Returns:
        ``user/name``.

    Raises:
        InputError: If the repository's name is invalid, it is public, the user isn't logged in, or
            only an adapter is to be sent whose base is a folder of this machine.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils._validators import validate_repo_id

    endings = [""] if base is None or not is_local(base) else []
    endings += [f"-{MERGED}"] if base is not None and merged else []
    if not endings:
        raise InputError(
            f"{_FLAG}={repository}: an adapter is useless without its base, which is the folder "
            f"{base} of this machine; give export.merged=true, which sends both as one model"
        )
    try:
        user = HfApi().whoami()
        full = repository if "/" in repository else f"{user['name']}/{repository}"
        names = [f"{full}{ending}" for ending in endings]
        for name in names:
            validate_repo_id(name)
        public = [name for name in names if _is_public(name)]
    except Exception as error:  # an invalid name, no network, no token
        raise InputError(
            f"{_FLAG}={repository}: can't be sent there ({_reason(error)}). Name user/name and log "
            "in with `hf auth login`, or leave it null and send the folder later: hf upload"
        ) from error
    if public:
        raise InputError(
            f"{_FLAG}={repository}: {public[0]} exists and is public: everyone would see what is "
            "sent. Give another name, or make it private in its settings on the hub"
        )
    owner, _, name = full.rpartition("/")
    known = [user.get("name"), *(group.get("name") for group in user.get("orgs") or [])]
    if owner not in known:
        rank_zero_warn(
            f"{_FLAG}={repository}: the hub knows you as {', '.join(map(str, known))}; it may "
            f"refuse {name} under {owner!r} after training"
        )
    return full


def without_folders(text: str, known: Iterable[str | Path] = ()) -> str:
    """Shortens all paths of this machine in a text: ``FOLDER/data/it.csv`` to ``…/it.csv``.

    Args:
        text: A text, in which addresses and names like ``a/b`` stay.
        known: Absolute paths that the text may contain, also relative to the working directory;
            other names are ignored.
    """
    places = {Path(place) for place in (os.path.expanduser("~"), os.getcwd(), *known)}
    for place in sorted(places, key=lambda place: len(str(place)), reverse=True):
        if place.is_absolute() and len(place.parts) > 2:
            hidden = "…" if place.parent.name in _HOMES else f"…/{place.name}"
            for form in (str(place), os.path.relpath(place)):
                if "/" in form:
                    text = hidden.join(re.split(rf"{re.escape(form)}(?![\w-])", text))
    return _PATHS.sub(_shortened, text)


def upload(folder: Path, repository: str) -> None:
    """Copies a folder to the hub.

    Args:
        folder: The folder.
        repository: ``user/name``; created, as a private one, if it doesn't exist.

    Raises:
        InputError: If the hub refuses or can't be reached; the folder stays.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(repository, private=True, exist_ok=True)
        HfApi().upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # no network, no token, no right
        raise InputError(
            f"{_FLAG}={repository}: not uploaded ({_reason(error)}). The folder {folder} is "
            f"complete; to send it later: hf upload {repository} {folder}"
        ) from error


def _is_public(repository: str) -> bool:
    """Whether a repository exists and is public, which ``create_repo`` would not change."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return not HfApi().repo_info(repository).private
    except RepositoryNotFoundError:
        return False


def _shortened(found: re.Match[str]) -> str:
    if found["address"]:
        return found[0]
    *folders, name = re.split(r"[/\\]+", found["spaced"] or found["plain"])
    return (found["lead"] or "") + ("…" if folders[-1] in _HOMES else f"…/{name}")


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
