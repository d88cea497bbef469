"""Perplexity of texts under a causal language model."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from detox_lightning.algorithm.logprobs import token_logprobs
from detox_lightning.algorithm.masks import mask_from_lengths
from detox_lightning.errors import InputError
from detox_lightning.models.batching import (
    CutCounter,
    common_prefix,
    distinct_texts,
    encode,
    group_by_length,
    padding_budget,
    token_limit,
)
from detox_lightning.models.loading import load_frozen


class Perplexity(nn.Module):
    """Negative log-likelihoods of texts, alone or after prompts, under a frozen causal model.

    The perplexity of texts is ``(nats.sum() / tokens.sum()).exp()`` of the results of
    :meth:`forward`.
    """

    def __init__(self, model: str, batch_size: int = 32):
        """Stores the model's name; :meth:`load` opens it.

        Args:
            model: Hub id, local folder or ``demo:NAME``.
            batch_size: Texts read at once.
        """
        super().__init__()
        self.name = model
        self.batch_size = batch_size
        self.cuts = CutCounter(model)
        self.start_token: Any = None
        self.model: Any = None
        self.tokenizer: Any = None

    def load(self) -> None:
        """Opens the model and its tokenizer, once."""
        if self.model is not None:
            return
        self.tokenizer, model = load_frozen("language model", self.name)
        special = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        self.start_token = next((token for token in special if token is not None), None)
        if self.start_token is None:
            raise InputError(
                f"perplexity under {self.name!r}: its tokenizer has neither BOS nor EOS, from "
                "which the first token is predicted; name another causal model"
            )
        self.cuts.max_tokens = token_limit(model, self.tokenizer)
        self.model = model

    def train(self, mode: bool = True) -> "Perplexity":
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, texts: list[str], prompts: list[str] | None = None) -> tuple[Tensor, Tensor]:
        """Reads ``n`` texts, each distinct one once, after their prompts, in float32.

        Only a text's own tokens count: the first is predicted from the prompt (without a prompt
        from BOS, or from EOS where the tokenizer has no BOS), and no EOS is expected after the
        last. Texts longer than the model's positions lose their end, prompts their beginning.

        Returns:
            ``[n]`` negative log-likelihoods of the whole texts, in nats, float32; and ``[n]``
            numbers of tokens they are sums over. An empty text is 0 nats of 0 tokens.
        """
        pairs = list(zip(prompts or [""] * len(texts), texts, strict=True))
        distinct, rows = distinct_texts(pairs)
        prompt_lengths, encoded = self._encode(distinct)
        lengths, device = [len(ids) for ids in encoded], self.model.device
        skipped, tokens = torch.tensor([prompt_lengths, lengths], dtype=torch.long, device=device)
        nats = torch.zeros(len(distinct), device=device, dtype=torch.float32)
        for batch in group_by_length(lengths, padding_budget(self.model), self.batch_size):
            nats[batch] = self._nats([encoded[row] for row in batch], skipped[batch])
        rows = rows.to(device)
        return nats[rows], (tokens - skipped)[rows]

    def _encode(self, pairs: list[tuple[str, str]]) -> tuple[list[int], list[list[int]]]:
        """Returns the numbers of prompt tokens, and the tokens of prompt and text together."""
        options: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
        alone = encode(self.tokenizer, [prompt for prompt, _ in pairs], **options)
        whole = encode(self.tokenizer, [prompt + text for prompt, text in pairs], **options)
        limit, cut_prompts, cut_texts = self.cuts.max_tokens, 0, 0
        prompt_lengths, encoded = [], []
        for prompt, ids in zip(alone, whole, strict=True):
            end = common_prefix(prompt, ids)  # a token made of prompt and text is the text's
            text = ids[end : end + limit]
            room = limit - len(text) if text else 0
            start = max(0, end - room)
            prompt_lengths.append(end - start)
            encoded.append(ids[start:end] + text)
            cut_prompts += bool(text and start)
            cut_texts += len(ids) - end > limit
        self.cuts.add(len(pairs), cut_prompts, cut_texts)
        return prompt_lengths, encoded

    def _nats(self, encoded: list[list[int]], skipped: Tensor) -> Tensor:
        """Returns ``[b]`` negative log-likelihoods of the tokens after the first ``skipped``.

        Texts are padded on the right, where a causal model doesn't look, so that positions count
        from the start of each text.
        """
        device = self.model.device
        if not any(encoded):
            return torch.zeros(len(encoded), device=device, dtype=torch.float32)
        tokens = pad_sequence(
            [torch.tensor(ids, dtype=torch.long) for ids in encoded], batch_first=True
        ).to(device)
        lengths = torch.tensor([len(ids) for ids in encoded], device=device)
        mask = mask_from_lengths(lengths, tokens.shape[1])
        first = torch.full_like(tokens[:, :1], self.start_token)
        with torch.autocast(device.type, enabled=False):  # it belongs to the policy
            output = self.model(
                input_ids=torch.cat([first, tokens[:, :-1]], dim=1),
                attention_mask=mask.long(),
                use_cache=False,
            )
        logprobs = token_logprobs(output.logits.float(), tokens)
        judged = mask & ~mask_from_lengths(skipped, tokens.shape[1])
        return -torch.where(judged, logprobs, 0).sum(dim=1)
