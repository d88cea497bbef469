"""The interface of a family of language models, and what all families share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from detox_lightning.models.decoding.decoder import CachedDecoder, EncodedPrompts, deduplicate

HeadFunction = Callable[[Tensor, Tensor, Tensor | None], Any]
"""Replaces a model's head: a function of hidden states ``[m, t, d]``, the head's weight ``[V, d]``
and its bias ``[V]`` or None."""

# Settings with which models change their logits after the head. The logits of the dry run on two
# tokens may be too small to show the change.
LOGIT_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class Family(ABC):
    """A family of language models: how prompts and responses pass through its models.

    Attributes:
        auto_class: Class of ``transformers`` that opens the models.
        task_type: Name of the task in ``peft``.
        padding_side: Side on which prompts are padded.
        ends_prompts_with_eos: Whether a prompt keeps the EOS that its tokenizer appends.
        adds_special_tokens_to_answers: Whether answers to learn from get the tokenizer's special
            tokens, as a text of its own does.
        shares_positions: Whether a prompt and its response are numbered as one text.
    """

    auto_class: str
    task_type: str
    padding_side: Literal["left", "right"]
    ends_prompts_with_eos: bool
    adds_special_tokens_to_answers: bool
    shares_positions: bool

    @abstractmethod
    def forward(
        self,
        model: Any,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        response_ids: Tensor,
        prompts: EncodedPrompts | None = None,
        head: HeadFunction | None = None,
        deduplicate: bool = False,
    ) -> tuple[Any, Tensor]:
        """Runs the model over prompts and responses.

        Args:
            model: The language model.
            prompt_ids: ``[m, s]``, of at least one token each.
            prompt_mask: ``[m, s]``.
            response_ids: ``[m, t]``.
            prompts: The same prompts as :meth:`encode_prompts` returned them; None: they are
                encoded here.
            head: Replaces the model's head, and gets its whole weights even if the model is
                sharded; None: the model computes logits.
            deduplicate: Compute each distinct prompt once. Results may then differ from those of
                each row on its own by rounding.

        Returns:
            Logits ``[m, t, V]`` that predict the response tokens, or the result of ``head``; and
            the decoder's last hidden states ``[m, t, d]``.
        """

    def encode_prompts(self, model: Any, ids: Tensor, mask: Tensor) -> EncodedPrompts:
        """Computes what does not depend on the responses to prompts ``[b, s]``, equal ones once.

        Columns that are padding in all prompts are left out.
        """
        return deduplicate(ids, mask).to(ids.device)

    @abstractmethod
    def prefill(self, model: Any, prompts: EncodedPrompts) -> tuple[CachedDecoder, Tensor, Tensor]:
        """Takes the first decode step with the ``u`` distinct prompts.

        Returns the decoder, its logits ``[u, V]`` and its last hidden states ``[u, d]``.
        """

    def decode_texts(
        self, tokenizer: Any, prompts: EncodedPrompts, response_ids: Tensor
    ) -> list[str]:
        """Returns the responses ``[b, t]`` to prompts as text, without special tokens."""
        return list(tokenizer.batch_decode(response_ids, skip_special_tokens=True))

    @abstractmethod
    def strip_prompt(self, generated: Tensor, prompt_ids: Tensor) -> Tensor:
        """Returns the responses ``[b, t]`` in what ``generate`` made of prompts ``[b, s]``."""

    @abstractmethod
    def check_model(self, model: Any, name: str) -> None:
        """Checks that the family's methods can run a model, with or without an adapter.

        Raises:
            InputError: If they can't; its message gives the model's ``name``.
        """

    @torch.no_grad()
    def dry_run(self, model: Any, head: HeadFunction | None = None) -> Tensor:
        """Returns the logits ``[1, 2, V]`` of a prompt and a response of two tokens each."""
        two = torch.zeros(1, 2, dtype=torch.long, device=model.device)
        logits: Tensor = self.forward(model, two, torch.ones_like(two), two, head=head)[0]
        return logits

    def has_plain_head(self, model: Any) -> bool:
        """Returns whether a model's head is frozen and computes nothing but a linear function."""
        layer = model.get_output_embeddings()
        if not isinstance(layer, nn.Linear) or not layer.weight.is_floating_point():
            return False
        if any(parameter.requires_grad for parameter in layer.parameters()):
            return False
        config = model.config.get_text_config(decoder=True)
        if any(getattr(config, name, None) not in (None, 1) for name in LOGIT_SETTINGS):
            return False
        ours, theirs = self.dry_run(model, nn.functional.linear), self.dry_run(model)
        return torch.allclose(ours, theirs, rtol=1e-2, atol=1e-3)


def base_model(model: Any) -> Any:
    """Returns the transformers model inside a model's adapters, if it has any."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


@contextmanager
def replaced_head(model: Any, head: HeadFunction | None) -> Iterator[list[Any]]:
    """Replaces a model's linear head inside the block by ``head``, if that isn't None.

    Yields:
        A list to which each result of ``head`` is appended.
    """
    results: list[Any] = []
    if head is None:
        yield results
        return
    layer = model.get_output_embeddings()

    def forward(hidden: Tensor) -> Tensor:
        biases = [
            x for x in (layer.bias, getattr(model, "final_logits_bias", None)) if x is not None
        ]
        results.append(head(hidden, layer.weight, sum(biases).flatten() if biases else None))
        return hidden.new_zeros(1, 1)

    layer.forward = forward
    try:
        yield results
    finally:
        del layer.forward
