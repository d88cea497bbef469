"""Reads one file of rows through the cache of ``datasets``; the key is the file's content."""

import hashlib
import os
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from detox_lightning.data.locations import caching, irregular, parse
from detox_lightning.data.text_files import Malformed, check_json, decode, open_binary
from detox_lightning.errors import InputError, causes

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import ChunkedArray

FORMAT = 1  # part of every cache key: raise it when files are read differently
PARQUET_MAGIC = b"PAR1"  # at both ends of a file
# a number with leading zeros is a code, and stays text
NUMBERS = {
    "int64": r"^-?(0|[1-9][0-9]{0,17})$",
    "float64": r"^[+-]?((0|[1-9][0-9]{0,14})([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]{1,2})?$",
}


def read_file(path: Path) -> "Dataset":
    """Reads the rows of a json, jsonl, csv, tsv or parquet file, or finds its content in the cache.

    Returns:
        The rows. Columns of a csv or tsv file are numbers if all their values are; else text.

    Raises:
        InputError: If it can't be read, or holds no rows.
    """
    _, kind = parse(path) or ("", "")
    if problem := irregular(path):
        raise InputError(f"{path}: {problem}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: this file may not be read; change its permissions")
    if not path.stat().st_size:
        raise InputError(f"{path}: the file is empty; give one with rows")
    try:
        with caching():
            rows = _cached(path, kind)
    except InputError:
        raise
    # the readers raise anything from EOFError to ArrowInvalid
    except Exception as error:
        raise InputError(f"{path}: {_diagnose(path, kind, error)}") from error
    return _with_numbers(rows) if kind in ("csv", "tsv") else rows


def _cached(path: Path, kind: str) -> "Dataset":
    from datasets import __version__
    from datasets.data_files import DataFilesDict, DataFilesList

    from detox_lightning.data.builders import BUILDERS, SPLIT

    content = _content_hash(path)
    with tempfile.TemporaryDirectory() as folder:
        # `datasets` would read some names as patterns, addresses or archives
        plain = Path(folder) / ("rows.gz" if path.suffix == ".gz" else "rows")
        plain.symlink_to(path.resolve())
        files = DataFilesDict({SPLIT: DataFilesList([str(plain)], [(content,)])})
        builder = BUILDERS[kind](
            dataset_name=kind,
            config_id=content,
            hash=f"{__version__}-{FORMAT}",
            data_files=files,
        )
        builder.download_and_prepare()
    rows: Dataset = builder.as_dataset(SPLIT)
    return rows


def _content_hash(path: Path) -> str:
    content = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            content.update(chunk)
    return content.hexdigest()


def _diagnose(path: Path, kind: str, error: Exception) -> str:
    """Returns why a file can't be read, and the remedy."""
    if "corresponds to no data" in str(error):
        return "the file holds no rows; give one that does"
    for cause in causes(error):
        if isinstance(cause, Malformed):
            return str(cause)
    try:
        with open_binary(path) as file:
            content = file.read()
        if kind == "json":
            check_json(decode(content))
        elif kind in ("csv", "tsv"):
            decode(content)
        elif not (content.startswith(PARQUET_MAGIC) and content.endswith(PARQUET_MAGIC)):
            return "isn't a Parquet file, or is incomplete; repair or replace the file"
    except Malformed as malformed:
        return str(malformed)
    except (OSError, EOFError, zlib.error, RecursionError):
        pass
    cause = error.__cause__ or error
    if kind == "json" and type(cause).__name__ == "CastError":  # blocks are read one by one
        return (
            "after the first 10 MB, rows have other columns or other types of values; give all "
            "rows all columns, with null for missing values"
        )
    reason = " ".join(f"{type(cause).__name__}: {cause}".split())
    return f"can't be read as {kind} ({reason}); repair or replace the file"


def _with_numbers(rows: "Dataset") -> "Dataset":
    """Turns columns of text into numbers where all their values are numbers."""
    from datasets import Features, Value, concatenate_datasets

    names = rows.column_names
    kinds = {name: _number(rows.data.column(name)) for name in names}
    numbers = Features({name: Value(kind) for name, kind in kinds.items() if kind})
    if not numbers:
        return rows
    # a cast copies the rows in the cache, so texts are left out of it
    parts = [rows.select_columns(list(numbers)).cast(numbers), rows.remove_columns(list(numbers))]
    return concatenate_datasets(parts, axis=1).select_columns(names)


def _number(texts: "ChunkedArray") -> str | None:
    """Returns ``int64`` or ``float64`` if all texts of a column are such numbers; else None."""
    import pyarrow.compute as compute

    if texts.null_count == len(texts):
        return None
    for kind, pattern in NUMBERS.items():
        # chunk by chunk, as the first chunk of most columns has a text
        matches = (compute.match_substring_regex(chunk, pattern) for chunk in texts.chunks)
        if all(compute.all(matching).as_py() is not False for matching in matches):
            return kind
    return None
