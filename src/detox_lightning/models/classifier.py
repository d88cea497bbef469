"""A sequence classifier that reads text."""

from typing import Any

import torch
from torch import Tensor, nn

from detox_lightning.errors import InputError
from detox_lightning.models.loading import load_model, load_tokenizer


class TextClassifier(nn.Module):
    """A frozen sequence classifier: texts in, logits out, in batches of similar length."""

    def __init__(self, model: str, batch_size: int = 64):
        """Notes what to open; :meth:`load` opens it.

        Args:
            model: Hub id, local folder or ``demo:NAME``.
            batch_size: Texts classified at once.
        """
        super().__init__()
        self.name = model
        self.batch_size = batch_size
        self.max_tokens = 0
        self.model: Any = None
        self.tokenizer: Any = None

    def load(self) -> None:
        """Opens model and tokenizer, once.

        Raises:
            InputError: If there is no such classifier.
        """
        if self.model is not None:
            return
        self.tokenizer = load_tokenizer(self.name)
        self.model = load_model("AutoModelForSequenceClassification", self.name).requires_grad_(
            False
        )
        self.max_tokens = _token_limit(self.model, self.tokenizer)

    def train(self, mode: bool = True) -> "TextClassifier":
        """Stays in eval mode."""
        return super().train(False)

    def label_index(self, label: str) -> int:
        """The output that belongs to a label.

        Raises:
            InputError: If the classifier has no such label.
        """
        labels = {name: index for index, name in self.model.config.id2label.items()}
        if label not in labels:
            raise InputError(
                f"label {label!r}: the classifier {self.name!r} has the labels {', '.join(labels)}"
            )
        return int(labels[label])

    @torch.no_grad()
    def forward(self, texts: list[str]) -> Tensor:
        """Classifies texts.

        Args:
            texts: ``n`` texts.

        Returns:
            ``[n, labels]`` logits, float32, in the order of ``texts``.
        """
        device = self.model.device
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        shape = len(texts), self.model.config.num_labels
        logits = torch.empty(shape, device=device, dtype=torch.float32)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            inputs = self.tokenizer.pad(
                {"input_ids": [encoded[i] for i in rows]}, return_tensors="pt", padding=True
            )
            output = self.model(
                input_ids=inputs["input_ids"].to(device),
                attention_mask=inputs["attention_mask"].to(device),
            )
            logits[torch.tensor(rows, device=device)] = output.logits.float()
        return logits


def _token_limit(model: Any, tokenizer: Any) -> int:
    """The shorter of what tokenizer and position embeddings allow."""
    config = model.config
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if "roberta" in config.model_type:
        positions -= (config.pad_token_id or 0) + 1
    return int(min(positions, tokenizer.model_max_length))
