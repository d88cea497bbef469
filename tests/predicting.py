"""What two processes predict, for ``test_predictions.py``."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from detox_lightning.batches import PromptBatch
from detox_lightning.callbacks.predictions import PredictionsCallback
from detox_lightning.data.dialogue import DialogueDataModule
from toys import make_trainer

# one process gets three, the other two, and so one batch less
DIALOGUES = ["w4 w5", "w1", "w3", "w1", "w2 w2 w2"]


class Placed(LightningModule):
    """Says which process answers which prompt."""

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        pairs = zip(batch.prompts, batch.places.tolist(), strict=True)
        return [{"prompt": p, "place": place, "rank": self.global_rank} for p, place in pairs]


class Plain(LightningModule):
    """Says what it hears."""

    def predict_step(self, batch: list[str], batch_idx: int) -> list[str]:
        return batch


def predict(
    folder: Path, callback: PredictionsCallback, module: LightningModule, data: Any
) -> None:
    trainer = make_trainer(folder, callbacks=[callback], devices=2, strategy="ddp")
    trainer.predict(module, data)


def everything(folder: Path) -> None:
    """Both predictions, in one of the two processes."""
    data = DialogueDataModule(
        "none",
        tokenizer=str(folder / "tokenizer"),
        template="{dialogue}",
        predict_source=str(folder / "asked.txt"),
        batch_size=2,
    )
    predict(folder, PredictionsCallback(str(folder / "rows.jsonl")), Placed(), data)
    added = folder / "added.jsonl"
    added.write_text(json.dumps({"response": "mine"}))
    predict(folder, PredictionsCallback(str(added), append=True), Plain(), DataLoader(DIALOGUES))
