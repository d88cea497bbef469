"""A sentence encoder: texts in, vectors of their meaning out."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from detox_lightning.algorithm.masks import mask_from_lengths
from detox_lightning.models.batching import (
    CutCounter,
    distinct_texts,
    encode_cut,
    group_by_length,
    padding_budget,
    padding_id,
    token_limit,
)
from detox_lightning.models.loading import check_vocabulary, load_frozen


class SentenceEncoder(nn.Module):
    """A frozen encoder; a text's vector is the mean of its tokens' last hidden states."""

    def __init__(self, model: str, batch_size: int = 64):
        """Stores the model's name; :meth:`load` opens it.

        Args:
            model: Hub id, local folder or ``demo:NAME``.
            batch_size: Texts read at once.
        """
        super().__init__()
        self.name = model
        self.batch_size = batch_size
        self.cuts = CutCounter(model)
        self.model: Any = None
        self.tokenizer: Any = None

    def load(self) -> None:
        """Opens the model and its tokenizer, once."""
        if self.model is not None:
            return
        self.tokenizer, self.model = load_frozen("sentence encoder", self.name)
        check_vocabulary(self.name, self.tokenizer, self.model)
        self.cuts.max_tokens = token_limit(self.model, self.tokenizer)

    def train(self, mode: bool = True) -> "SentenceEncoder":
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, texts: list[str]) -> Tensor:
        """Encodes ``n`` texts in float32, each distinct one once; long ones lose their end.

        Returns:
            ``[n, d]`` vectors of length 1, for width ``d``.
        """
        distinct, rows = distinct_texts([("", text.strip()) for text in texts])
        # an empty text may have no token at all
        encoded = [ids or [0] for ids in encode_cut(self.tokenizer, distinct, self.cuts)]
        groups = group_by_length(
            [len(ids) for ids in encoded], padding_budget(self.model), self.batch_size
        )
        vectors = torch.cat([self._encode([encoded[row] for row in group]) for group in groups])
        places = torch.tensor([row for group in groups for row in group]).argsort()
        return vectors[places[rows].to(vectors.device)]

    def _encode(self, encoded: list[list[int]]) -> Tensor:
        """Returns ``[b, d]`` vectors of tokenized texts."""
        device = self.model.device
        pad = padding_id(self.model) or 0
        ids = pad_sequence([torch.tensor(row) for row in encoded], True, pad).to(device)
        lengths = torch.tensor([len(row) for row in encoded], device=device)
        mask = mask_from_lengths(lengths, ids.shape[1])
        with torch.autocast(device.type, enabled=False):  # it belongs to the policy
            hidden = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        means = torch.where(mask[..., None], hidden.float(), 0).sum(dim=1) / lengths[:, None]
        return normalize(means, dim=1)
