"""All that differs between encoder-decoder and decoder-only models."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn


class Head(NamedTuple):
    """The matrix that makes logits of hidden states.

    Attributes:
        weight: ``[V, d]``.
        bias: ``[V]``, or None.
    """

    weight: Tensor
    bias: Tensor | None


class EncoderDecoder:
    """T5, BART, Pegasus: the prompt goes into the encoder, the response leaves the decoder."""

    auto_class = "AutoModelForSeq2SeqLM"
    task_type = "SEQ_2_SEQ_LM"
    padding_side: Literal["left", "right"] = "right"

    def forward(
        self,
        model: Any,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        response_ids: Tensor,
        encoded: Tensor | None = None,
        head: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Runs the model over prompts and responses.

        Args:
            model: The language model.
            prompt_ids: ``[m, s]``.
            prompt_mask: ``[m, s]``.
            response_ids: ``[m, t]``.
            encoded: ``[m, s, d]`` what the encoder says of the prompts; None: it is asked.
            head: Whether logits are made.

        Returns:
            Logits ``[m, t, V]`` that predict the response tokens, or what they are made of
            ``[m, t, d]``; and the decoder's last hidden states ``[m, t, d]``.
        """
        start = model.generation_config.decoder_start_token_id
        first = torch.full_like(response_ids[:, :1], start)
        with headless(model, not head) as given:
            output = model(
                input_ids=prompt_ids if encoded is None else None,
                encoder_outputs=None if encoded is None else (encoded,),
                attention_mask=prompt_mask,
                decoder_input_ids=torch.cat([first, response_ids[:, :-1]], dim=1),
                use_cache=False,
                output_hidden_states=True,
            )
        return given[0] if given else output.logits, output.decoder_hidden_states[-1]

    def head(self, model: Any) -> Head:
        """The model's head, which is linear.

        Args:
            model: The language model, that :meth:`has_plain_head`.
        """
        layer, more = model.get_output_embeddings(), getattr(model, "final_logits_bias", None)
        biases = [bias for bias in (layer.bias, more) if bias is not None]
        return Head(layer.weight, sum(biases).flatten() if biases else None)

    def has_plain_head(self, model: Any) -> bool:
        """Whether all that the model's head does is multiply and add, and nothing of it learns.

        Args:
            model: The language model.
        """
        layer = model.get_output_embeddings()
        if not isinstance(layer, nn.Linear) or not layer.weight.is_floating_point():
            return False
        if any(parameter.requires_grad for parameter in layer.parameters()):
            return False
        start = model.generation_config.decoder_start_token_id
        two = torch.full((1, 2), start, device=layer.weight.device)
        with torch.no_grad():
            logits, _ = self.forward(model, two, torch.ones_like(two), two)
            made_of, _ = self.forward(model, two, torch.ones_like(two), two, head=False)
        ours = nn.functional.linear(made_of, *self.head(model))
        return torch.allclose(ours, logits, rtol=1e-2, atol=1e-3)

    def responses(self, generated: Tensor, prompt_ids: Tensor) -> Tensor:
        """The response in what ``generate`` returned: all but the decoder start token."""
        return generated[:, 1:]


@contextmanager
def headless(model: Any, wanted: bool = True) -> Iterator[list[Tensor]]:
    """Inside the block, a model makes no logits.

    Args:
        model: From transformers.
        wanted: False: it makes them all the same.

    Yields:
        A list that gets what the head is given.
    """
    given: list[Tensor] = []
    if not wanted:
        yield given
        return
    layer = model.get_output_embeddings()

    def forward(hidden: Tensor) -> Tensor:
        given.append(hidden)
        return hidden.new_zeros(1, 1)

    layer.forward = forward
    try:
        yield given
    finally:
        del layer.forward
