"""T5, BART, Pegasus: the encoder gets the prompt, and the decoder writes the response."""

from typing import Any

import torch
from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.models.batching import group_by_length, padding_budget
from detox_lightning.models.decoding.decoder import (
    CachedDecoder,
    EncodedPrompts,
    Step,
    deduplicate,
    has_bert_decoder,
    nonpad_columns,
)
from detox_lightning.models.families.base import Family, HeadFunction, base_model, replaced_head
from detox_lightning.models.special_tokens import decoder_start


class EncoderDecoder(Family):
    """Models with an encoder and a decoder; prompts are padded on the right."""

    auto_class = "AutoModelForSeq2SeqLM"
    task_type = "SEQ_2_SEQ_LM"
    padding_side = "right"
    ends_prompts_with_eos = True
    adds_special_tokens_to_answers = True
    shares_positions = False

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
        """Runs the model; encoded prompts are deduplicated in any case."""
        from transformers.modeling_outputs import BaseModelOutput

        start = model.generation_config.decoder_start_token_id
        first = torch.full_like(response_ids[:, :1], start)
        states, prompt_mask = prompts.expanded() if prompts else (None, prompt_mask)
        # without a mask, T5Gemma hides the padding token from itself, but not in decode steps
        hides_padding = model.config.model_type == "t5gemma"
        with replaced_head(model, head) as results:
            output = model(
                input_ids=prompt_ids if states is None else None,
                encoder_outputs=None if states is None else BaseModelOutput(states),
                attention_mask=prompt_mask,
                decoder_input_ids=torch.cat([first, response_ids[:, :-1]], dim=1),
                decoder_attention_mask=torch.ones_like(response_ids) if hides_padding else None,
                use_cache=False,
                output_hidden_states=True,
            )
        return results[0] if results else output.logits, output.decoder_hidden_states[-1]

    def encode_prompts(self, model: Any, ids: Tensor, mask: Tensor) -> EncodedPrompts:
        """Runs the encoder over the distinct prompts, in groups of about equal length."""
        tokens, real, rows = deduplicate(ids, mask)
        hidden: Tensor | None = None
        for group in group_by_length(real.sum(dim=1).tolist(), padding_budget(model)):
            members = torch.tensor(group)[:, None]
            columns = nonpad_columns(real[group]).nonzero()[:, 0]
            inputs = tokens[members, columns], real[members, columns].long(), members, columns
            ids, mask, members, columns = (x.to(ids.device, non_blocking=True) for x in inputs)
            states = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
            if hidden is None:
                hidden = states.new_zeros(*tokens.shape, states.shape[2])
            hidden[members, columns] = states
        assert hidden is not None
        return EncodedPrompts(hidden, real, rows).to(ids.device)

    def prefill(self, model: Any, prompts: EncodedPrompts) -> tuple[CachedDecoder, Tensor, Tensor]:
        """Runs the decoder over the start token."""
        steps = _EncoderDecoderSteps(model, prompts.states, prompts.mask)
        start = model.generation_config.decoder_start_token_id
        return steps, *steps(torch.full_like(prompts.mask[:, 0], start, dtype=torch.long))

    def strip_prompt(self, generated: Tensor, prompt_ids: Tensor) -> Tensor:
        """Returns all but the decoder start token."""
        return generated[:, 1:]

    def check_model(self, model: Any, name: str) -> None:
        """Checks that the model has a decoder start token."""
        base = base_model(model)
        rows = base.config.get_text_config(decoder=True).vocab_size
        start = decoder_start(base)
        if not isinstance(start, int) or not 0 <= start < rows:
            raise InputError(
                f"the model {name!r} doesn't say which of its {rows} tokens its decoder begins "
                f"with (decoder_start_token_id: {start!r}): write it into its "
                "generation_config.json; T5's is its pad_token_id"
            )


class _EncoderDecoderSteps(CachedDecoder):
    """Decode steps of a decoder that attends to encoded prompts: states ``[r, s, d]`` and mask."""

    prompt_mask: Tensor

    def __init__(self, model: Any, states: Tensor, mask: Tensor):
        from transformers import EncoderDecoderCache

        super().__init__(model, mask[:, :0], mask.long())
        self.states = states
        self.caches = EncoderDecoderCache(self.cache, self.prompt_cache)

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = tokens[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(tokens).bool()], dim=1)
        return _run_cached(self.model, self.states, self.prompt_mask, tokens, self.caches)

    def select(self, rows: Tensor) -> None:
        """Keeps ``rows``, indices ``[b]``, in this order."""
        super().select(rows)
        # the cache holds their keys and values by now; only the shape is still used
        self.states = self.states[:1].expand(len(rows), -1, -1)

    def static_step(self) -> Step:
        """See :class:`CachedDecoder`; the masks are the responses' and the prompts'."""
        from transformers import EncoderDecoderCache

        from detox_lightning.models.decoding.cache_layers import static_cache

        model, width, dtype = self.model, self.states.shape[2], self.states.dtype
        is_bert = has_bert_decoder(model)  # whose own way to count positions can't be recorded

        def step(tokens: Tensor, place: Tensor, own_mask: Tensor, mask: Tensor, *kv: Tensor) -> Any:
            half = len(kv) // 2
            caches = EncoderDecoderCache(static_cache(kv[:half], place), static_cache(kv[half:]))
            # only the shape is used, but two parts of different widths project the values
            states = mask.new_zeros(1, mask.shape[3], width, dtype=dtype)
            states = states.expand(len(mask), -1, -1)
            options = {"decoder_attention_mask": own_mask}
            if is_bert:
                options["decoder_position_ids"] = place[None]
            return _run_cached(model, states, mask, tokens, caches, **options)

        return step


def _run_cached(
    model: Any, states: Tensor, mask: Tensor, tokens: Tensor, caches: Any, **options: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs the decoder over the next tokens ``[r, 1]``: their logits and last hidden states."""
    from transformers.modeling_outputs import BaseModelOutput

    output = model(
        encoder_outputs=BaseModelOutput(states),
        attention_mask=mask,
        decoder_input_ids=tokens,
        **options,
        past_key_values=caches,
        use_cache=True,
        output_hidden_states=True,
    )
    return output.logits[:, -1], output.decoder_hidden_states[-1][:, -1]
