"""How often judges call harmless sentences toxic, by the group of people these are about."""

import json
from pathlib import Path
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveInt

from detox_lightning.compare.rescore import open_judge
from detox_lightning.data.identity_rows import IdentitySource, sample_rows
from detox_lightning.errors import InputError
from detox_lightning.evaluation.identity import audit_judges
from detox_lightning.models.classifier_heads import Head
from detox_lightning.report.identity_part import audit_text
from detox_lightning.runs.run_folders import atomic_folder, next_free_path, refuse_unwritable


def audit(
    file: str | None = None,
    toxicity_model: str | None = None,
    toxic_label: str = "hate",
    toxicity_head: Head | None = None,
    second_toxicity_model: str | None = None,
    second_toxic_label: str = "hate",
    second_toxicity_head: Head | None = None,
    groups: list[str] | None = None,
    text_column: str = "phrase",
    label_column: str = "toxicity",
    harmless: str = "nontoxic",
    rows: PositiveInt | None = None,
    folder: str = "audit",
    seed: NonNegativeInt = 0,
) -> Path:
    """Counts false alarms by identity group, prints them, and writes audit.json into a folder.

    Args:
        file: A table (.csv, .jsonl, .json or .parquet, the first three also with .gz) of sentences
            about groups of people with labels, or of templates in which {group} stands for a
            group; or a .txt file with a template on each line.
        toxicity_model: The classifier that judges: hub id, local folder or demo:NAME.
        toxic_label: Label of the classifier whose probability is the toxicity.
        toxicity_head: Meaning of the classifier's outputs: softmax (its labels exclude one
            another), sigmoid (each label has a probability of its own) or value (a regressor's
            value, from 0 to 1); null: according to its config.
        second_toxicity_model: Another classifier that judges the same sentences; null for none.
        second_toxic_label: Toxic label of the second classifier.
        second_toxicity_head: Meaning of the second classifier's outputs.
        groups: Identity terms, as in '[gay, deaf, old]'. Templates are filled with each of them; a
            whole sentence belongs to the first one that it names. null: those of the package.
        text_column: Column with the sentences or templates.
        label_column: Column that says which sentences are harmless; templates may lack it, and are
            all harmless then.
        harmless: Label of the harmless sentences in that column; all others are toxic.
        rows: Sentences that are judged, equally many of each group, chosen by the seed; null: all.
        folder: Folder of audit.json; a number is added if it exists already.
        seed: Seed of the choice, and of the intervals.

    Returns:
        The file that was written, which is a new one.

    Raises:
        InputError: If file, column, classifier or label don't exist or can't be used.
    """
    if file is None or toxicity_model is None:
        raise InputError("name a file of sentences, and a judge: audit FILE --toxicity_model MODEL")
    _refuse_idle(second_toxicity_model, second_toxicity_head)
    every, left_out = IdentitySource(file, groups, text_column, label_column, harmless).read()
    sentences = sample_rows(every, rows, seed, "--rows")
    written = next_free_path(Path(folder))
    refuse_unwritable(written.parent, f"--folder={folder}")
    judges = {"toxicity": open_judge(toxicity_model, toxic_label, toxicity_head)}
    if second_toxicity_model is not None:
        options = second_toxicity_model, second_toxic_label, second_toxicity_head
        judges["second_toxicity"] = open_judge(*options, flag="--second_")
    found = audit_judges(judges, sentences, seed)
    found["about"] |= {"file": file, "left_out": left_out, "rows": rows, "seed": seed}
    return _tell(found, written)


def _refuse_idle(model: str | None, head: Head | None) -> None:
    """Refuses how a second classifier is read, if there is none."""
    if head is not None and model is None:
        raise InputError(
            f"--second_toxicity_head={head} is of --second_toxicity_model, and that is null: name "
            "a second classifier, or leave this out"
        )


def _tell(found: dict[str, Any], folder: Path) -> Path:
    """Prints what was found, and writes it."""
    print(audit_text(found))
    text = json.dumps(found, indent=2, ensure_ascii=False)
    with atomic_folder(folder) as partial:
        (partial / "audit.json").write_text(f"{text}\n", encoding="utf8")
    print(f"\nAll groups, with intervals: {folder / 'audit.json'}")
    return folder / "audit.json"
