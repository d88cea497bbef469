"""A sequence classifier that reads text."""

import warnings
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn

from detox_lightning.errors import InputError
from detox_lightning.models.batching import (
    CutCounter,
    classify_rows,
    distinct_texts,
    encode,
    encode_cut,
    group_by_length,
    mixes_padding,
    padding_budget,
    takes_broadcast_mask,
    token_limit,
)
from detox_lightning.models.classifier_heads import (
    HEAD_MEANINGS,
    Head,
    guess_head,
    labels_of,
    log_odds,
    open_question,
)
from detox_lightning.models.loading import check_vocabulary, load_frozen, load_judge_config
from detox_lightning.models.model_files import warn_once

OVERSHOOT = 0.5  # by which a regressor's value may leave the range from 0 to 1
PROBES = ["You are kind.", "You are kind, and it is good to see you here with all the others."]


class TextClassifier(nn.Module):
    """A frozen sequence classifier: texts in, logits out, in batches of similar length."""

    def __init__(
        self, model: str, batch_size: int = 64, head: Head | None = None, flag: str = "head"
    ):
        """Stores the model's name; :meth:`load` opens it.

        Args:
            model: Hub id, local folder or ``demo:NAME``.
            batch_size: Texts classified at once.
            head: Meaning of its outputs; None: according to its config.
            flag: Option that names the head, for messages.
        """
        super().__init__()
        self.name = model
        self.batch_size = batch_size
        self.named_head = head
        self.flag = flag
        self.cuts = CutCounter(model)
        self.model: Any = None
        self.tokenizer: Any = None
        self.mixes_padding = False  # then only texts of equal lengths share a batch
        self.broadcasts = False  # whether it takes a mask that is quicker
        self._last: tuple[list[tuple[str, str]], Tensor] | None = None

    @property
    def config(self) -> Any:
        """The model's config, for which its weights need not be open."""
        if self.model is None:
            return load_judge_config("classifier", self.name)
        return self.model.config

    @property
    def head(self) -> Head:
        """Meaning of the outputs."""
        return self.named_head or guess_head(self.config)

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of the outputs."""
        return labels_of(self.config, self.name)

    def describe_head(self) -> str:
        """Returns a line on the meaning of the outputs, and on the option that changes it."""
        reason = f"as {self.flag} says"
        if self.named_head is None:
            is_guess = open_question(self.model.config, self.labels) is not None
            source = "which is a guess" if is_guess else "as its config says"
            reason = f"{source} ({self.flag} sets it otherwise)"
        return f"{self.name} is read as {HEAD_MEANINGS[self.head]}, {reason}"

    def load(self) -> None:
        """Opens the model and its tokenizer, once.

        Raises:
            InputError: If there is no such classifier, its tokenizer is another model's, or its
                labels or its head are impossible.
        """
        if self.model is not None:
            return
        self.tokenizer, self.model = load_frozen("classifier", self.name)
        check_vocabulary(self.name, self.tokenizer, self.model)
        labels = self.labels
        if self.named_head not in (None, *get_args(Head)):
            raise InputError(
                f"{self.flag}={self.named_head}: choose from {', '.join(get_args(Head))}, or null"
            )
        if self.named_head == "softmax" and len(labels) == 1:
            raise InputError(
                f"{self.flag}=softmax: the classifier {self.name!r} has a single output, "
                f"{labels[0]}, that excludes no other; give sigmoid or value"
            )
        self.cuts.max_tokens = token_limit(self.model, self.tokenizer)
        probes = encode(self.tokenizer, PROBES, self.cuts.max_tokens)
        if all(probes):
            self.mixes_padding = mixes_padding(self.model, *probes)
            self.broadcasts = takes_broadcast_mask(self.model, *probes)

    def warn_guessed(self) -> None:
        """Warns once if the meaning of the outputs is a guess."""
        question = open_question(self.model.config, self.labels)
        if self.named_head is None and question:
            warn_once(
                f"the config of the classifier {self.name!r} doesn't say {question}, by {self.flag}"
            )

    def train(self, mode: bool = True) -> "TextClassifier":
        """Stays in eval mode."""
        return super().train(False)

    def label_index(self, label: str, flag: str = "label") -> int:
        """Returns the index of a label's output; raises InputError if there is no such label."""
        if label not in self.labels:
            raise InputError(
                f"{flag} {label!r}: the classifier {self.name!r} has the labels "
                f"{', '.join(self.labels)}"
            )
        return self.labels.index(label)

    def probability(self, logits: Tensor, index: int) -> Tensor:
        """Returns ``[n]`` probabilities of one label from logits ``[n, labels]``.

        A ``value`` is taken for the probability that it is meant to be, with a warning if it is a
        little outside of 0 to 1, as a regressor's is now and then.

        Raises:
            InputError: If a value is far from any probability.
        """
        if self.head != "value":
            return log_odds(logits, index, self.head).sigmoid()
        values = logits[:, index]
        outside = values[(values < 0) | (values > 1)]
        if len(outside):
            furthest = outside[(outside - 0.5).abs().argmax()].item()
            if not -OVERSHOOT <= furthest <= 1 + OVERSHOOT:
                raise InputError(
                    f"the classifier {self.name!r} gave the value {furthest:g} for a text, which "
                    f"is no probability (0 to 1): name a classifier, or give {self.flag}=sigmoid "
                    "if its values are log-odds"
                )
            warnings.warn(
                f"the classifier {self.name!r} gives values a little below 0 or above 1; they are "
                "taken as they are",
                stacklevel=2,
            )
        return values

    @torch.no_grad()
    def forward(self, texts: list[str], prompts: list[str] | None = None) -> Tensor:
        """Classifies texts in float32, each distinct one once; a repeated call reads none again.

        White space at both ends is left out: a response that continues its prompt begins with a
        blank, and a text that stands alone doesn't. Texts that are too long are cut, with a
        warning; of prompt and text, the prompt's beginning.

        Args:
            texts: ``n`` texts; ``n`` may be 0.
            prompts: Text that is read before each of them, white space included. None: nothing.

        Returns:
            ``[n, labels]`` logits, float32, which the caller may change.
        """
        if prompts is None:
            pairs = [("", text.strip()) for text in texts]
        else:
            pairs = list(zip(prompts, texts, strict=True))
        if self._last is None or self._last[0] != pairs:
            distinct, rows = distinct_texts(pairs)
            logits = self._classify(distinct)
            self._last = pairs, logits[rows.to(logits.device, non_blocking=True)]
        return self._last[1].clone()

    def _classify(self, pairs: list[tuple[str, str]]) -> Tensor:
        """Returns ``[n, labels]`` logits of ``n`` texts after their prompts."""
        device = self.model.device
        special = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        start = next((token for token in special if token is not None), 0)
        # an empty text may have no token at all
        encoded = [ids or [start] for ids in encode_cut(self.tokenizer, pairs, self.cuts)]
        shape = len(pairs), self.model.config.num_labels
        logits = torch.empty(shape, device=device, dtype=torch.float32)
        budget = 0 if self.mixes_padding else padding_budget(self.model)
        for rows in group_by_length([len(ids) for ids in encoded], budget, self.batch_size):
            with torch.autocast(device.type, enabled=False):  # it belongs to the policy
                batch = classify_rows(self.model, [encoded[row] for row in rows], self.broadcasts)
            logits[torch.tensor(rows).to(device, non_blocking=True)] = batch
        return logits

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self._last = None  # those logits stay on the old device, and of the old type
        return super()._apply(fn, recurse)
