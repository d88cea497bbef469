"""Sending folders to the Hugging Face hub: what can be known before, and the sending."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.errors import InputError
from detox_lightning.models.opening import is_local

FLAG = "export.push_to_hub"
MERGED = "merged"
HOMES = ("home", "Users")  # whose folders are called like their users


def _path(stop: str) -> str:
    """The pattern of a path up to where a pattern stops it: what folders it is in, and a name.

    It begins with / or file:/, ~, . or .., a drive, or two backslashes, and not inside a word.
    """
    folder = rf"(?:(?!{stop}|[/\\]).)+[/\\]"
    begin = rf"(?:file:|…)?/+(?={folder})|~[\w.-]*[/\\]|\.\.?[/\\]|[A-Za-z]:[/\\]|\\\\"
    name = rf"(?:(?!{stop})[^/\\()\[\]{{}}<>])*"
    return rf"(?<![\w/.~\\-])(?:{begin})(?:(?:(?!{stop}).)*[/\\])?{name}"


QUOTE = "'\"`"
QUOTED = (
    rf"(?<![^\s=:,|(\[{{])[{QUOTE}](?=\S)(?:(?!://[^/])[^{QUOTE}|\n/\\~])*?"  # and up to a path
)
SPACED = _path(rf"(?:[{QUOTE}|\n]|, )")  # in quotes, in a table's cell, in a list
PLAIN = _path(rf"[\s{QUOTE}|,]")
PATHS = re.compile(
    rf"(?P<address>(?<![\w+.-])(?!file:)[\w+.-]+://(?!/)[^\s{QUOTE}|,]*)"
    rf"|(?P<lead>{QUOTED}|\| |, )(?P<spaced>{SPACED})"
    rf"|(?P<plain>{PLAIN})"
)


def check_push(repository: str, base: str | None, merged: bool) -> str:
    """Refuses what would fail, be seen by all, or help nobody, before anything is trained.

    Args:
        repository: ``user/name``, or a name of one's own.
        base: The base of an adapter that is to be sent; None: what is sent is whole.
        merged: Whether the adapter is also sent merged with its base.

    Returns:
        ``user/name``.

    Raises:
        InputError: If the name is no repository's or a public one's, the hub doesn't know who
            asks, or nothing is to be sent but an adapter whose base nobody else has.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils._validators import validate_repo_id

    endings = [""] if base is None or not is_local(base) else []
    endings += [f"-{MERGED}"] if base is not None and merged else []
    if not endings:
        raise InputError(
            f"{FLAG}={repository}: an adapter is nothing without its base, which is the folder "
            f"{base} of this machine; give export.merged=true, which sends both as one model"
        )
    try:
        user = HfApi().whoami()
        full = repository if "/" in repository else f"{user['name']}/{repository}"
        names = [f"{full}{ending}" for ending in endings]
        for name in names:
            validate_repo_id(name)
        public = [name for name in names if _is_public(name)]
    except Exception as error:  # no such name, no network, no token: all end the same way
        raise InputError(
            f"{FLAG}={repository}: can't be sent there ({_reason(error)}). Name user/name and log "
            "in with `hf auth login`, or leave it null and send the folder later: hf upload"
        ) from error
    if public:
        raise InputError(
            f"{FLAG}={repository}: {public[0]} is there already, and public: all would see what "
            "is sent. Give another name, or make it private in its settings on the hub"
        )
    owner, _, name = full.rpartition("/")
    known = [user.get("name"), *(group.get("name") for group in user.get("orgs") or [])]
    if owner not in known:
        rank_zero_warn(
            f"{FLAG}={repository}: the hub knows you as {', '.join(map(str, known))}; it may "
            f"refuse {name} under {owner!r} when training is over"
        )
    return full


def without_folders(text: str, known: Iterable[str | Path] = ()) -> str:
    """A text in which nothing tells in what folders this machine keeps its files.

    Args:
        text: Of ``/home/me/data/it.csv`` it keeps ``…/it.csv``; addresses and names like ``a/b``
            stay.
        known: Folders and files that may be in it, also as seen from the working directory. What
            is no full path is none of this machine's.
    """
    places = {Path(place) for place in (os.path.expanduser("~"), os.getcwd(), *known)}
    for place in sorted(places, key=lambda place: len(str(place)), reverse=True):
        if place.is_absolute() and len(place.parts) > 2:
            hidden = "…" if place.parent.name in HOMES else f"…/{place.name}"
            for form in (str(place), os.path.relpath(place)):
                if "/" in form:
                    text = hidden.join(re.split(rf"{re.escape(form)}(?![\w-])", text))
    return PATHS.sub(_shortened, text)


def upload(folder: Path, repository: str) -> None:
    """Copies a folder to the hub.

    Args:
        folder: What to copy.
        repository: ``user/name``; made if it isn't there.

    Raises:
        InputError: If the hub refuses or can't be reached; the folder stays.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(repository, private=True, exist_ok=True)
        HfApi().upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # no network, no token, no right: all end the same way
        raise InputError(
            f"{FLAG}={repository}: not uploaded ({_reason(error)}). The folder {folder} is "
            f"whole; later: hf upload {repository} {folder}"
        ) from error


def _is_public(repository: str) -> bool:
    """Whether it is there, and not private: making it anew would leave that as it is."""
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
    return (found["lead"] or "") + ("…" if folders[-1] in HOMES else f"…/{name}")


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
