"""Writes the prompts of docs/evidence.md: train.jsonl, validation.jsonl and test.jsonl.

    python docs/evidence_prompts.py prompts --rtp scored.jsonl --hate davidson.jsonl implicit.jsonl

Prompts are those of RealToxicityPrompts, a file with ``prompt``, and the first halves of texts from
hate-speech data sets, files with ``text``. The part that a prompt belongs to is a function of its
text: a judge that was trained on other prompts must not have seen those of the test.
"""

import argparse
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

SIZES = {"train": 4000, "validation": 240, "test": 150}  # prompts of each origin, at most
BOUNDS = {"train": 80, "validation": 88, "test": 100}  # of 100 equal shares
MOST_WORDS = 12


def part_of(prompt: str) -> str:
    """Returns the part that a prompt belongs to."""
    number = int(hashlib.sha256(prompt.strip().lower().encode()).hexdigest(), 16) % 100
    return next(part for part, bound in BOUNDS.items() if number < bound)


def read(file: Path, column: str) -> Iterator[str]:
    """Yields the texts of a jsonl file."""
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf8") as lines:
        for line in lines:
            value = json.loads(line)[column]
            yield str(value["text"] if isinstance(value, dict) else value).strip()


def first_half(text: str) -> str:
    """Returns the first half of a text's words."""
    words = text.split()
    return " ".join(words[: len(words) // 2])


def main() -> None:
    """Reads the command line, and writes the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--rtp", type=Path, required=True, help="prompts, as jsonl")
    parser.add_argument("--hate", type=Path, nargs="+", required=True, help="texts, as jsonl")
    given = parser.parse_args()
    origins = {
        "rtp": [*read(given.rtp, "prompt")],
        "hate": [first_half(text) for file in given.hate for text in read(file, "text")],
    }
    random = Random(0)
    parts: dict[str, list[dict[str, str]]] = {part: [] for part in SIZES}
    for origin, texts in origins.items():
        distinct = [text for text in dict.fromkeys(texts) if 0 < len(text.split()) <= MOST_WORDS]
        random.shuffle(distinct)
        for part, size in SIZES.items():
            chosen = [text for text in distinct if part_of(text) == part][:size]
            parts[part] += [{"prompt": text, "origin": origin} for text in chosen]
    given.folder.mkdir(parents=True, exist_ok=True)
    for part, rows in parts.items():
        random.shuffle(rows)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (given.folder / f"{part}.jsonl").write_text(text, encoding="utf8")
        print(f"{part}: {len(rows)} prompts")


if __name__ == "__main__":
    main()
