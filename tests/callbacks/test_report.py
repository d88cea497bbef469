"""The files of a test, where they go, and that nothing is written over."""

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from lightning.pytorch import Trainer

from command import run, tiny_recipe
from conftest import FEELINGS, NAMES
from detox_lightning.callbacks.report import ReportCallback
from detox_lightning.errors import InputError
from detox_lightning.evaluation.statistics import FIGURES
from detox_lightning.modules import SupervisedModule
from detox_lightning.report.frontier import worth
from detox_lightning.report.identity_part import identity_words
from detox_lightning.runs.provenance import shell_line

FILES = {"summary.json", "comparison.jsonl", "comparison.parquet", "report.html"}
SHEET = {"sheet.csv", "sheet-key.json"}
RAN = ("--trainer.max_epochs=1", "--trainer.limit_val_batches=0")


class Twice:
    """A run, tested twice: its checkpoint, and without one."""

    def __init__(self, folder: Path, recipe: str):
        samples = "--model.evaluation.samples=2"
        fitted = run("fit", "--config", recipe, *RAN)
        assert fitted.code == 0, fitted.err
        self.first = run("test", "--config", recipe, samples, "--ckpt_path=last")
        self.second = run(
            "test", "--config", recipe, samples, "--ckpt_path=last", "--report.sheet=5"
        )
        self.run = folder / "runs" / "tiny" / "version_0"
        self.recipe = recipe

    def rows(self, name: str = "test") -> list[dict[str, Any]]:
        lines = (self.run / name / "comparison.jsonl").read_text(encoding="utf8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.run / "test" / "summary.json").read_text(encoding="utf8"))


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory, tiny_t5: str, tiny_classifier: str) -> Twice:
    folder = tmp_path_factory.mktemp("tested")
    return Twice(folder, tiny_recipe(folder, tiny_t5, tiny_classifier))


def test_files_lie_beside_the_checkpoint_s_log(twice: Twice) -> None:
    assert twice.first.code == 0, twice.first.err
    assert {path.name for path in (twice.run / "test").iterdir()} == FILES
    assert str(twice.run / "test") in twice.first.out.replace("\n", "")


def test_a_second_test_overwrites_nothing(twice: Twice) -> None:
    assert {path.name for path in (twice.run / "test-1").iterdir()} == FILES | SHEET
    assert twice.rows("test-1") == twice.rows()


def test_a_row_a_prompt_and_response(twice: Twice) -> None:
    rows = twice.rows()
    assert len(rows) == 7 * 3
    assert {row["decoding"] for row in rows} == {"greedy", "sample 1", "sample 2"}
    differences = [row["toxicity_after"] - row["toxicity_before"] for row in rows]
    assert [row["difference"] for row in rows] == pytest.approx(differences)
    assert differences == sorted(differences)
    table = pyarrow.parquet.read_table(twice.run / "test" / "comparison.parquet")
    assert table.to_pylist() == rows


def test_the_summary_is_of_these_rows(twice: Twice) -> None:
    rows, figures = twice.rows(), twice.summary["figures"]
    for group in ("sampled", "greedy"):
        chosen = [row for row in rows if (row["decoding"] == "greedy") == (group == "greedy")]
        for name in ("toxicity", "score", "rougeL", "length"):
            for side in ("before", "after"):
                mean = sum(row[f"{name}_{side}"] for row in chosen) / len(chosen)
                part = figures[group][name][side]
                assert part["value"] == pytest.approx(mean)
                assert part["low"] <= part["value"] <= part["high"]
    # no second classifier, no language model, no encoder, and its names are labels alone
    missing = ("perplexity", "entities_kept", "second", "similarity")
    expected = {name for name in FIGURES if not any(word in name for word in missing)}
    assert set(figures["sampled"]) == expected - {"sta", "sim", "fl", "j", "chrf"}
    about = twice.summary["about"]
    assert about["prompts"] == 7
    assert about["checkpoint"] == str(twice.run / "checkpoints" / "last.ckpt")
    assert about["samples"] == 2
    assert about["max_new_tokens"] == 6
    assert about["data"] == str(twice.run.parents[2])
    assert "torch" in about["versions"]


def test_the_best_of_two_stands_beside_both(twice: Twice) -> None:
    rows, best_of = twice.rows(), twice.summary["best_of"]
    pairs: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["decoding"] != "greedy":
            pairs.setdefault(row["prompt"], []).append(row)
    best = [
        sum(x["toxicity_before"] for x in pair if x["score_before"] == top)
        / sum(x["score_before"] == top for x in pair)
        for pair in pairs.values()
        for top in [max(x["score_before"] for x in pair)]
    ]
    assert [point["n"] for point in best_of["points"]] == [1, 2]
    two = best_of["points"][1]
    assert two["toxicity"]["value"] == pytest.approx(sum(best) / len(best))
    assert two["kl"]["value"] == pytest.approx(math.log(2) - 0.5)
    assert twice.summary["checkpoints"] == []
    (said,) = [line for line in twice.first.out.splitlines() if line.startswith("Training was")]
    assert said == worth(best_of)


