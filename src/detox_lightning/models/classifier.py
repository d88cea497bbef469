"""A sequence classifier that reads text."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from detox_lightning.errors import InputError
from detox_lightning.models.loading import (
    check_kind,
    check_vocabulary,
    load_config,
    load_model,
    load_tokenizer,
)
from detox_lightning.models.texts import alike, distinct_texts, encode, free_padding, token_limit


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
        self._last: tuple[list[str], Tensor] | None = None

    def load(self) -> None:
        """Opens model and tokenizer, once.

        Raises:
            InputError: If there is no such classifier, or its tokenizer is another model's.
        """
        if self.model is not None:
            return
        self.tokenizer = load_tokenizer(self.name)
        ending = "ForSequenceClassification"
        config = load_config(self.name)
        check_kind(self.name, config, (ending,), "classify texts", f"Roberta{ending}")
        self.model = load_model(f"AutoModel{ending}", self.name).requires_grad_(False)
        check_vocabulary(self.name, self.tokenizer, self.model)
        self.max_tokens = token_limit(self.model, self.tokenizer)

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
        """Classifies texts, equal ones once; the same texts as last time are not read again.

        White space at both ends is left out: a response that goes on with its prompt begins with a
        blank, and a text that stands alone doesn't.

        Args:
            texts: ``n`` texts; there may be none.

        Returns:
            ``[n, labels]`` logits, float32, in the order of ``texts``; the caller's own.
        """
        if self._last is None or self._last[0] != texts:
            distinct, rows = distinct_texts([text.strip() for text in texts])
            logits = self._classify(distinct)
            self._last = list(texts), logits[rows.to(logits.device)]
        return self._last[1].clone()

    def _classify(self, texts: list[str]) -> Tensor:
        device = self.model.device
        encoded = encode(self.tokenizer, texts, self.max_tokens)
        shape = len(texts), self.model.config.num_labels
        logits = torch.empty(shape, device=device, dtype=torch.float32)
        lengths = [len(ids) for ids in encoded]
        for rows in alike(lengths, free_padding(self.model), self.batch_size):
            inputs = self.tokenizer.pad(
                {"input_ids": [encoded[i] for i in rows]}, return_tensors="pt", padding=True
            )
            output = self.model(
                input_ids=inputs["input_ids"].to(device),
                attention_mask=inputs["attention_mask"].to(device),
            )
            logits[torch.tensor(rows, device=device)] = output.logits.float()
        return logits

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self._last = None  # it is on the device, and of the precision, that is left
        return super()._apply(fn, recurse)
