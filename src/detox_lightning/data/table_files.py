"""One file of rows, by way of the cache of ``datasets``, whose key is the file's content."""

import hashlib
import re
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from detox_lightning.data.csv_rows import Malformed
from detox_lightning.data.locations import check_file, parse
from detox_lightning.data.read_errors import cache_trouble, diagnose
from detox_lightning.errors import InputError, causes

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import ChunkedArray

# part of every cache key: raise it when files are read in another way
FORMAT = 1
# leading zeros are of codes rather than numbers
NUMBERS = {
    "int64": r"^-?(0|[1-9][0-9]{0,17})$",
    "float64": r"^[+-]?((0|[1-9][0-9]{0,14})([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]{1,2})?$",
}


def read_file(path: Path) -> "Dataset":
    """Reads a file's rows; the cache has them if it has read the same content before.

    Args:
        path: A json, jsonl, csv or parquet file.

    Returns:
        The rows. Columns of a csv file are text, or numbers where they hold nothing else.

    Raises:
        InputError: If it can't be read, or holds no rows.
    """
    _, kind = parse(path) or ("", "")
    check_file(path)
    try:
        rows = _cached(path, kind)
    # the readers raise anything from EOFError to ArrowInvalid; whatever it is, the file is at fault
    except Exception as error:
        if "corresponds to no data" in str(error):
            raise InputError(f"{path}: the file holds no rows; give one that does") from error
        malformed = next((cause for cause in causes(error) if isinstance(cause, Malformed)), None)
        raise cache_trouble(error) or InputError(
            f"{path}: {malformed or diagnose(path, kind, error)}"
        ) from error
    return _with_numbers(rows) if kind == "csv" else rows


def _cached(path: Path, kind: str) -> "Dataset":
    from datasets import __version__
    from datasets.data_files import DataFilesDict, DataFilesList

    from detox_lightning.data.builders import BUILDERS, SPLIT

    content = _content(path, _Version.of(path))
    with tempfile.TemporaryDirectory() as folder:
        # `datasets` takes names for patterns, for addresses and for archives: it gets a plain one
        ends = [suffix for suffix in path.suffixes[-2:] if re.fullmatch("[.][a-z]+", suffix)]
        plain = Path(folder) / ("rows" + "".join(ends))
        plain.symlink_to(path.resolve())
        files = DataFilesDict({SPLIT: DataFilesList([str(plain)], [(content,)])})
        builder = BUILDERS[kind](
            dataset_name=kind,
            config_id="".join(ends)[1:] + "-" + content,
            hash=f"{__version__}-{FORMAT}",
            data_files=files,
        )
        builder.download_and_prepare()
    rows: Dataset = builder.as_dataset(SPLIT)
    return rows


class _Version(NamedTuple):
    """What the system knows of a file's content; not enough for a cache that outlives the run."""

    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> "_Version":
        """That of a file as it is now; times in nanoseconds, the size in bytes."""
        stat = path.stat()
        return cls(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=64)
def _content(path: Path, version: _Version) -> str:
    """A hash of the content, some tenths of a second for 1 GB that is in memory."""
    content = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            content.update(chunk)
    return content.hexdigest()


def _with_numbers(rows: "Dataset") -> "Dataset":
    """Turns columns of text into numbers where all that they hold are numbers."""
    from datasets import Features, Value, concatenate_datasets

    names = rows.column_names
    kinds = {name: _number(rows.data.column(name)) for name in names}
    numbers = Features({name: Value(kind) for name, kind in kinds.items() if kind})
    if not numbers:
        return rows
    # cast by themselves, as a cast copies the rows in the cache
    parts = [rows.select_columns(list(numbers)).cast(numbers)]
    if texts := [name for name in names if name not in numbers]:
        parts.append(rows.select_columns(texts))
    return concatenate_datasets(parts, axis=1).select_columns(names)


def _number(texts: "ChunkedArray") -> str | None:
    """``int64`` or ``float64`` if that is what all texts of a column are, of which there is one."""
    import pyarrow.compute as compute

    def all_are(pattern: str) -> bool:
        return all(
            compute.all(compute.match_substring_regex(chunk, pattern)).as_py() is not False
            for chunk in texts.chunks
        )

    if texts.null_count == len(texts):
        return None
    return next((kind for kind, pattern in NUMBERS.items() if all_are(pattern)), None)