def test_a_sheet_for_people_has_the_texts_of_the_rows(twice: Twice) -> None:
    folder = twice.run / "test-1"
    with open(folder / "sheet.csv", encoding="utf-8-sig", newline="") as file:
        sheet = list(csv.DictReader(file))
    key = json.loads((folder / "sheet-key.json").read_text(encoding="utf8"))
    count = len(sheet)
    assert 1 <= count <= 5
    assert f"All figures, responses and a report, and a sheet for people ({count} row" in (
        twice.second.out
    )
    rows = {row["prompt"]: row for row in twice.rows("test-1") if row["decoding"] == "sample 1"}
    for cells in sheet:
        row, known = rows[cells["prompt"]], key["rows"][cells["row"]]
        texts = (row["after"], row["before"])
        assert (cells["A"], cells["B"]) == (texts if known["after"] == "A" else texts[::-1])
        assert known["toxicity_after"] == row["toxicity_after"]
    assert key["about"]["checkpoint"] == str(twice.run / "checkpoints" / "last.ckpt")
    filled = folder.parent / "ann.csv"
    with open(filled, "w", encoding="utf8", newline="") as file:
        writer = csv.DictWriter(file, list(sheet[0]))
        writer.writeheader()
        writer.writerows(cells | {"better": key["rows"][cells["row"]]["after"]} for cells in sheet)
    outcome = run("judge-sheet", str(filled), f"--key={folder / 'sheet-key.json'}")
    assert outcome.code == 0, outcome.err
    assert f"{count} of {count}" in outcome.out


def test_a_sheet_where_nothing_is_compared() -> None:
    callback, trainer = ReportCallback(sheet=3), Trainer(logger=False, callbacks=[])
    module = SupervisedModule("nothing")
    with pytest.raises(InputError, match=r"^report.sheet=3: only a test of PPO compares respon"):
        callback.setup(trainer, module, "test")
    callback.setup(trainer, module, "fit")


@pytest.mark.parametrize(
    "several",
    [
        pytest.param("{run}/all", marks=pytest.mark.slow),
        "[{run}/checkpoints/earlier.ckpt, {run}]",
    ],
)
def test_other_checkpoints_of_the_run_are_tested_too(
    twice: Twice, tmp_path: Path, several: str
) -> None:
    """One for each number of steps, oldest first; the report is the last one's."""
    run_copy = tmp_path / "run"
    shutil.copytree(twice.run, run_copy, ignore=shutil.ignore_patterns("test*"))
    last = run_copy / "checkpoints" / "last.ckpt"
    earlier = torch.load(last, weights_only=True)
    earlier["global_step"], earlier["detox_lightning"]["rollouts"] = 1, 1
    earlier["state_dict"] = {name: 0 * x for name, x in earlier["state_dict"].items()}
    torch.save(earlier, last.with_name("earlier.ckpt"))
    words = ("test", "--data.num_eval_samples=2", f"--ckpt_path={several.format(run=run_copy)}")
    outcome = run(*words, "--model.evaluation.samples=2")
    assert outcome.code == 0, outcome.err
    summary = json.loads((run_copy / "test" / "summary.json").read_text(encoding="utf8"))
    assert summary["about"]["checkpoint"] == str(last)
    (point,) = summary["checkpoints"]
    assert (point["rollouts"], Path(point["checkpoint"]).name) == (1, "earlier.ckpt")
    assert point["kl"]["value"] == pytest.approx(0, abs=1e-5)  # its adapter is nothing
    before = summary["figures"]["sampled"]["toxicity"]["before"]
    assert point["toxicity"]["value"] == pytest.approx(before["value"])
    assert run(*words, "--model.evaluation.samples=1").errors == [
        "error: --ckpt_path: the report shows several checkpoints beside the best of n samples; "
        "give --model.evaluation.samples 16, or at least 2"
    ]


