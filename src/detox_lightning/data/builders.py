"""Readers of files for the cache of ``datasets``; imported late, as it is heavy."""

from collections.abc import Iterator
from io import TextIOWrapper
from itertools import islice
from logging import CRITICAL, getLogger
from typing import Any

import pyarrow
from datasets import Features, SplitGenerator, Value
from datasets.builder import Key
from datasets.packaged_modules.csv import csv
from datasets.packaged_modules.json import json
from datasets.packaged_modules.parquet import parquet

from detox_lightning.data.text_files import Malformed, find_deeper, open_binary, parse_csv

SPLIT = "train"  # each file is read as one split, which needs a name
MAX_LEVELS = 100  # of nested JSON; pyarrow crashes at some thousands
ROWS_PER_TABLE = 1000
for reader in (json, parquet):  # what they log they also raise, and table_files words it
    getLogger(reader.__name__).setLevel(CRITICAL)


class _Csv(csv.Csv):  # type: ignore[misc]
    """CSV whose fields are text, or null if they are empty; see :func:`parse_csv`."""

    separator = ","

    def _generate_tables(
        self, base_files: list[str], files_iterables: Any
    ) -> Iterator[tuple[Key, pyarrow.Table]]:
        (path,) = base_files
        with TextIOWrapper(open_binary(path), encoding="utf-8-sig", newline="") as file:
            rows = parse_csv(file, self.separator)
            names = next(rows, [])
            for number, batch in enumerate(iter(lambda: list(islice(rows, ROWS_PER_TABLE)), [])):
                columns = [
                    pyarrow.array([text or None for text in column], pyarrow.string())
                    for column in zip(*batch, strict=True)
                ]
                yield Key(0, number), pyarrow.Table.from_arrays(columns, names)


class _Tsv(_Csv):
    """The same with tabs between the fields."""

    separator = "\t"


class _Json(json.Json):  # type: ignore[misc]
    """JSON that is not nested too deeply; a column that begins with nulls may hold text."""

    def _split_generators(self, downloads: Any) -> list[SplitGenerator]:
        self.config.parse_agent_traces = False  # logs of agents aren't rows of texts
        (path,) = self.config.data_files[SPLIT]
        with open_binary(path) as file:
            if line := find_deeper(file, MAX_LEVELS):
                raise Malformed(
                    f"line {line} has more than {MAX_LEVELS} lists and objects within each other; "
                    "give an object of columns on each line"
                )
        splits: list[SplitGenerator] = super()._split_generators(downloads)
        if self.info.features is not None:
            known = self.info.features.items()
            text, null = Value("string"), Value("null")
            self.info.features = Features({name: text if f == null else f for name, f in known})
        return splits


BUILDERS = {"csv": _Csv, "tsv": _Tsv, "json": _Json, "parquet": parquet.Parquet}
