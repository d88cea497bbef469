"""Sending folders to the Hugging Face hub: what can be known before, and the sending."""

import re
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.errors import InputError
from detox_lightning.models.loading import is_local

FLAG = "export.push_to_hub"
FOLDERS = re.compile(r"(?<![\w:/.~-])~?/(?:[^\s/'\"`|,;]+/)+")  # and not those of an address


def check_push(repository: str, base: str | None, merged: bool) -> None:
    """Refuses what would fail, or help nobody, before anything is trained.

    Args:
        repository: ``user/name``.
        base: The base of an adapter that is to be sent; None: what is sent is whole.
        merged: Whether the adapter is also sent merged with its base.

    Raises:
        InputError: If the name is no repository's, the hub doesn't know who asks, or nothing is to
            be sent but an adapter whose base nobody else has.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils._validators import validate_repo_id

    if base is not None and is_local(base) and not merged:
        raise InputError(
            f"{FLAG}={repository}: an adapter is nothing without its base, which is the folder "
            f"{base} of this machine; give export.merged=true, which sends both as one model"
        )
    try:
        validate_repo_id(repository)
        user = HfApi().whoami()
    except Exception as error:  # no such name, no network, no token: all end the same way
        raise InputError(
            f"{FLAG}={repository}: can't be sent there ({_reason(error)}). Name user/name and log "
            "in with `hf auth login`, or leave it null and send the folder later: hf upload"
        ) from error
    owner, _, name = repository.rpartition("/")
    known = [user.get("name"), *(group.get("name") for group in user.get("orgs") or [])]
    if owner and owner not in known:
        rank_zero_warn(
            f"{FLAG}={repository}: the hub knows you as {', '.join(map(str, known))}; it may "
            f"refuse {name} under {owner!r} when training is over"
        )


def without_folders(text: str) -> str:
    """A text in which nothing tells in what folders this machine keeps its files.

    Args:
        text: Of ``/home/me/data/it.csv`` it keeps ``…/it.csv``; addresses stay.
    """
    return FOLDERS.sub("…/", text)


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


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
