"""What a family is, and which one a model belongs to."""

from inspect import signature
from typing import Any, Literal, Protocol

from torch import Tensor

from detox_lightning.errors import InputError
from detox_lightning.models.decoding.decoder import Prefill
from detox_lightning.models.decoding.encoded_prompts import EncodedPrompts
from detox_lightning.models.families.decoder_only import DecoderOnly
from detox_lightning.models.families.encoder_decoder import EncoderDecoder
from detox_lightning.models.families.headless import HeadFunction
from detox_lightning.models.loading import load_config

WRITES = ("CausalLM", "LMHeadModel", "ConditionalGeneration", "EncoderDecoderModel", "MTModel")

WITHOUT_ATTENTION = ("mamba", "rwkv")


class Family(Protocol):
    """A kind of language model.

    Attributes:
        auto_class: Opens such models: ``AutoModelForSeq2SeqLM``, …
        task_type: peft's name of the task.
        padding_side: Where prompts are padded.
    """

    auto_class: str
    task_type: str
    padding_side: Literal["left", "right"]

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
        """Runs the model over prompts and responses.

        Args:
            model: The language model.
            prompt_ids: ``[m, s]``, of at least one token each.
            prompt_mask: ``[m, s]``.
            response_ids: ``[m, t]``.
            prompts: Those prompts as :meth:`read` gives them; None: they are read now.
            head: Takes the place of the model's head, whose weights are whole meanwhile even if
                the model is sharded; None: the model makes logits.
            share: Whether what is the same in several rows may be worked out once; rows then
                depend on each other by rounding.

        Returns:
            Logits ``[m, t, V]`` that predict the response tokens, or what ``head`` gave; and the
            decoder's last hidden states ``[m, t, d]``.
        """

    def read(self, model: Any, ids: Tensor, mask: Tensor) -> EncodedPrompts:
        """Lets a model read prompts as far as it can without the responses, equal ones once.

        Args:
            model: The language model.
            ids: ``[b, s]``.
            mask: ``[b, s]``.

        Returns:
            The prompts, without the columns that are padding to all of them.
        """

    def begin(self, model: Any, prompts: EncodedPrompts) -> Prefill:
        """Takes the first step of decoding, of equal prompts once.

        Args:
            model: The language model.
            prompts: From :meth:`read`.
        """

    def texts(self, tokenizer: Any, prompts: EncodedPrompts, response_ids: Tensor) -> list[str]:
        """Responses as text, special tokens left out.

        Args:
            tokenizer: The model's.
            prompts: ``b`` of them, from :meth:`read`.
            response_ids: ``[b, t]``.
        """

    def positions(self, prompt: int, response: int) -> int:
        """How many positions a model needs for a prompt and a response of so many tokens."""

    def responses(self, generated: Tensor, prompt_ids: Tensor) -> Tensor:
        """The response in what transformers' ``generate`` returned.

        Args:
            generated: ``[b, n]``.
            prompt_ids: ``[b, s]`` what it was given.
        """


def family_of(name: str, **options: Any) -> Family:
    """The family of a model, by its config alone.

    Args:
        name: Hub id, local folder or ``demo:NAME``.
        options: ``revision``, ``trust_remote_code``.

    Raises:
        InputError: If there is no such model, or it is none that writes text.
    """
    config = load_config(name, **options)
    kinds = config.architectures or []
    if kinds and not any(kind.endswith(WRITES) for kind in kinds):
        raise InputError(
            f"the model {name!r} is a {kinds[0]}, which doesn't write text: give a model such as "
            "T5ForConditionalGeneration, GPT2LMHeadModel or LlamaForCausalLM"
        )
    if any(kind in config.model_type for kind in WITHOUT_ATTENTION):
        raise InputError(
            f"the model {name!r} is of the kind {config.model_type}, which keeps a state instead "
            "of attending to what came before: such models are not supported. Give one such as "
            "GPT-2, Llama or T5"
        )
    return EncoderDecoder() if config.is_encoder_decoder else DecoderOnly()


def check_model(family: Family, model: Any, name: str) -> None:
    """Makes sure that a model is of the kind that its family knows.

    Args:
        family: Of the model.
        model: From transformers, or with an adapter on it.
        name: Its name, for the message.

    Raises:
        InputError: If it isn't.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    known = signature(base.forward).parameters
    if family.padding_side == "left" and "logits_to_keep" not in known:
        raise InputError(
            f"the model {name!r} is a {type(base).__name__}, a kind of decoder-only model that is "
            "not known here: its forward has no logits_to_keep. Give one such as GPT-2 or Llama"
        )
    if family.padding_side == "right":
        rows = base.config.get_text_config(decoder=True).vocab_size
        start = base.generation_config.decoder_start_token_id
        start = getattr(base.config, "decoder_start_token_id", None) if start is None else start
        if not isinstance(start, int) or not 0 <= start < rows:
            raise InputError(
                f"the model {name!r} doesn't say which of its {rows} tokens its decoder begins "
                f"with (decoder_start_token_id: {start!r}): write it into its "
                "generation_config.json; T5's is its pad_token_id"
            )


def check_positions(
    family: Family, name: str, prompt: int, responses: dict[str, int], **options: Any
) -> None:
    """Makes sure that a model has positions for the longest prompt and response.

    Args:
        family: Of the model.
        name: Hub id, local folder or ``demo:NAME``.
        prompt: Tokens of the longest prompt.
        responses: Of the longest response, by the flags that allow them.
        options: ``revision``, ``trust_remote_code``.

    Raises:
        InputError: If it hasn't.
    """
    config = load_config(name, **options).get_text_config(decoder=True)
    found = getattr(config, "max_position_embeddings", None)
    flag = max(responses, key=lambda flag: responses[flag])
    if found is not None and family.positions(prompt, responses[flag]) > found:
        raise InputError(
            f"data.max_prompt_tokens={prompt}, {flag}={responses[flag]}: {name!r} has {found} "
            f"positions, which must hold "
            f"{'both together' if family.padding_side == 'left' else 'either'}; lower them"
        )
