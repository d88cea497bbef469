"""The files of a comparison, and the table for the terminal."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detox_lightning.evaluation.agreement import Agreement
from detox_lightning.evaluation.comparison import Comparison
from detox_lightning.report.curves import Curves
from detox_lightning.report.frontier import worth
from detox_lightning.report.identity_part import identity_words
from detox_lightning.report.page import counted, in_words, number, render, verdict
from detox_lightning.report.pictures import reliability_picture
from detox_lightning.report.rewriting_part import rewriting_table
from detox_lightning.report.tables import aligned, with_interval

TABLE_FIGURES = (
    *("toxicity", "expected_max_toxicity", "toxicity_probability"),
    *("second_toxicity", "second_expected_max_toxicity", "second_toxicity_probability", "score"),
    *(
        "sta",
        "sim",
        "fl",
        "j",
        "chrf",
        "rougeL",
        "entities_kept",
        "entities_invented",
        "distinct2",
        "perplexity",
    ),
    *("similarity_prompt", "similarity_before", "length", "kl"),
)


def write_files(
    folder: Path, summary: dict[str, Any], comparison: Comparison, curves: Curves
) -> None:
    """Writes ``summary.json``, ``comparison.jsonl``, ``comparison.parquet`` and ``report.html``."""
    from pyarrow import Table, parquet

    rows = comparison.rows()
    texts = {
        "summary.json": json.dumps(summary, indent=2, ensure_ascii=False) + "\n",
        "comparison.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        "report.html": render(summary, comparison, curves),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf8")
    parquet.write_table(Table.from_pylist(rows), folder / "comparison.parquet")


def write_agreement(folder: Path, about: dict[str, Any], found: Mapping[str, Agreement]) -> None:
    """Writes ``agreement.json`` and ``reliability.png`` of the scores of each label."""
    labels = {
        label: {
            **{name: x if x == x else None for name, x in each._asdict().items()},
            "bins": [part._asdict() for part in each.bins],
        }
        for label, each in found.items()
    }
    text = json.dumps({"about": about, "labels": labels}, indent=2, ensure_ascii=False)
    (folder / "agreement.json").write_text(f"{text}\n", encoding="utf8")
    reliability_picture(found).savefig(folder / "reliability.png", dpi=150)


def agreement_table(found: Mapping[str, Agreement]) -> str:
    """Returns how the scores of each label agree with the data's."""
    rows: list[Sequence[str]] = [
        ("", "texts", "Spearman", "AUROC", "Brier score", "calibration error")
    ]
    rows += [
        (label, f"{each.texts:,}", *map(number, (each.spearman, each.auroc, each.brier, each.ece)))
        for label, each in found.items()
    ]
    return "\n".join(aligned(rows))


def short_table(summary: dict[str, Any]) -> str:
    """Returns a summary (``about`` and ``figures``): a table, and the result in sentences."""
    group, figures = next(iter(summary["figures"].items()))
    about = summary["about"]
    kind = f"{about['samples']} sampled" if group == "sampled" else group
    head = (
        f"{counted(about['prompts'], 'prompt')}, {kind} each; {about['confidence']:.0%} intervals"
    )
    rows = [(head, "before", "after", "improvement")]
    several = group == "sampled" and about["samples"] > 1  # otherwise the maximum is the mean
    shown = [name for name in TABLE_FIGURES if several or "expected_max" not in name]
    for entry in (figures[name] for name in shown if name in figures):
        better = with_interval(entry["improvement"], "{:+.1%}")
        if entry["improvement"] is None and entry["better"] == "higher":
            better = with_interval(entry["difference"], "{:+.3f}")
        rows.append(
            (entry["title"], with_interval(entry["before"]), with_interval(entry["after"]), better)
        )
    lines = aligned(rows)
    said = [rewriting_table(summary, figures) + "\n"] if summary.get("rewriting") else []
    said += [in_words(figures)] if in_words(figures) else []
    if aimed := figures.get("toxicity") or figures.get("score"):
        said.append(verdict(aimed, f"{about['confidence']:.0%}"))
    if summary.get("best_of"):
        said.append(worth(summary["best_of"]))
    if summary.get("identity"):
        said.append(identity_words(summary["identity"]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", *said])
