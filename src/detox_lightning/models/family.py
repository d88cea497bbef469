"""All that differs between encoder-decoder and decoder-only models."""

from typing import Any, Literal

import torch
from torch import Tensor


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
    ) -> tuple[Tensor, Tensor]:
        """Runs the model over prompts and responses.

        Args:
            model: The language model.
            prompt_ids: ``[m, s]``.
            prompt_mask: ``[m, s]``.
            response_ids: ``[m, t]``.
            encoded: ``[m, s, d]`` what the encoder says of the prompts; None: it is asked.

        Returns:
            Logits ``[m, t, V]`` that predict the response tokens, and the decoder's last hidden
            states ``[m, t, d]``.
        """
        start = model.generation_config.decoder_start_token_id
        first = torch.full_like(response_ids[:, :1], start)
        output = model(
            input_ids=prompt_ids if encoded is None else None,
            encoder_outputs=None if encoded is None else (encoded,),
            attention_mask=prompt_mask,
            decoder_input_ids=torch.cat([first, response_ids[:, :-1]], dim=1),
            use_cache=False,
            output_hidden_states=True,
        )
        return output.logits, output.decoder_hidden_states[-1]

    def responses(self, generated: Tensor, prompt_ids: Tensor) -> Tensor:
        """The response in what ``generate`` returned: all but the decoder start token."""
        return generated[:, 1:]
