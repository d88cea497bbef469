"""Files as tables, for the cache of ``datasets``. Imported where a file is read, as it is heavy."""

import gzip
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow
import pyarrow.compute
from datasets import ArrowBasedBuilder, BuilderConfig, DatasetInfo, Features, SplitGenerator, Value
from datasets.builder import Key
from datasets.packaged_modules.json import json
from datasets.packaged_modules.parquet import parquet

from detox_lightning.data.csv_rows import Malformed, parse
from detox_lightning.data.json_depth import find_deeper

SPLIT = "train"  # a file is read as one, whatever it is called
LEVELS = 100  # of nested JSON; pyarrow crashes at some thousands
ROWS = 1000  # of a table


def opened(path: str, mode: str = "rb", **options: Any) -> Any:
    """A file, unpacked if its name ends with ``.gz``."""
    return (gzip.open if path.endswith(".gz") else open)(path, mode, **options)


class Csv(ArrowBasedBuilder):  # type: ignore[misc]
    """CSV whose every field is text, an empty one being none; see :func:`parse`."""

    BUILDER_CONFIG_CLASS = BuilderConfig

    def _info(self) -> DatasetInfo:
        return DatasetInfo()

    def _split_generators(self, _: Any) -> list[SplitGenerator]:
        (path,) = self.config.data_files[SPLIT]
        return [SplitGenerator(name=SPLIT, gen_kwargs={"path": path})]

    def _generate_shards(self, path: str) -> Iterator[str]:
        yield path

    def _generate_tables(self, path: str) -> Iterator[tuple[Key, pyarrow.Table]]:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            rows = parse(file)
            names = next(rows, [])
            batches = iter(lambda: list(islice(rows, ROWS)), [])
            for number, batch in enumerate(batches):
                columns = [_texts(column) for column in zip(*batch, strict=True)]
                yield Key(0, number), pyarrow.Table.from_arrays(columns, names)


def _texts(column: tuple[str, ...]) -> pyarrow.Array:
    texts = pyarrow.array(column, pyarrow.string())
    none = pyarrow.scalar(None, pyarrow.string())
    return pyarrow.compute.if_else(pyarrow.compute.equal(texts, ""), none, texts)


class Json(json.Json):  # type: ignore[misc]
    """JSON that is no deeper than can be read; a column that begins with nulls may hold text."""

    def _split_generators(self, downloads: Any) -> list[SplitGenerator]:
        self.config.parse_agent_traces = False  # they are no rows of texts
        (path,) = self.config.data_files[SPLIT]
        with opened(path) as file:
            if line := find_deeper(file, LEVELS):
                raise Malformed(
                    f"line {line} has more than {LEVELS} lists and objects within each other; give "
                    "an object of columns on each line"
                )
        splits: list[SplitGenerator] = super()._split_generators(downloads)
        if self.info.features is not None:
            known = self.info.features.items()
            text, null = Value("string"), Value("null")
            self.info.features = Features({name: text if f == null else f for name, f in known})
        return splits


BUILDERS = {"csv": Csv, "json": Json, "parquet": parquet.Parquet}
