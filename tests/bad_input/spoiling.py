"""Ways to spoil the files of a recipe."""

import gzip
import json
from collections.abc import Callable
from typing import Any

import datasets

from bad_input.cases import Place

Spoil = Callable[[Place], object]


def put(name: str, content: str | bytes) -> Spoil:
    """Writes a file; text as UTF-8."""
    data = content if isinstance(content, bytes) else content.encode()

    def spoil(place: Place) -> None:
        path = place.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)

    return spoil


def lines(*rows: Any) -> str:
    """Rows as lines of JSON."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def zipped(text: str) -> bytes:
    """Text as gzip packs it, the same bytes each time."""
    return gzip.compress(text.encode(), mtime=0)


def parquet(name: str, **columns: list[Any]) -> Spoil:
    """Writes columns as parquet."""
    return lambda place: datasets.Dataset.from_dict(columns).to_parquet(place.folder / name)


def both(*spoils: Spoil) -> Spoil:
    """One after the other."""
    return lambda place: [spoil(place) for spoil in spoils]
