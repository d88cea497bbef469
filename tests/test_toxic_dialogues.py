"""The script that puts toxic lines into dialogues."""

import json
import sys
from pathlib import Path

import pytest

from command import ROOT, module_of

DIALOGUE = "#Person1#: Hi.\n#Person2#: Hello, Jim.\n#Person1#: Bye."
NAMED = "Person1: Hi.\nPerson2: Hello, Jim.\nPerson1: Bye."
SPEAKERS = ("Person1", "Person2")


def write(file: Path, rows: list[dict[str, str]]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")


def read(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf8").splitlines()]


def test_dialogues_get_lines_and_keep_their_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"dialogue": DIALOGUE, "summary": "#Person1# meets Jim."}
    for split in ("train", "validation"):
        write(tmp_path / "dialogues" / f"{split}.jsonl", [short, {**short, "dialogue": "a " * 91}])
        pairs = [{"toxic": f"you {split} fool {i}"} for i in range(5)]
        write(tmp_path / "pairs" / f"{split}.jsonl", [*pairs, {"toxic": "see @you fool"}])
    texts = [{"text": f"what an idiot {i}", "label": "hate"} for i in range(50)]
    write(tmp_path / "texts.jsonl", [*texts, {"text": "what a nice day", "label": "neither"}])

    folders = [f"--dialogues={tmp_path}/dialogues", f"--pairs={tmp_path}/pairs"]
    words = ["script", f"{tmp_path}/new", *folders, f"--texts={tmp_path}/texts.jsonl"]
    monkeypatch.setattr(sys, "argv", words)
    script = module_of(ROOT / "docs" / "toxic_dialogues.py")
    script.main()

    said: dict[str, list[str]] = {}
    for split in ("train", "validation"):
        (row,) = read(tmp_path / "new" / "toxic" / f"{split}.jsonl")
        turns, new = row["dialogue"].split("\n"), row["said"]
        added = [turn for turn in turns if turn.partition(": ")[2] in new]
        assert "\n".join(turn for turn in turns if turn not in added) == NAMED
        assert len(added) == 2
        assert len({turn.partition(": ")[0] for turn in added}) == 1  # of one speaker
        assert row["summary"] == "Person1 meets Jim."
        assert row["repeating"] in {f"Person1 meets Jim. {x} says, {new[0]}" for x in SPEAKERS}
        clean = read(tmp_path / "new" / "clean" / f"{split}.jsonl")
        assert [x["dialogue"] for x in clean] == [NAMED, "a " * 91]
        said[split] = script.toxic_sentences(
            tmp_path / "pairs", tmp_path / "texts.jsonl", split=split
        )
    assert not {*said["train"]} & {*said["validation"]}
    # no sentence with a user's name, and none with another label
    assert {*said["train"], *said["validation"]} == {
        *(f"you {split} fool {i}" for split in said for i in range(5)),
        *(f"what an idiot {i}" for i in range(50)),
    }
