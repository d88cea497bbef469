"""GPT-2, Llama, Qwen, Gemma: prompt and response are one text, which the decoder goes on with."""

from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor

from detox_lightning.models.decoding.decoder import CachedDecoder, Prefill, Step, pairs
from detox_lightning.models.decoding.encoded_prompts import EncodedPrompts, deduplicate
from detox_lightning.models.families.headless import HeadFunction, replaced_head


class DecoderOnly:
    """See :class:`~detox_lightning.models.families.base.Family`.

    Prompts are padded on the left, so that each response follows its prompt at once; a token's
    position is its place in its own text, whatever the padding.
    """

    auto_class = "AutoModelForCausalLM"
    task_type = "CAUSAL_LM"
    padding_side: Literal["left", "right"] = "left"

    def forward(
        self,
        model: Any,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        response_ids: Tensor,
        prompts: EncodedPrompts | None = None,
        head: HeadFunction | None = None,
        share: bool = False,
    ) -> tuple[Any, Tensor]:
        """Runs the model over prompts, each with its response."""
        if prompts is not None:
            prompts = prompts.without_unused()
            if share and head and len(prompts.states) < len(response_ids):
                return self.shared(model, prompts, response_ids, head)
            prompt_ids, prompt_mask = prompts.expanded()
        before, after = prompt_ids.shape[1], response_ids.shape[1]
        mask = followed(prompt_mask, after)
        wanted = torch.arange(before - 1, before + after - 1, device=response_ids.device)
        with replaced_head(model, head) as given:
            output = model(
                input_ids=torch.cat([prompt_ids, response_ids], dim=1),
                attention_mask=mask.long(),
                **positions(model, mask),
                use_cache=False,
                logits_to_keep=wanted,
                output_hidden_states=True,
            )
        hidden = output.hidden_states[-1].index_select(1, wanted)
        return given[0] if given else output.logits, hidden

    def shared(
        self, model: Any, prompts: EncodedPrompts, response_ids: Tensor, head: HeadFunction
    ) -> tuple[Any, Tensor]:
        """As :meth:`forward`; each prompt is read once, and gradients flow through it.

        Args:
            model: The language model.
            prompts: ``u`` of them.
            response_ids: ``[m, t]``.
            head: Takes the place of the model's head.
        """
        from transformers import DynamicCache

        cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        mask = followed(prompts.mask[prompts.rows], response_ids.shape[1] - 1)
        places = {name: x[:, prompts.mask.shape[1] :] for name, x in positions(model, mask).items()}
        options: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        with replaced_head(model, lambda *x: x) as given:
            model(
                input_ids=prompts.states,
                attention_mask=prompts.mask.long(),
                **positions(model, prompts.mask),
                **options,
                logits_to_keep=1,
            )
            if response_ids.shape[1] > 1:
                cache.batch_select_indices(prompts.rows)
                rest = {"input_ids": response_ids[:, :-1], "attention_mask": mask.long()}
                model(**rest, **places, **options)
        (first, weight, bias), *others = given
        hidden = torch.cat([first[prompts.rows], *(x for x, _, _ in others)], dim=1)
        return head(hidden, weight, bias), hidden

    def read(self, model: Any, ids: Tensor, mask: Tensor) -> EncodedPrompts:
        """Prompts that will be read with the first step."""
        return deduplicate(ids, mask)

    def begin(self, model: Any, prompts: EncodedPrompts) -> Prefill:
        """Lets the decoder read the prompts, from whose last tokens the first are predicted."""
        steps = DecoderOnlySteps(model, prompts.mask[:, :0])
        logits, hidden = steps.take(prompts.states, prompts.mask)
        steps.select(prompts.rows)
        return Prefill(steps, logits[prompts.rows], hidden[prompts.rows])

    def texts(self, tokenizer: Any, prompts: EncodedPrompts, response_ids: Tensor) -> list[str]:
        """As they stand after their prompts: some tokenizers drop a text's first blank."""
        last = prompts.states[prompts.rows, -1:]
        before, both, alone = (
            tokenizer.batch_decode(ids, skip_special_tokens=True)
            for ids in (last, torch.cat([last, response_ids], dim=1), response_ids)
        )
        return [
            whole[len(prefix) :] if whole.startswith(prefix) else text  # a letter of both, in bytes
            for prefix, whole, text in zip(before, both, alone, strict=True)
        ]

    def positions(self, prompt: int, response: int) -> int:
        """They are one text."""
        return prompt + response

    def responses(self, generated: Tensor, prompt_ids: Tensor) -> Tensor:
        """The response in what ``generate`` returned: all but the prompt."""
        return generated[:, prompt_ids.shape[1] :]


class DecoderOnlySteps(CachedDecoder):
    """Steps of a decoder that is all there is."""

    def __init__(self, model: Any, mask: Tensor):
        """Has read nothing yet.

        Args:
            model: From transformers.
            mask: ``[r, 0]``.
        """
        from transformers import DynamicCache

        self.model = model
        self.cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        self.mask = mask.bool()

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Decoder`."""
        return self.take(tokens[:, None], torch.ones_like(tokens[:, None]).bool())

    def take(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Goes on with tokens; ``[r, n]``, and a mask that is True where they are real."""
        self.mask = torch.cat([self.mask, mask], dim=1)
        places = positions(self.model, self.mask)
        output = self.model(
            input_ids=ids,
            attention_mask=self.mask.long(),
            **{name: x[:, -ids.shape[1] :] for name, x in places.items()},
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            output_hidden_states=True,
        )
        return output.logits[:, -1], output.hidden_states[-1][:, -1]

    def select(self, rows: Tensor) -> None:
        """See :class:`Decoder`."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]

    @property
    def self_layers(self) -> list[Any]:
        """See :class:`CachedDecoder`."""
        return list(self.cache.layers)

    @property
    def cross_layers(self) -> list[Any]:
        """See :class:`CachedDecoder`; there is none."""
        return []

    def static_step(self) -> Step | None:
        """See :class:`CachedDecoder`; None where positions can't be told to the model."""
        from transformers import DynamicCache

        from detox_lightning.models.decoding.cache_layers import SlotLayer

        model = self.model
        if not takes_positions(model):
            return None

        def step(tokens: Tensor, place: Tensor, mask: Tensor, *kv: Tensor) -> Any:
            cache = DynamicCache()
            cache.layers = [SlotLayer(k, v, place) for k, v in pairs(kv)]
            output = model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=mask.eq(0).sum(dim=3)[:, 0] - 1,
                past_key_values=cache,
                use_cache=True,
                output_hidden_states=True,
            )
            return output.logits[:, -1], output.hidden_states[-1][:, -1]

        return step


def followed(mask: Tensor, tokens: int) -> Tensor:
    """A prompt's mask with its response's, whose padding is where no token that counts looks.

    Args:
        mask: ``[m, s]`` of prompts.
        tokens: Of the responses.
    """
    return torch.cat([mask.bool(), mask.new_ones(len(mask), tokens, dtype=torch.bool)], dim=1)


def positions(model: Any, mask: Tensor) -> dict[str, Tensor]:
    """Each token's place in its own text, as an argument of the model's.

    Args:
        model: From transformers.
        mask: ``[m, n]``, True at real tokens.

    Returns:
        ``position_ids`` ``[m, n]``; nothing where the model has no such argument (it may count by
        itself, as BLOOM does).
    """
    if not takes_positions(model):
        return {}
    return {"position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)}


def takes_positions(model: Any) -> bool:
    """Whether a model can be told the tokens' positions."""
    return "position_ids" in signature(model.forward).parameters
