"""All that differs between encoder-decoder and decoder-only models."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

HeadFunction = Callable[[Tensor, Tensor, Tensor | None], Any]
"""Takes the head's place: from hidden states ``[m, t, d]``, its weight ``[V, d]`` and bias ``[V]``
or None."""


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
        head: HeadFunction | None = None,
    ) -> tuple[Any, Tensor]:
        """Runs the model over prompts and responses.

        Args:
            model: The language model.
            prompt_ids: ``[m, s]``.
            prompt_mask: ``[m, s]``.
            response_ids: ``[m, t]``.
            encoded: ``[m, s, d]`` what the encoder says of the prompts; None: it is asked.
            head: Takes the place of the model's head, whose weights are whole meanwhile even if
                the model is sharded; None: the model makes logits.

        Returns:
            Logits ``[m, t, V]`` that predict the response tokens, or what ``head`` gave; and the
            decoder's last hidden states ``[m, t, d]``.
        """
        from transformers.modeling_outputs import BaseModelOutput

        start = model.generation_config.decoder_start_token_id
        first = torch.full_like(response_ids[:, :1], start)
        with replaced_head(model, head) as given:
            output = model(
                input_ids=prompt_ids if encoded is None else None,
                encoder_outputs=None if encoded is None else BaseModelOutput(encoded),
                attention_mask=prompt_mask,
                decoder_input_ids=torch.cat([first, response_ids[:, :-1]], dim=1),
                use_cache=False,
                output_hidden_states=True,
            )
        return given[0] if given else output.logits, output.decoder_hidden_states[-1]

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
            given = model, two, torch.ones_like(two), two
            logits, _ = self.forward(*given)
            ours, _ = self.forward(*given, head=nn.functional.linear)
        return torch.allclose(ours, logits, rtol=1e-2, atol=1e-3)

    def responses(self, generated: Tensor, prompt_ids: Tensor) -> Tensor:
        """The response in what ``generate`` returned: all but the decoder start token."""
        return generated[:, 1:]


@contextmanager
def replaced_head(model: Any, head: HeadFunction | None) -> Iterator[list[Any]]:
    """Inside the block, something takes the place of a model's head.

    Args:
        model: From transformers; its head is linear.
        head: What; None: nothing does.

    Yields:
        A list that gets what ``head`` gives.
    """
    given: list[Any] = []
    if head is None:
        yield given
        return
    layer = model.get_output_embeddings()

    def forward(hidden: Tensor) -> Tensor:
        biases = [
            x for x in (layer.bias, getattr(model, "final_logits_bias", None)) if x is not None
        ]
        given.append(head(hidden, layer.weight, sum(biases).flatten() if biases else None))
        return hidden.new_zeros(1, 1)

    layer.forward = forward
    try:
        yield given
    finally:
        del layer.forward
