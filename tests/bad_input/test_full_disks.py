"""Disks that are full when something is to be written, from the command to the line."""

import builtins
import errno
import io
import os
from typing import Any

import pytest

from bad_input.cases import Case, Place, check

FULL = "No space left on device; make room, or choose a path on another disk"
RUN = "{folder}/runs/tiny/version_0"
BESIDE = "{folder}/runs/tiny/evaluation"  # without a checkpoint
CSV = (
    "--trainer.logger=CSVLogger",
    "--trainer.logger.save_dir={folder}/runs",
    "--trainer.logger.name=tiny",
)
CASES = {
    "config.yaml": Case("fit", (), f"can't write {RUN}/config.yaml: {FULL}", code=1),
    "tfevents": Case("fit", (), FULL, code=1),
    "metrics.csv": Case("fit", CSV, FULL, code=1),
    "report.html": Case("test", (), f"can't write {BESIDE}/test: {FULL}", verb="test", code=1),
    "answers": Case(
        "predict",
        ("--predictions.file={folder}/answers.jsonl",),
        f"can't write {{folder}}/answers.jsonl.partial: {FULL}",
        verb="predict",
        code=1,
    ),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("file", CASES)
def test_a_full_disk_is_a_line(file: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    really = io.open

    def full(path: Any, mode: str = "r", *options: Any, **more: Any) -> Any:
        if file in str(path) and set(mode) & set("wax+"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(path, mode, *options, **more)

    monkeypatch.setattr(io, "open", full)
    monkeypatch.setattr(builtins, "open", full)
    check(CASES[file], place)
