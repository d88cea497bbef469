"""Reads the rows of a data set from the hub, the package, or local folders and files."""

from pkgutil import iter_modules
from typing import TYPE_CHECKING

from detox_lightning.data.locations import files_of, find
from detox_lightning.data.table_files import read_file
from detox_lightning.errors import InputError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

KINDS = "a json, jsonl, csv or parquet file"


class MissingSplit(InputError):
    """The data set exists, but not this split of it."""


def names_of(source: str | list[str]) -> tuple[str, ...]:
    """Returns the names of one or more data sets.

    Args:
        source: The value of ``--data.source``.

    Raises:
        InputError: If there is none, or one is blank.
    """
    names = (source,) if isinstance(source, str) else tuple(source)
    if not names or not all(name.strip() for name in names):
        raise InputError(
            f"--data.source={source}: a name is missing; give a hub id, demo:NAME, a folder or a "
            "file"
        )
    return names


def load_rows(source: str, split: str, flag: str = "split") -> "Dataset":
    """Reads one split of a data set, which ``datasets`` keeps in its cache.

    Args:
        source: Hub id, ``demo:NAME``, a folder with one file per split (``train.jsonl.gz``, …), or
            one json, jsonl, csv or parquet file, whose rows are the split ``train``.
        split: Name of the split.
        flag: Flag that named the split, for the message.

    Returns:
        The rows, at least one. Nested columns are flattened and named by their path:
        ``prompt.text``.

    Raises:
        MissingSplit: If the data set has no such split.
        InputError: If there is no such data set, or it can't be read.
    """
    path = find(source)
    if path is None:
        rows = _read_hub(source, split, flag)
    else:
        files = files_of(path)
        if split not in files:
            only = f"{source} has only {', '.join(files)}{nearest(split, files)}"
            raise MissingSplit(f"{flag}={split}: {only}")
        rows = read_file(files[split])
    if not len(rows):
        raise InputError(f"{source}: the split {split!r} holds no rows")
    return rows.flatten()


def _read_hub(source: str, split: str, flag: str) -> "Dataset":
    import datasets
    from datasets import packaged_modules

    # `datasets` would take the name of a reader for a data set, and read whatever lies around here
    if source in {reader.name for reader in iter_modules(packaged_modules.__path__)}:
        raise InputError(
            f"{source}: this is a kind of data and no place of it; give a hub id, demo:NAME, a "
            f"local folder or {KINDS}"
        )
    try:
        return datasets.load_dataset(source, split=split)
    except (OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if reason.startswith("Unknown split"):
            found = reason.partition("Should be one of ")[2].rstrip(".")
            raise MissingSplit(f"{flag}={split}: {source} has only {found}") from error
        if isinstance(error, ConnectionError):
            raise InputError(
                f"{source}: there is no such file or folder here, and the hub can't be reached "
                f"({reason}); to work offline, download it elsewhere and give the local folder "
                "with train.jsonl, validation.jsonl, … instead"
            ) from error
        raise InputError(
            f"{source}: neither a file or folder here nor a dataset on the hub ({reason}); give a "
            f"hub id, demo:NAME, a local folder or {KINDS}"
        ) from error
