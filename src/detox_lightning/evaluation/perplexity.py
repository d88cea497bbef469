"""How surprising texts are to a causal language model."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from detox_lightning.algorithm.logprobs import token_logprobs
from detox_lightning.algorithm.masks import mask_from_lengths
from detox_lightning.errors import InputError
from detox_lightning.models.batching import (
    distinct_texts,
    encode,
    group_by_length,
    padding_budget,
    token_limit,
)
from detox_lightning.models.cutting import Cuts, shared
from detox_lightning.models.finite import refuse_broken_model
from detox_lightning.models.loading import (
    check_kind,
    load_config,
    load_model,
    load_tokenizer,
)


class Perplexity(nn.Module):
    """What a frozen causal language model thinks of texts, each read for itself or after a prompt.

    The perplexity of texts is ``(nats.sum() / tokens.sum()).exp()`` of what :meth:`forward` gives.
    """

    def __init__(self, model: str, batch_size: int = 32):
        """Notes what to open; :meth:`load` opens it.

        Args:
            model: Hub id, local folder or ``demo:NAME``.
            batch_size: Texts read at once.
        """
        super().__init__()
        self.name = model
        self.batch_size = batch_size
        self.cuts = Cuts(model)
        self.start = 0
        self.model: Any = None
        self.tokenizer: Any = None

    def load(self) -> None:
        """Opens model and tokenizer, once.

        Raises:
            InputError: If there is no such model, or it has no token that a text could begin after.
        """
        if self.model is not None:
            return
        self.tokenizer = load_tokenizer(self.name)
        self.start = _start_token(self.tokenizer, self.name)
        endings = ("CausalLM", "LMHeadModel")
        config = load_config(self.name)
        check_kind(self.name, config, endings, "write text alone", "GPT2LMHeadModel")
        self.model = load_model("AutoModelForCausalLM", self.name).requires_grad_(False)
        refuse_broken_model("the language model", self.name, self.model)
        self.cuts.most = token_limit(self.model, self.tokenizer)

    def train(self, mode: bool = True) -> "Perplexity":
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, texts: list[str], prompts: list[str] | None = None) -> tuple[Tensor, Tensor]:
        """Reads texts, equal ones once.

        A text is its own tokens alone: the first is predicted from its prompt (without one from
        BOS, or from EOS where the tokenizer has no BOS), and no EOS is expected after the last.
        Texts longer than the model's positions are cut; of prompts, the end is read that fits.

        Args:
            texts: ``n`` texts; there may be none.
            prompts: What each of them goes on from, as it stands before it, white space included;
                no token of it counts. None: nothing.

        Returns:
            ``[n]`` negative log-likelihoods of the whole texts, in nats, float32; and ``[n]``
            numbers of tokens they are sums over. An empty text is 0 nats of 0 tokens.
        """
        pairs = list(zip(prompts or [""] * len(texts), texts, strict=True))
        distinct, rows = distinct_texts(pairs)
        before, encoded = self._encode(distinct)
        device = self.model.device
        skipped = torch.tensor(before, dtype=torch.long, device=device)
        lengths = [len(ids) for ids in encoded]
        tokens = torch.tensor(lengths, dtype=torch.long, device=device)
        nats = torch.zeros(len(distinct), device=device, dtype=torch.float32)
        for batch in group_by_length(lengths, padding_budget(self.model), self.batch_size):
            nats[batch] = self._nats([encoded[place] for place in batch], skipped[batch])
        rows = rows.to(device)
        return nats[rows], (tokens - skipped)[rows]

    def _encode(self, pairs: list[tuple[str, str]]) -> tuple[list[int], list[list[int]]]:
        """How many tokens of each are the prompt's, and the tokens of prompt and text."""
        options: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
        alone = encode(self.tokenizer, [prompt for prompt, _ in pairs], None, **options)
        whole = encode(self.tokenizer, [prompt + text for prompt, text in pairs], None, **options)
        most, prompts, ends = self.cuts.most, 0, 0
        before, encoded = [], []
        for prompt, ids in zip(alone, whole, strict=True):
            own = shared(prompt, ids)  # a token that is made of both is the text's
            text = ids[own : own + most]
            room = most - len(text) if text else 0
            first = max(0, own - room)
            before.append(own - first)
            encoded.append(ids[first:own] + text)
            prompts += bool(text and first)
            ends += len(ids) - own > most
        self.cuts.add(len(pairs), prompts, ends)
        return before, encoded

    def _nats(self, encoded: list[list[int]], skipped: Tensor) -> Tensor:
        """``[b]`` negative log-likelihoods of the tokens that ``b`` texts have after the skipped.

        They are padded on the right, where a causal model doesn't look, so that the positions
        count from the start of each text.
        """
        device = self.model.device
        tokens = pad_sequence(
            [torch.tensor(ids, dtype=torch.long) for ids in encoded], batch_first=True
        ).to(device)
        if not tokens.shape[1]:
            return torch.zeros(len(encoded), device=device, dtype=torch.float32)
        lengths = torch.tensor([len(ids) for ids in encoded], device=device)
        mask = mask_from_lengths(lengths, tokens.shape[1])
        first = torch.full_like(tokens[:, :1], self.start)
        output = self.model(
            input_ids=torch.cat([first, tokens[:, :-1]], dim=1),
            attention_mask=mask.long(),
            use_cache=False,
        )
        logprobs = token_logprobs(output.logits.float(), tokens)
        judged = mask & ~mask_from_lengths(skipped, tokens.shape[1])
        return -torch.where(judged, logprobs, 0).sum(dim=1)


def _start_token(tokenizer: Any, name: str) -> int:
    """What the first token is predicted from."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise InputError(
        f"perplexity under {name!r}: its tokenizer has neither BOS nor EOS, from which the first "
        "token is predicted; name another causal model"
    )
