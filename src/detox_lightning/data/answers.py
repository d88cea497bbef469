"""Rows with several answers, in a column of lists or in several columns."""

from functools import partial
from typing import TYPE_CHECKING, Any

from detox_lightning.data.counted_rows import CountedRows, texts_in
from detox_lightning.data.sources import check_column, check_names, has_only_nulls

if TYPE_CHECKING:
    from datasets import Dataset


def name_of(names: list[str]) -> str:
    """Returns the name of the column into which :func:`gather` puts several columns."""
    return names[0] if len(names) == 1 else ", ".join(names)


def gather(rows: "Dataset", names: list[str], flag: str, source: str) -> "Dataset":
    """Adds a column of lists with the texts of several columns.

    A single column stays as it is. InputError if ``source`` lacks one that ``flag`` names, or if
    one holds no text.
    """
    into = name_of(names)
    if len(names) == 1 or into in rows.column_names:
        return rows
    check_names(rows, dict.fromkeys(names, flag), source)
    for name in names:
        if not has_only_nulls(rows, name):
            check_column(rows, name, "text", flag, source)
    from datasets import Features, List, Value

    features = Features({**rows.features, into: List(Value("string"))})
    listed = partial(_listed, names=names, into=into)
    return rows.map(listed, batched=True, features=features)


def one_a_row(rows: CountedRows, column: str, phrase: str) -> CountedRows:
    """Gives each text of a column of lists a row of its own; ``phrase`` describes the rows."""
    if not hasattr(rows.rows.features[column], "feature"):
        return rows
    return rows.then(phrase, rows.rows.map(partial(_separated, column=column), batched=True))


def _listed(batch: dict[str, list[Any]], names: list[str], into: str) -> dict[str, list[Any]]:
    return {into: [[*texts] for texts in zip(*(batch[name] for name in names), strict=True)]}


def _separated(batch: dict[str, list[Any]], column: str) -> dict[str, list[Any]]:
    pairs = [(row, text) for row, texts in enumerate(batch[column]) for text in texts_in(texts)]
    repeated = {name: [values[row] for row, _ in pairs] for name, values in batch.items()}
    return repeated | {column: [[text] for _, text in pairs]}
