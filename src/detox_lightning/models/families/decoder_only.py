"""GPT-2, Llama, Qwen, Gemma: prompt and response are one text, which the decoder continues."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.models.decoding.decoder import CachedDecoder, EncodedPrompts, Step
from detox_lightning.models.families.base import Family, HeadFunction, base_model, replaced_head


class DecoderOnly(Family):
    """Models without an encoder.

    Prompts are padded on the left, so that each response directly follows its prompt. A token's
    position is its place in its own text, whatever the padding.
    """

    auto_class = "AutoModelForCausalLM"
    task_type = "CAUSAL_LM"
    padding_side = "left"
    ends_prompts_with_eos = False
    adds_special_tokens_to_answers = False
    shares_positions = True

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
        """Runs the model over prompts, each followed by its response."""
        if prompts is not None:
            prompts = prompts.without_unused()
            if deduplicate and head and len(prompts.states) < len(response_ids):
                return _forward_deduplicated(model, prompts, response_ids, head)
            prompt_ids, prompt_mask = prompts.expanded()
        before, after = prompt_ids.shape[1], response_ids.shape[1]
        mask = torch.cat([prompt_mask.bool(), torch.ones_like(response_ids).bool()], dim=1)
        predicting = torch.arange(before - 1, before + after - 1, device=response_ids.device)
        with replaced_head(model, head) as results:
            output = model(
                input_ids=torch.cat([prompt_ids, response_ids], dim=1),
                attention_mask=mask.long(),
                **_positions(model, mask),
                use_cache=False,
                logits_to_keep=predicting,
                output_hidden_states=True,
            )
        hidden = output.hidden_states[-1].index_select(1, predicting)
        return results[0] if results else output.logits, hidden

    def prefill(self, model: Any, prompts: EncodedPrompts) -> tuple[CachedDecoder, Tensor, Tensor]:
        """Runs the decoder over the prompts, whose last tokens predict the first of responses."""
        steps = _DecoderOnlySteps(model, prompts.mask[:, :0])
        return steps, *steps.extend(prompts.states, prompts.mask)

    def decode_texts(
        self, tokenizer: Any, prompts: EncodedPrompts, response_ids: Tensor
    ) -> list[str]:
        """Decodes responses after their prompts: some tokenizers drop a text's first blank."""
        ids = torch.cat([prompts.states[prompts.rows, -1:], response_ids], dim=1).cpu()
        before, both, alone = (
            tokenizer.batch_decode(part, skip_special_tokens=True)
            for part in (ids[:, :1], ids, ids[:, 1:])
        )
        return [  # the prefix differs where prompt and response share the bytes of a letter
            whole[len(prefix) :] if whole.startswith(prefix) else text
            for prefix, whole, text in zip(before, both, alone, strict=True)
        ]

    def strip_prompt(self, generated: Tensor, prompt_ids: Tensor) -> Tensor:
        """Returns all but the prompt."""
        return generated[:, prompt_ids.shape[1] :]

    def check_model(self, model: Any, name: str) -> None:
        """Checks that the model can be told which logits to compute."""
        base = base_model(model)
        if "logits_to_keep" not in signature(base.forward).parameters:
            raise InputError(
                f"the model {name!r} is a {type(base).__name__}, a kind of decoder-only model that "
                "is not supported: its forward has no logits_to_keep. Give one such as GPT-2 or "
                "Llama"
            )


class _DecoderOnlySteps(CachedDecoder):
    """Decode steps of a model without an encoder, with a mask ``[r, 0]`` at first."""

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.extend(tokens[:, None], torch.ones_like(tokens[:, None]).bool())

    def extend(self, ids: Tensor, mask: Tensor, logits_to_keep: int = 1) -> tuple[Tensor, Tensor]:
        """Processes tokens ``[r, n]``, which are real where the mask is True.

        The head gets the last ``logits_to_keep`` of them; 0: all.
        """
        self.mask = torch.cat([self.mask, mask], dim=1)
        positions = _positions(self.model, self.mask)
        positions = {name: x[:, -ids.shape[1] :] for name, x in positions.items()}
        return _run_cached(
            self.model, ids, self.mask.long(), self.cache, logits_to_keep, **positions
        )

    def static_step(self) -> Step | None:
        """See :class:`CachedDecoder`; None where positions can't be told to the model."""
        from detox_lightning.models.decoding.cache_layers import static_cache

        model = self.model
        if not _takes_positions(model):
            return None

        def step(tokens: Tensor, place: Tensor, mask: Tensor, *kv: Tensor) -> Any:
            positions = mask.eq(0).sum(dim=3)[:, 0] - 1
            cache = static_cache(kv, place)
            return _run_cached(model, tokens, mask, cache, position_ids=positions)

        return step


def _run_cached(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    cache: Any,
    logits_to_keep: int = 1,
    **positions: Tensor,
) -> tuple[Tensor, Tensor]:
    """Runs the model over tokens that follow a cache's: the last one's logits and hidden states."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        **positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=logits_to_keep,
        output_hidden_states=True,
    )
    return output.logits[:, -1], output.hidden_states[-1][:, -1]


def _forward_deduplicated(
    model: Any, prompts: EncodedPrompts, response_ids: Tensor, head: HeadFunction
) -> tuple[Any, Tensor]:
    """Computes each distinct prompt once; gradients flow through its cached keys and values."""
    steps = _DecoderOnlySteps(model, prompts.mask[:, :0])
    with replaced_head(model, lambda *x: x) as results:
        steps.extend(prompts.states, prompts.mask)
        if response_ids.shape[1] > 1:
            steps.select(prompts.rows)
            read = response_ids[:, :-1]
            steps.extend(read, torch.ones_like(read).bool(), logits_to_keep=0)
    (first, weight, bias), *others = results
    hidden = torch.cat([first[prompts.rows], *(x for x, _, _ in others)], dim=1)
    return head(hidden, weight, bias), hidden


def _positions(model: Any, mask: Tensor) -> dict[str, Tensor]:
    """The argument ``position_ids`` ``[m, n]``; none for models that lack it, such as BLOOM."""
    if not _takes_positions(model):
        return {}
    return {"position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)}


def _takes_positions(model: Any) -> bool:
    return "position_ids" in signature(model.forward).parameters
