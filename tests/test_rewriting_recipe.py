"""The recipe that rewrites: its measures in all files of a test, and both ways to train."""

import json
from pathlib import Path

import pytest

from architectures import save_random
from command import ROOT, Outcome, run
from conftest import NAMES

RECIPE = ("--config", str(ROOT / "configs" / "rewrite.yaml"))
TOKENS = ("--config", str(ROOT / "configs" / "overlays" / "tokens.yaml"))


@pytest.fixture(scope="module")
def flags(
    tmp_path_factory: pytest.TempPathFactory, tiny_t5: str, tiny_classifier: str, tiny_encoder: str
) -> list[str]:
    """Pairs with several rewritings, and tiny models in place of the recipe's."""
    folder = tmp_path_factory.mktemp("rewriting")
    words = ["late", "bad", "rude", "lazy"]
    rows = [
        {
            "toxic": f"{name} is a {word} idiot",
            "neutral": f"{name} is {word}",
            "neutrals": [f"{name} is {word}", f"{name} : {word}"],
        }
        for name in NAMES
        for word in words
    ]
    pairs, listed = folder / "pairs.jsonl", folder / "words.txt"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    listed.write_text("idiot\n")
    language_model = save_random("GPT-2", folder / "gpt2")
    values = {
        "model.policy": tiny_t5,
        "model.sampling.max_new_tokens": 6,
        "model.mini_batch_size": 4,
        "model.evaluation.perplexity_model": language_model,
        "model.evaluation.delete_words": listed,
        "data.source": pairs,
        "data.summary_column": "neutrals",
        "data.test_fraction": 0.25,
        "data.batch_size": 2,
        "trainer.accelerator": "cpu",
        "trainer.logger.save_dir": folder / "runs",
        "trainer.enable_progress_bar": "false",
        "trainer.limit_train_batches": 2,
        "trainer.val_check_interval": 2,
    }
    return [f"--{name}={value}" for name, value in values.items()]


def judged_by(classifier: str, encoder: str) -> list[dict[str, object]]:
    """The reward's terms."""
    probability = {"model": classifier, "label": "nothate", "output": "probability"}
    return [
        {"class_path": "ClassifierReward", "init_args": probability},
        {"class_path": "SimilarityReward", "init_args": {"model": encoder}},
    ]


@pytest.fixture(scope="module")
def tested(
    flags: list[str],
    tmp_path_factory: pytest.TempPathFactory,
    tiny_classifier: str,
    tiny_encoder: str,
) -> tuple[Outcome, Path]:
    folder = tmp_path_factory.mktemp("tested") / "report"
    terms = json.dumps(judged_by(tiny_classifier, tiny_encoder))
    words = (*RECIPE, *flags, f"--model.reward.rewards={terms}")
    outcome = run("test", *words, "--model.evaluation.samples=0", f"--report.folder={folder}")
    assert outcome.code == 0, outcome.err
    return outcome, folder


def test_the_measures_are_in_the_summary(tested: tuple[Outcome, Path]) -> None:
    summary = json.loads((tested[1] / "summary.json").read_text(encoding="utf8"))
    rewriting, figures = summary["rewriting"], summary["figures"]["greedy"]
    measures = {"sta", "sim", "fl", "j", "chrf"}
    assert measures <= figures.keys()
    assert list(rewriting["baselines"]) == ["copy", "delete", "people"]
    assert all(row.keys() == measures for row in rewriting["baselines"].values())
    copy, people = rewriting["baselines"]["copy"], rewriting["baselines"]["people"]
    assert copy["sim"]["value"] == pytest.approx(1)
    assert people["fl"]["value"] == 7 / 8  # of eight, one lies above the 95th percentile
    assert 0 < people["chrf"]["value"] < 1
    lines = (tested[1] / "comparison.jsonl").read_text(encoding="utf8").splitlines()
    rows = [json.loads(line) for line in lines]
    greedy = [row for row in rows if row["decoding"] == "greedy"]
    products = [row["sta_after"] * max(row["sim_after"], 0) * row["fl_after"] for row in greedy]
    assert [row["j_after"] for row in greedy] == pytest.approx(products)
    assert figures["j"]["after"]["value"] == pytest.approx(sum(products) / len(products))
    assert [row["sta_after"] for row in rows] == [row["toxicity_after"] < 0.5 for row in rows]


def test_the_table_stands_in_the_terminal_and_on_the_page(tested: tuple[Outcome, Path]) -> None:
    shown = tested[0].out.splitlines()
    start = next(place for place, line in enumerate(shown) if line.startswith("Rewriting"))
    assert shown[start].split() == ["Rewriting", "STA", "SIM", "FL", "J", "chrF"]
    systems = ["the text as it is", "without the listed words", "before training"]
    systems += ["after training", "people's rewriting"]
    for system, line in zip(systems, shown[start + 1 :], strict=False):
        assert line.startswith(system)
        assert len(line.removeprefix(system).split()) == 5
    page = (tested[1] / "report.html").read_text(encoding="utf8")
    assert '<section id="rewriting">' in page
    assert "the 95th percentile of people’s rewritings" in page


@pytest.mark.slow
@pytest.mark.parametrize("overlay", [(), TOKENS], ids=["whole", "tokens"])
def test_the_recipe_trains(
    overlay: tuple[str, ...], flags: list[str], tiny_classifier: str, tiny_encoder: str
) -> None:
    terms = json.dumps(judged_by(tiny_classifier, tiny_encoder))
    where = "--model.reward.reward.rewards" if overlay else "--model.reward.rewards"
    outcome = run("fit", *RECIPE, *overlay, *flags, f"{where}={terms}", "--trainer.fast_dev_run=1")
    assert outcome.code == 0, outcome.err
