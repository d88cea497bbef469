"""docs/metrics.md against what is logged."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from detox_lightning.algorithm.constraint import Constraint
from detox_lightning.batches import PromptBatch
from detox_lightning.callbacks.collapse import CollapseCallback
from detox_lightning.data.encoding import pad
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.loading import load_tokenizer
from detox_lightning.models.lora import LoRA
from detox_lightning.modules import PPOModule
from detox_lightning.rewards import ClassifierReward

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
LOGGERS = PAGE.parent / "recipes" / "loggers.md"


def documented() -> set[str]:
    """Names in the first column of the page's tables."""
    cells = re.findall(r"^\| (`[^|]*) \|", PAGE.read_text(encoding="utf8"), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


@pytest.fixture(scope="module")
def logged(tiny_t5: Path, tiny_classifier: Path, tiny_encoder: str) -> dict[str, Any]:
    """Everything one rollout, its validation and a test log."""
    tokenizer = load_tokenizer(str(tiny_t5))
    texts = ["the cat sat", "a dog ran"]

    def collate(rows: list[str]) -> PromptBatch:
        ids, mask = pad(tokenizer(rows)["input_ids"], 0)
        return PromptBatch(ids, mask, ids, mask, rows, rows, torch.arange(len(rows)))

    def loader() -> Any:
        return DataLoader(texts, batch_size=2, collate_fn=collate)

    module = PPOModule(
        policy=str(tiny_t5),
        reward=ClassifierReward(str(tiny_classifier)),
        lora=LoRA(r=2),
        sampling=Sampling(max_new_tokens=4),
        mini_batch_size=2,
        constraint=Constraint(at_least=0.5),
        evaluation=EvaluationPlan(
            second_toxicity_model=str(tiny_classifier), similarity_model=tiny_encoder
        ),
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        callbacks=CollapseCallback(),
        max_epochs=1,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **quiet,
    )
    trainer.fit(module, loader(), loader())
    metrics = dict(trainer.callback_metrics)
    trainer.test(module, loader(), verbose=False)
    return metrics | dict(trainer.callback_metrics)


def test_page_names_all_that_is_logged(logged: dict[str, Any]) -> None:
    on_the_bar_only = {"kl", "score", "step"}
    sides = re.compile(r"^test/(greedy/)?(before|after|improvement)/")
    names = {sides.sub("test/", name) for name in logged} - on_the_bar_only
    names = {re.sub(r"^rewards/.*", "rewards/<name>", name) for name in names}
    # there is no language model here, no template, and one response to each prompt
    elsewhere = {"test/perplexity", "objective/frac_reward_zero_std", "test/win_rate"}
    elsewhere |= {"test/entities_kept", "test/entities_invented"}
    elsewhere |= {f"test/{name}" for name in ("sta", "sim", "fl", "j", "chrf")}  # of rewritings
    elsewhere |= {"test/effective_n/<judge>", "test/kl_ratio/<judge>"}
    assert names == documented() - elsewhere


def test_the_link_to_tensorboard_shows_the_four_curves(logged: dict[str, Any]) -> None:
    (link,) = re.findall(r"\]\((http://localhost:6006/.*)\)", LOGGERS.read_text(encoding="utf8"))
    (shown,) = parse_qs(urlsplit(link).query)["tagFilter"]
    found = {name for name in logged if re.search(shown, name)}
    assert found == {"objective/scores_mean", "objective/kl", "val/toxicity", "val/rougeL"}
