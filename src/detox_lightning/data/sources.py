"""Reads the rows of a data set from files or from the hub, and checks its columns."""

from collections.abc import Mapping
from os import PathLike, fspath
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal

from detox_lightning.data.locations import files_of, find
from detox_lightning.data.table_files import read_file
from detox_lightning.errors import InputError, explain, nearest

if TYPE_CHECKING:
    from datasets import Dataset

_KINDS = "a json, jsonl, csv, tsv or parquet file"
_TEXT = ("string", "large_string")
_ONLY_NULLS, _LISTS = "nothing but null", "lists of texts"
_TYPE_WORDS = {
    "null": _ONLY_NULLS,
    "Json": "values of several kinds",
    "List": "lists",
    "LargeList": "lists",
}
_CONVERT = "name another or convert it"


class MissingSplit(InputError):
    """The data set has no such split."""


class Rows(str):
    """The name of rows in memory; ``splits`` has a table for each split."""

    splits: Mapping[str, "Dataset"]


def names_of(source: Any) -> list[str]:
    """Returns the names in ``--data.source``; InputError if there is none, or a blank one."""
    names = [*map(_name_of, source)] if isinstance(source, list) else [_name_of(source)]
    if not names or not all(name.strip() for name in names):
        raise InputError(
            f"--data.source={source}: a name is missing; give a hub id, demo:NAME, a folder or a "
            "file"
        )
    return names


def _name_of(source: Any) -> str:
    """Returns a source as a name: a path, or tables of ``datasets`` or pandas by split."""
    if isinstance(source, str | PathLike):
        return fspath(source)
    from datasets import Dataset

    named = Rows("rows in memory")
    tables = source if isinstance(source, Mapping) else {"train": source}
    named.splits = {
        split: Dataset.from_pandas(table, preserve_index=False) if hasattr(table, "iloc") else table
        for split, table in tables.items()
    }
    if not all(isinstance(x, Dataset) for x in named.splits.values()):
        raise InputError(
            f"--data.source: it is an object of the class {type(source).__name__}; give a name, a "
            "path, a datasets.Dataset, a pandas.DataFrame, or a mapping of splits to these"
        )
    return named


def load_rows(source: str, split: str, flag: str = "split", takes_lists: bool = False) -> "Dataset":
    """Reads one split of a data set, which ``datasets`` keeps in its cache.

    Args:
        source: Hub id, ``demo:NAME``, a folder with one file per split (``train.jsonl.gz``, …), or
            one json, jsonl, csv, tsv or parquet file, whose rows are the split ``train``.
        split: Name of the split.
        flag: Flag that named the split, for the message.
        takes_lists: Whether a message may advise a list of files.

    Returns:
        The rows, at least one. Nested columns are flattened and named by their path:
        ``prompt.text``.

    Raises:
        MissingSplit: If the data set has no such split.
        InputError: If there is no such data set, or it can't be read.
    """
    is_table = isinstance(source, Rows)
    try:
        path = None if is_table else find(source)
        files: Any = files_of(path) if path else getattr(source, "splits", None)
    except OSError as error:
        raise InputError(explain(error, source) or str(error)) from error
    if files is None:
        rows = _read_hub(source, split, flag)
    elif split in files:  # a table in memory may be a selection of a larger one
        rows = files[split].flatten_indices() if is_table else read_file(files[split])
    else:
        only = f"{source} has no split {split!r}, only {', '.join(files)}{nearest(split, files)}"
        if takes_lists and split == "train" and not {"validation", "test"} & set(files):
            listed = ", ".join(map(str, files.values()))
            only += f" (to train on all files: --data.source '[{listed}]')"
        raise MissingSplit(f"{flag}={split}: {only}")
    if not len(rows):
        raise InputError(f"{source}: the split {split!r} holds no rows")
    return rows.flatten()


