"""A sequence classifier that reads text."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from detox_lightning.errors import InputError
from detox_lightning.models.batching import (
    Text,
    distinct_texts,
    encode,
    group_by_length,
    padding_budget,
    token_limit,
)
from detox_lightning.models.classifier_heads import (
    MEANS,
    Head,
    check_head,
    doubt,
    guess_head,
    labels_of,
)
from detox_lightning.models.cutting import Cuts, fit
from detox_lightning.models.finite import refuse_broken_model
from detox_lightning.models.loading import (
    check_kind,
    check_vocabulary,
    load_config,
    load_model,
    load_tokenizer,
)
from detox_lightning.models.text_padding import mixes_padding, padded

TRIED = ["You are kind.", "You are kind, and it is good to see you here with all the others."]


class TextClassifier(nn.Module):
    """A frozen sequence classifier: texts in, logits out, in batches of similar length."""

    def __init__(
        self, model: str, batch_size: int = 64, head: Head | None = None, flag: str = "head"
    ):
        """Notes what to open; :meth:`load` opens it.

        Args:
            model: Hub id, local folder or ``demo:NAME``.
            batch_size: Texts classified at once.
            head: What its outputs are; None: what its config tells.
            flag: What names the head, for messages.
        """
        super().__init__()
        self.name = model
        self.batch_size = batch_size
        self.named_head = head
        self.flag = flag
        self.warned = False
        self.cuts = Cuts(model)
        self.model: Any = None
        self.tokenizer: Any = None
        self.slack: int | None = None  # of padding; None: what costs nothing
        self._last: tuple[tuple[list[str], list[str] | None], Tensor] | None = None

    @property
    def head(self) -> Head:
        """What the outputs are."""
        return self.named_head or guess_head(self.model.config)

    def describe_head(self) -> str:
        """A line on what the outputs are, and how to say otherwise."""
        how = "as named"
        if self.named_head is None:
            is_guess = doubt(self.model.config, self.labels) is not None
            whence = "a guess" if is_guess else "by its config"
            how = f"{whence}, {self.flag} would say otherwise"
        return f"{self.name}: {self.head}, {MEANS[self.head]} ({how})"

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of the outputs."""
        return labels_of(self.model.config, self.name)

    def load(self) -> None:
        """Opens model and tokenizer, once.

        Raises:
            InputError: If there is no such classifier, its tokenizer is another model's, or its
                labels or its head are none that can be.
        """
        if self.model is not None:
            return
        self.tokenizer = load_tokenizer(self.name)
        ending = "ForSequenceClassification"
        config = load_config(self.name)
        check_kind(self.name, config, (ending,), "classify texts", f"Roberta{ending}")
        self.model = load_model(f"AutoModel{ending}", self.name).requires_grad_(False)
        check_vocabulary(self.name, self.tokenizer, self.model)
        check_head(self.named_head, self.labels, self.name, self.flag)
        refuse_broken_model("the classifier", self.name, self.model)
        self.cuts.most = token_limit(self.model, self.tokenizer)
        tried = encode(self.tokenizer, TRIED, self.cuts.most)
        if all(tried) and mixes_padding(self.model, *tried):
            self.slack = 0

    def warn_guessed(self) -> None:
        """Says so once if it isn't known, but guessed, how an output becomes a probability."""
        if self.warned:
            return
        self.warned = True
        if self.named_head is None and (unsaid := doubt(self.model.config, self.labels)):
            warnings.warn(
                f"the config of the classifier {self.name!r} doesn't say {unsaid}, by {self.flag}",
                stacklevel=2,
            )

    def train(self, mode: bool = True) -> "TextClassifier":
        """Stays in eval mode."""
        return super().train(False)

    def label_index(self, label: str) -> int:
        """The output that belongs to a label.

        Raises:
            InputError: If the classifier has no such label.
        """
        if label not in self.labels:
            raise InputError(
                f"label {label!r}: the classifier {self.name!r} has the labels "
                f"{', '.join(self.labels)}"
            )
        return self.labels.index(label)

    @torch.no_grad()
    def forward(self, texts: list[str], prompts: list[str] | None = None) -> Tensor:
        """Classifies texts, equal ones once; the same texts as last time are not read again.

        White space at both ends is left out: a response that goes on with its prompt begins with a
        blank, and a text that stands alone doesn't. What is too long is cut, and said once.

        Args:
            texts: ``n`` texts; there may be none.
            prompts: What is read before each of them, as it stands there; where both are too long,
                the prompt's beginning is cut. None: nothing.

        Returns:
            ``[n, labels]`` logits, float32, in the order of ``texts``; the caller's own.
        """
        if self._last is None or self._last[0] != (texts, prompts):
            if prompts is None:
                logits = self._each([text.strip() for text in texts])
            else:
                logits = self._each(list(zip(prompts, texts, strict=True)))
            self._last = (list(texts), None if prompts is None else list(prompts)), logits
        return self._last[1].clone()

    def _each(self, texts: list[Text]) -> Tensor:
        distinct, rows = distinct_texts(texts)
        logits = self._classify(distinct)
        return logits[rows.to(logits.device)]

    def _classify(self, texts: list[Text]) -> Tensor:
        device = self.model.device
        pairs = [("", text) if isinstance(text, str) else text for text in texts]
        special = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        start = next((token for token in special if token is not None), 0)
        # an empty text may have no token at all
        encoded = [ids or [start] for ids in fit(self.tokenizer, pairs, self.cuts)]
        shape = len(texts), self.model.config.num_labels
        logits = torch.empty(shape, device=device, dtype=torch.float32)
        lengths = [len(ids) for ids in encoded]
        slack = padding_budget(self.model) if self.slack is None else self.slack
        for rows in group_by_length(lengths, slack, self.batch_size):
            with padded(self.model, [encoded[row] for row in rows]) as (ids, mask):
                output = self.model(input_ids=ids.to(device), attention_mask=mask.to(device))
            logits[torch.tensor(rows, device=device)] = output.logits.float()
        return logits

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self._last = None  # it is on the device, and of the precision, that is left
        return super()._apply(fn, recurse)
