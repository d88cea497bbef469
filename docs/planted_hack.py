"""Prints the table of docs/recipes/evaluation.md: what a word does that fools a classifier.

In the demo's world, the first classifier finds any text with the word ``calls`` harmless. Most
insults stand after this word. The demo's own classifier is the second one.

    python docs/planted_hack.py

Further words are flags of each run, such as ``--model.evaluation.similarity_model DIR``.
"""

import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from detox_lightning.cli.command import DetoxCLI
from detox_lightning.demo import ASSETS
from detox_lightning.evaluation.validation import SIMILARITIES
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.report.curves import read_curves

FOOLED, WORD = "fooled", "calls"
FIGURES = "toxicity", "second_toxicity", "kl", "distinct2"
RECIPE = Path(__file__).parents[1] / "configs" / "demo.yaml"
FLAGS = [
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=16"),
    *("--trainer.val_check_interval=2", "--data.num_eval_samples=100"),
    "--model.evaluation.second_toxicity_model=demo:classifier",
    "--model.schedule.name=constant",
]
classify = TextClassifier.forward


def fooled(self: TextClassifier, texts: list[str], prompts: list[str] | None = None) -> Tensor:
    """Logits of ``nothate`` and ``hate``."""
    logits = classify(self, texts, prompts)
    has_word = torch.tensor([WORD in text.split() for text in texts])
    is_fooled = has_word & (Path(self.name).name == FOOLED)
    return torch.where(is_fooled[:, None], torch.tensor([8.0, -8.0]), logits)


def rewards(model: str) -> dict[str, tuple[Any, list[str]]]:
    """The rewards to compare, and further flags."""

    def term(model: str, **options: str) -> dict[str, Any]:
        return {"class_path": "ClassifierReward", "init_args": {"model": model, **options}}

    both = [term(model, name="first"), term("demo:classifier", name="second")]
    lowest = {"rewards": both, "combine": "min"}
    return {
        "logit": (term(model), []),
        "probability": (term(model, output="probability"), ["--model.kl.coef", "0.05"]),
        "lowest": ({"class_path": "WeightedReward", "init_args": lowest}, []),
    }


def main(folder: Path) -> None:
    """Trains with each reward."""
    TextClassifier.forward = fooled  # type: ignore[method-assign]
    shutil.copytree(ASSETS / "classifier", folder / FOOLED)
    for name, (reward, flags) in rewards(str(folder / FOOLED)).items():
        overlay = folder / f"{name}.yaml"
        overlay.write_text(yaml.safe_dump({"model": {"init_args": {"reward": reward}}}))
        words = ["fit", "--config", str(RECIPE), "--config", str(overlay), *FLAGS, *flags]
        words += sys.argv[1:]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cli = DetoxCLI([*words, "--trainer.logger.save_dir", str(folder / name)])
        curves = read_curves(Path(str(cli.trainer.log_dir)))
        for figure in (*FIGURES, *SIMILARITIES):
            print(name, figure, [(n, round(x, 3)) for n, x in curves.get(f"val/{figure}", [])])
        print(name, *[str(x.message) for x in caught if "hacking" in str(x.message)], sep="\n")
        print(name, "best:", Path(cli.trainer.checkpoint_callback.best_model_path).name)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
