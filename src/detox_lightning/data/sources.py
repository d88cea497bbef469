"""Where rows come from: the hub, the package's own world, local folders and files."""

from pkgutil import iter_modules
from typing import TYPE_CHECKING

from detox_lightning.data.locations import files_of, find
from detox_lightning.data.table_files import read_file
from detox_lightning.errors import InputError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

KINDS = {
    "null": "nothing but null",
    "List": "lists",
    "LargeList": "lists",
    "Json": "values of several kinds",
}
TEXT = ("string", "large_string")
UNREACHABLE = (
    "{source}: there is no such file or folder here, and the hub can't be reached ({reason}); to "
    "work offline, download it elsewhere and give the local folder with train.jsonl, "
    "validation.jsonl, … instead"
)


class MissingSplit(InputError):
    """The source is there, but not this split of it."""


def names_of(source: str | list[str]) -> tuple[str, ...]:
    """What ``--data.source`` names, one or several.

    Args:
        source: One name or a list of them.

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
    """Reads one split of a source; ``datasets`` keeps it in its cache.

    Args:
        source: Hub id, ``demo:NAME``, a folder with one file a split (``train.jsonl.gz``, …), or
            one json, jsonl, csv or parquet file, whose rows are the split ``train``.
        split: Name of the split.
        flag: The flag that named the split, for the message.

    Returns:
        The rows of that split, at least one. Columns within columns lie side by side, under their
        path: ``prompt.text``.

    Raises:
        MissingSplit: If the source has no such split; names those it has.
        InputError: If there is no such source, or it can't be read.
    """
    path = find(source)
    if path is None:
        rows = _read_hub(source, split, flag)
    else:
        files = files_of(path)
        if split not in files:
            only = f"{source} has only {_listed(list(files))}{nearest(split, files)}"
            raise MissingSplit(f"{flag}={split}: {only}")
        rows = read_file(files[split])
    if not len(rows):
        raise InputError(f"{source}: the split {split!r} holds no rows")
    return rows.flatten()


def available_splits(source: str) -> list[str]:
    """The names of the splits that a source has.

    Args:
        source: As for :func:`load_rows`.

    Raises:
        InputError: If there is no such source.
    """
    path = find(source)
    if path is not None:
        return list(files_of(path))
    from datasets import get_dataset_split_names

    _refuse_reader(source)

    try:
        names: list[str] = get_dataset_split_names(source)
    except (OSError, ValueError) as error:
        raise _hub_trouble(source, error) from error
    return names


def check_text(rows: "Dataset", column: str, flag: str, source: str) -> None:
    """Makes sure that a column is there and holds text.

    Args:
        rows: What was read.
        column: The column's name.
        flag: The flag that named it, for the message.
        source: Where the rows come from, for the message.

    Raises:
        InputError: If the column is missing, or holds something else or bytes that aren't UTF-8.
    """
    _check_there(rows, column, flag, source)
    if (kind := kind_of(rows, column)) not in TEXT:
        texts = [name for name in rows.column_names if kind_of(rows, name) in TEXT]
        known = f"its text columns are {_listed(texts)}" if texts else "it has no text columns"
        raise InputError(
            f"{flag}={column}: in {source} this column holds {kind}, not text; {known}"
        )
    _check_utf8(rows, column, flag, source)


def check_labels(rows: "Dataset", column: str, flag: str, source: str) -> None:
    """Makes sure that a column is there and holds names or whole numbers.

    The arguments are those of :func:`check_text`.

    Raises:
        InputError: If the column is missing or holds something else.
    """
    _check_there(rows, column, flag, source)
    kind = kind_of(rows, column)
    if kind not in TEXT and "int" not in kind:
        raise InputError(
            f"{flag}={column}: in {source} this column holds {kind}, neither names nor whole "
            "numbers; name another or convert it"
        )
    _check_utf8(rows, column, flag, source)


def check_scores(rows: "Dataset", column: str, flag: str, source: str) -> None:
    """Makes sure that a column is there and holds numbers from 0 to 1.

    The arguments are those of :func:`check_text`.

    Raises:
        InputError: If the column is missing or holds something else.
    """
    _check_there(rows, column, flag, source)
    kind = kind_of(rows, column)
    if not kind.startswith(("float", "int", "uint")):
        raise InputError(
            f"{flag}={column}: in {source} this column holds {kind}, not numbers; name another or "
            "convert it"
        )
    import pyarrow.compute

    bounds = pyarrow.compute.min_max(rows.data.column(column)).as_py()
    low, high = bounds["min"], bounds["max"]
    if low is not None and (low < 0 or high > 1):
        raise InputError(
            f"{flag}={column}: in {source} this column goes from {low:g} to {high:g}, not from 0 "
            "to 1; name another or convert it"
        )


def _check_there(rows: "Dataset", column: str, flag: str, source: str) -> None:
    if column not in rows.column_names:
        raise InputError(
            f"{flag}={column}: {source} has no such column; it has {_listed(rows.column_names)}"
            + nearest(column, rows.column_names)
        )


def _check_utf8(rows: "Dataset", column: str, flag: str, source: str) -> None:
    """The json reader takes any bytes, and they would fail where they are first decoded."""
    values = rows.data.column(column)
    try:
        values.validate(full=True)
    except ValueError as error:
        raws = enumerate(values.cast(f"{values.type}".replace("string", "binary")).to_pylist(), 1)
        places = [f"row {number} of " for number, raw in raws if raw and not _is_utf8(raw)]
        raise InputError(
            f"{flag}={column}: {(places or [''])[0]}{source} isn't UTF-8; convert the file"
        ) from error


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def kind_of(rows: "Dataset", column: str) -> str:
    """What a column holds, as a word for messages: such as ``string`` or ``lists``.

    Args:
        rows: What was read.
        column: The column's name.
    """
    feature = rows.features[column]
    if len(rows) and rows.data.column(column).null_count == len(rows):
        return KINDS["null"]
    kind = getattr(feature, "dtype", None) or type(feature).__name__
    return KINDS.get(kind, kind)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _refuse_reader(source: str) -> None:
    """``datasets`` calls its readers by names, too, and would read whatever lies around here."""
    from datasets import packaged_modules

    if source in {reader.name for reader in iter_modules(packaged_modules.__path__)}:
        raise InputError(
            f"{source}: this is a kind of data and no place of it; give a hub id, demo:NAME, a "
            "local folder or a json, jsonl, csv or parquet file"
        )


def _read_hub(source: str, split: str, flag: str) -> "Dataset":
    import datasets

    _refuse_reader(source)
    try:
        return datasets.load_dataset(source, split=split)
    except (OSError, ValueError) as error:
        reason = str(error)
        if reason.startswith("Unknown split"):
            found = reason.partition("Should be one of ")[2].rstrip(".")
            raise MissingSplit(f"{flag}={split}: {source} has only {found}") from error
        raise _hub_trouble(source, error) from error


def _hub_trouble(source: str, error: Exception) -> InputError:
    """Says what a failed request means."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if isinstance(error, ConnectionError):
        return InputError(UNREACHABLE.format(source=source, reason=reason))
    return InputError(
        f"{source}: neither a file or folder here nor a dataset on the hub ({reason}); give a hub "
        "id, demo:NAME, a local folder or a json, jsonl, csv or parquet file"
    )