def _read_hub(source: str, split: str, flag: str) -> "Dataset":
    import datasets
    from datasets import packaged_modules

    # with the name of a reader, `datasets` would read whatever is in the current folder
    if source in {reader.name for reader in iter_modules(packaged_modules.__path__)}:
        raise InputError(
            f"{source}: this is the name of a file format, not of a data set; give a hub id, "
            f"demo:NAME, a local folder or {_KINDS}"
        )
    try:
        return datasets.load_dataset(source, split=split)
    except (OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if reason.startswith("Unknown split"):
            found = reason.partition("Should be one of ")[2].rstrip(".")
            only = f"{source} has no split {split!r}, only {found}"
            raise MissingSplit(f"{flag}={split}: {only}") from error
        if isinstance(error, ConnectionError):
            raise InputError(
                f"{source}: there is no such file or folder here, and the hub can't be reached "
                f"({reason}); download it elsewhere and give the local folder with train.jsonl, "
                "validation.jsonl, … instead. HF_HUB_OFFLINE=1 reads the cache alone, without "
                "waiting for the hub"
            ) from error
        raise InputError(
            f"{source}: neither a file or folder here nor a dataset on the hub ({reason}); give a "
            f"hub id, demo:NAME, a local folder or {_KINDS}"
        ) from error


def check_names(rows: "Dataset", flags: Mapping[str, str], source: str, remedy: str = "") -> None:
    """Raises one InputError for all columns that ``source`` lacks; ``flags`` has their flags."""
    known = (None, *rows.column_names)  # null is refused elsewhere
    missing = {column: flag for column, flag in flags.items() if column not in known}
    if missing:
        one = nearest(next(iter(missing)), rows.column_names)
        advice = one if len(missing) == 1 else "; give each flag one of these"
        raise InputError(
            f"{', '.join(f'{flag}={column}' for column, flag in missing.items())}: {source} has no "
            f"such column{'s' if len(missing) > 1 else ''}; it has "
            f"{', '.join(rows.column_names) or 'none'}{advice}{remedy}"
        )


def check_column(
    rows: "Dataset",
    column: str | None,
    content: Literal["text", "answers", "labels", "scores"],
    flag: str,
    source: str,
) -> None:
    """Checks that a column of ``source`` exists and holds valid text, answers, labels or scores.

    Answers are text or lists of texts; labels are names or whole numbers; scores are numbers from 0
    to 1.

    Raises:
        InputError: If it doesn't; the message names ``flag``, which gave the column.
    """
    if column is None:
        raise InputError(f"{flag}=null: name a column of {source}: {', '.join(rows.column_names)}")
    check_names(rows, {column: flag}, source)
    kind = _content_of(rows, column)
    where = f"{flag}={column}: in {source} this column"
    accepted = (*_TEXT, _LISTS) if content == "answers" else _TEXT
    if content in ("text", "answers") and kind not in accepted:
        texts = [name for name in rows.column_names if _content_of(rows, name) in _TEXT]
        known = f"its text columns are {', '.join(texts)}" if texts else "it has no text columns"
        raise InputError(f"{where} holds {kind}, not text; {known}")
    if content == "labels" and kind not in _TEXT and "int" not in kind:
        raise InputError(f"{where} holds {kind}, neither names nor whole numbers; {_CONVERT}")
    if content == "scores":
        if not kind.startswith(("float", "int", "uint")):
            raise InputError(f"{where} holds {kind}, not numbers; {_CONVERT}")
        for number, value in enumerate(rows[column][:], 1):
            if value is not None and not (0 <= value <= 1 or value != value):
                raise InputError(
                    f"{where} has the value {value:g} in row {number}, which is not from 0 to 1; "
                    f"{_CONVERT}"
                )
    elif row := _find_not_utf8(rows, column):
        raise InputError(f"{flag}={column}: row {row} of {source} isn't UTF-8; convert the file")


def has_only_nulls(rows: "Dataset", column: str) -> bool:
    """Returns whether there is such a column, without any value."""
    return column in rows.column_names and _content_of(rows, column) == _ONLY_NULLS


def _content_of(rows: "Dataset", column: str) -> str:
    """Returns a word for what a column holds, for messages, such as ``lists``."""
    feature = rows.features[column]
    if len(rows) and rows.data.column(column).null_count == len(rows):
        return _ONLY_NULLS
    if getattr(getattr(feature, "feature", None), "dtype", None) in (*_TEXT, "null"):
        return _LISTS
    kind = getattr(feature, "dtype", None) or type(feature).__name__
    return _TYPE_WORDS.get(kind, kind)


def _find_not_utf8(rows: "Dataset", column: str) -> int | None:
    """Returns the number of the first row that isn't UTF-8; the JSON reader accepts any bytes."""
    values = rows.data.column(column)
    try:
        values.validate(full=True)
    except ValueError:
        for number, value in enumerate(values, 1):
            try:
                value.as_py()
            except UnicodeDecodeError:
                return number
        return 1
    return None