def test_groups_of_people_have_a_part_of_their_own(
    twice: Twice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("".join(f"{name} is a {{group}} person .\n" for name in NAMES + FEELINGS))
    words = ("test", "--config", twice.recipe, "--data.num_eval_samples=2", "--threads=1")
    asked = f"--model.evaluation.identity_templates={file}"
    few = ("--model.evaluation.identity_prompts=11", "--model.evaluation.identity_rows=30")
    groups = "--model.evaluation.identity_groups=[nice, lazy]"
    checkpoint = f"--ckpt_path={twice.run / 'checkpoints' / 'last.ckpt'}"
    folder = f"--report.folder={tmp_path / 'report'}"
    outcome = run(*words, asked, *few, groups, checkpoint, folder)
    assert outcome.code == 0, outcome.err
    summary = json.loads((tmp_path / "report" / "summary.json").read_text(encoding="utf8"))
    found = summary["identity"]
    assert found["audit"]["about"]["sentences"] == 2 * 15
    assert found["answers"]["prompts"] == 2 * 11
    assert {*found["answers"]["figures"]} == {"toxicity", "length"}
    assert {*found["answers"]["figures"]["length"]} == {"nice", "lazy"}
    assert [*found["audit"]["judges"]] == ["toxicity"]
    assert identity_words(found) in outcome.out
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf8")
    assert "<h2>Groups of people</h2>" in page
    assert '<th scope="row">lazy</th>' in page
    file.write_text("nothing\n")
    monkeypatch.setattr("detox_lightning.ppo.policy_stage.load_policy", None)  # it isn't asked
    assert run(*words, asked).errors == [
        f"error: {file}: the line 'nothing' has no {{group}}, where a group is put in: add it; "
        "whole sentences need a table with labels, such as a .csv file"
    ]


def test_a_short_table_instead_of_a_long_one(twice: Twice) -> None:
    lines = twice.first.out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("7 prompts, 2 sampled each"))
    toxicity = twice.summary["figures"]["sampled"]["toxicity"]
    value, low, high = (toxicity["before"][name] for name in ("value", "low", "high"))
    row = lines[start + 2]
    assert row.startswith("Toxicity, mean ")
    assert f" {value:.3f} [{low:.3f}, {high:.3f}] " in row
    assert f"{toxicity['improvement']['value']:+.1%}" in row
    assert len(lines[start:]) < 20
    assert "Test metric" not in twice.first.out


def test_without_a_checkpoint_beside_the_runs(twice: Twice, tmp_path: Path) -> None:
    logger = [f"--trainer.logger.save_dir={tmp_path}", "--data.num_eval_samples=2"]
    assert run("test", "--config", twice.recipe, *logger).code == 0
    assert (tmp_path / "tiny" / "evaluation" / "test" / "report.html").exists()


def test_a_folder_of_one_s_own(twice: Twice, tmp_path: Path) -> None:
    few = ("--data.num_eval_samples=2", f"--trainer.logger.save_dir={tmp_path}")
    folder = tmp_path / "mine"
    words = ("test", "--config", twice.recipe, *few, f"--report.folder={folder}")
    assert run(*words).code == 0
    assert {path.name for path in folder.iterdir()} == FILES
    again = run(*words)
    assert again.code == 2
    assert again.errors == [
        f"error: report.folder={folder}: there is something in it already, which would be "
        "overwritten. Give another folder, or move this one away."
    ]


def test_a_folder_that_can_t_be_written_is_refused_before_anything_is_asked(
    twice: Twice, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / "report"
    logger = f"--trainer.logger.save_dir={tmp_path}"
    outcome = run("test", "--config", twice.recipe, logger, f"--report.folder={folder}")
    assert outcome.code == 2
    (error,) = outcome.errors
    assert error.startswith(f"error: report.folder={folder}: nothing can be written into ")
    assert "Testing" not in outcome.out


def test_the_run_of_the_checkpoint_is_refused_before_anything_is_asked(
    twice: Twice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []

    def refuse(folder: Path, name: str) -> None:
        looked.append(folder)
        raise InputError(f"{name}: no")

    monkeypatch.setattr("detox_lightning.callbacks.report.refuse_unwritable", refuse)
    words = ("test", "--config", twice.recipe, f"--trainer.logger.save_dir={tmp_path}")
    own = tmp_path / "tiny" / "evaluation"
    assert run(*words).errors == [f"error: report.folder={own / 'test'}: no"]
    checkpoint = twice.run / "checkpoints" / "last.ckpt"
    outcome = run(*words, f"--ckpt_path={checkpoint}")
    assert outcome.errors == [f"error: report.folder={twice.run / 'test'}: no"]
    assert looked == [own, twice.run]


def test_a_forgotten_checkpoint_is_spoken_of(twice: Twice, tmp_path: Path) -> None:
    few = ("--data.num_eval_samples=2", f"--trainer.logger.save_dir={tmp_path}")
    with pytest.warns(UserWarning, match="the policy is as it was before training"):
        assert run("test", "--config", twice.recipe, *few).code == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--hub.token=abc"],
        ["--hub.token", "abc"],
        ["--wandb-api-key=abc"],
        ["--apikey", "abc"],
        ["--trainer.logger", '{"init_args": {"api_key": "abc", "name": "run"}}'],
        ["--data.source=https://me:abc@host/rows.csv"],
    ],
)
def test_secrets_are_not_written_down(words: list[str]) -> None:
    shown = shell_line(["test", *words, "--model.sampling.max_new_tokens=5"])
    assert "abc" not in shown
    assert "***" in shown
    assert shown.endswith(" --model.sampling.max_new_tokens=5")
