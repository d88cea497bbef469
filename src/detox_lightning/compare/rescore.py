"""Scores texts that were stored earlier, so that old and new runs are compared under one judge."""

import json
from pathlib import Path
from typing import Any

import torch

from detox_lightning.data.text_files import Malformed, decode, open_binary, parse_object
from detox_lightning.errors import InputError, explain, nearest, writing
from detox_lightning.evaluation.best_of import against_best_of
from detox_lightning.evaluation.rescoring import SIDES, mean_toxicity, stored_comparison
from detox_lightning.evaluation.statistics import CONFIDENCE, summarize
from detox_lightning.evaluation.toxicity import Toxicity
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.models.classifier_heads import Head
from detox_lightning.report.page import counted
from detox_lightning.report.report_files import short_table
from detox_lightning.report.tables import with_interval
from detox_lightning.runs.run_folders import atomic_file, next_free_path, refuse_unwritable

RESCORED = "rescored"  # the new column; of a comparison, two that begin like this
ALONE = ("response", "text")  # columns that may hold the texts
Row = dict[str, Any]


def rescore(
    file: str | None = None,
    toxicity_model: str | None = None,
    toxic_label: str = "hate",
    toxicity_head: Head | None = None,
    text_column: str | None = None,
) -> Path:
    """Scores the texts of a file, prints means with intervals, and writes FILE.rescored.jsonl.

    Args:
        file: A .jsonl file (also .jsonl.gz): the comparison.jsonl of a test, the file that predict
            has written, or any other.
        toxicity_model: The classifier that judges: hub id, local folder or demo:NAME.
        toxic_label: Label of the classifier whose probability is the toxicity.
        toxicity_head: Meaning of the classifier's outputs: softmax (its labels exclude one
            another), sigmoid (each label has a probability of its own) or value (a regressor's
            value, from 0 to 1); null: according to its config.
        text_column: Column with the texts; null: before and after, if the file has both, which
            gives the change as well; else response or text.

    Returns:
        The file that was written, which is a new one.

    Raises:
        InputError: If file, column, classifier or label don't exist or can't be used.
    """
    if file is None or toxicity_model is None:
        raise InputError("name a file of texts, and a judge: rescore FILE --toxicity_model MODEL")
    rows = read_rows(Path(file))
    columns = _columns(rows, file, text_column)
    written = next_free_path(Path(file.removesuffix(".gz")).with_suffix(f".{RESCORED}.jsonl"))
    refuse_unwritable(written.parent, str(written.parent))
    toxicity = open_judge(toxicity_model, toxic_label, toxicity_head)
    add_scores(rows, columns, toxicity)
    identity = toxicity.classifier.model.identity
    print(f"Judge: {toxicity_model}, label {toxic_label}, {identity}\n")
    print(short_table(change(rows)) if columns == SIDES else _means_table(rows))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with writing(written), atomic_file(written) as partial:
        partial.write_text(text, encoding="utf8")
    print(f"\nThe texts with their scores: {written}")
    return written


def read_rows(file: Path) -> list[Row]:
    """Reads the objects of a .jsonl file; raises InputError if there are none."""
    try:
        with open_binary(file) as opened:
            # not splitlines: texts contain other line separators
            lines = decode(opened.read()).split("\n")
        rows = [parse_object(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    except Malformed as error:
        raise InputError(f"{file}: {error}") from error
    except (OSError, EOFError) as error:
        raise InputError(explain(error, file) or f"{file}: {error}") from error
    if not rows:
        raise InputError(f"{file}: there is no text in it; give a file with one object a line")
    return rows


def open_judge(model: str, label: str, head: Head | None = None, flag: str = "--") -> Toxicity:
    """Opens a classifier, on a GPU if there is one; InputError if it lacks the toxic label.

    ``flag`` is what the names of its flags begin with, for messages.
    """
    classifier = TextClassifier(model, head=head, flag=f"{flag}toxicity_head")
    toxicity = Toxicity(classifier, label, f"{flag}toxic_label")
    toxicity.load()
    return toxicity.to("cuda" if torch.cuda.is_available() else "cpu")


def add_scores(rows: list[Row], columns: tuple[str, ...], toxicity: Toxicity) -> None:
    """Adds the toxicity of the texts: ``rescored``, or ``rescored_before`` and ``…_after``."""
    for column in columns:
        scores = toxicity([row[column] for row in rows]).tolist()
        for row, score in zip(rows, scores, strict=True):
            row[f"{RESCORED}_{column}" if columns == SIDES else RESCORED] = score


def change(rows: list[Row]) -> dict[str, Any]:
    """Returns the summary of a comparison that has got scores, as a test's; see :func:`render`.

    It has ``best_of`` if the reward's scores of several samples are stored.
    """
    comparison = stored_comparison(rows, RESCORED)
    samples = sum(name.startswith("sample") for name in comparison.decodings)
    about = {"prompts": len(comparison.prompts), "samples": samples, "confidence": CONFIDENCE}
    best_of = None
    if "score" in comparison.before.figures and {"score", "kl"} <= comparison.after.figures.keys():
        best_of = against_best_of(comparison, seed=0)
    return {"about": about, "figures": summarize(comparison, seed=0), "best_of": best_of}


def _columns(rows: list[Row], file: str, text_column: str | None) -> tuple[str, ...]:
    """Returns the columns with texts; InputError if there is none, or a row lacks its text."""
    names = list(rows[0])
    found: tuple[str, ...] = SIDES if {*SIDES} <= {*names} else ()
    found = found or tuple(name for name in ALONE if name in names)[:1]
    if text_column is not None:
        found = (text_column,)
    if not {*found} <= {*names} or not found:
        wanted = text_column or "null"
        raise InputError(
            f"--text_column={wanted}: {file} has no {'such' if text_column else 'known'} column; "
            f"name one of its columns: {', '.join(names)}{nearest(wanted, names)}"
        )
    if any(name.startswith(RESCORED) for name in names):
        raise InputError(f"{file} was rescored already: give the file that it was made from")
    for number, row in enumerate(rows, 1):
        for column in found:
            if not isinstance(row.get(column), str):
                raise InputError(
                    f"--text_column={column}: row {number} of {file} has no text there, but "
                    f"{row.get(column)!r}; correct or remove it"
                )
    return found


def _means_table(rows: list[Row]) -> str:
    prompts = [str(row.get("prompt", number)) for number, row in enumerate(rows)]
    found = mean_toxicity(torch.tensor([row[RESCORED] for row in rows]).double().numpy(), prompts)
    of = f" to {counted(len({*prompts}), 'prompt')}" if "prompt" in rows[0] else ""
    lines = [f"{counted(len(rows), 'text')}{of}; {CONFIDENCE:.0%} intervals"]
    titles = {"toxicity": "Toxicity, mean", "toxic": "Share of texts of toxicity .5 or more"}
    width = max(map(len, titles.values()))
    lines += [f"{title:{width}}  {with_interval(found[key])}" for key, title in titles.items()]
    return "\n".join(lines)
