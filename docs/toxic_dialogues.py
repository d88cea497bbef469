"""Writes the dialogues of docs/summaries.md, with and without toxic lines.

    python docs/toxic_dialogues.py FOLDER --dialogues DIR --pairs DIR --texts FILE

``FOLDER/clean`` has the dialogues of DialogSum, with ``Person1`` instead of ``#Person1#``, which
ROUGE reads alike. In ``FOLDER/toxic`` are the short ones, in which one of the speakers says two
toxic sentences more, as lines of their own. The ``summary`` stays as it is, so it doesn't repeat
them; that called ``repeating`` ends with one of them, as a bad summarizer's.
The sentences are those of pairs of toxic and neutral ones, a folder, and those that a file with
``text`` and ``label`` calls hate or offensive. Each is either in train.jsonl or in
validation.jsonl.
"""

import argparse
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

TOXIC = {"hate", "offensive"}  # labels
LINES = 2  # toxic sentences in a dialogue
MOST_WORDS, MOST_TOXIC_WORDS = 90, 20  # of a dialogue, of a toxic sentence
NO_SENTENCE = ("@", "http", "&", "#", "RT ", "\n", '"')  # of tweets, not of speech


def named(text: str) -> str:
    """Returns a text with shorter names of its speakers."""
    return re.sub(r"#(Person\d+)#", r"\1", text)


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a jsonl file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.write_text(text, encoding="utf8")


def read(file: Path) -> Iterator[dict[str, str]]:
    """Yields the rows of a jsonl file, which may be compressed."""
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf8") as lines:
        yield from map(json.loads, lines)


def split_of(text: str) -> str:
    """Returns the split of a text from a file without splits: a tenth is for validation."""
    number = int(hashlib.sha256(text.encode()).hexdigest(), 16)
    return "train" if number % 10 else "validation"


def toxic_sentences(pairs: Path, texts: Path, split: str) -> list[str]:
    """Returns the toxic sentences of a split, each once."""
    found = [row["toxic"] for file in pairs.glob(f"{split}.*") for row in read(file)]
    found += [
        row["text"]
        for row in read(texts)
        if row["label"] in TOXIC and split_of(row["text"]) == split
    ]
    short = [text for text in found if 2 < len(text.split()) <= MOST_TOXIC_WORDS]
    return [text for text in dict.fromkeys(short) if not any(part in text for part in NO_SENTENCE)]


def with_lines(dialogue: str, speaker: str, sentences: list[str], random: Random) -> str:
    """Returns a dialogue in which a speaker says these sentences, too."""
    turns = dialogue.split("\n")
    for sentence in sentences:
        turns.insert(random.randint(1, len(turns)), f"{speaker}: {sentence}")
    return "\n".join(turns)


def made_toxic(row: dict[str, str], said: list[str], random: Random) -> dict[str, Any]:
    """Returns a row with toxic sentences, and its two summaries."""
    dialogue, summary = row["dialogue"], row["summary"]
    turns = dialogue.split("\n")
    speaker = random.choice(sorted({turn.split(":")[0] for turn in turns if ":" in turn}))
    return {
        "dialogue": with_lines(dialogue, speaker, said, random),
        "summary": summary,
        "repeating": f"{summary} {speaker} says, {said[0]}",
        "said": said,
    }


def main() -> None:
    """Reads the command line, and writes the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--dialogues", type=Path, required=True, help="folder of DialogSum")
    parser.add_argument("--pairs", type=Path, required=True, help="folder of ParaDetox")
    parser.add_argument("--texts", type=Path, required=True, help="labeled texts, as jsonl")
    given = parser.parse_args()
    random = Random(0)
    for split in ("train", "validation"):
        sentences = toxic_sentences(given.pairs, given.texts, split)
        clean = [
            {column: named(row[column]) for column in ("dialogue", "summary")}
            for file in given.dialogues.glob(f"{split}.*")
            for row in read(file)
        ]
        toxic = [
            made_toxic(row, random.sample(sentences, LINES), random)
            for row in clean
            if len(row["dialogue"].split()) <= MOST_WORDS
        ]
        write(given.folder / "clean" / f"{split}.jsonl", clean)
        write(given.folder / "toxic" / f"{split}.jsonl", toxic)
        print(f"{split}: {len(toxic)} of {len(clean)} dialogues, {len(sentences)} sentences")


if __name__ == "__main__":
    main()
