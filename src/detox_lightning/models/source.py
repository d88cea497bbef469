"""Where a model to train comes from: a base, an adapter on it, or a checkpoint of another stage."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from detox_lightning.demo import locate
from detox_lightning.errors import InputError
from detox_lightning.models.adapters import (
    adapter_base,
    check_adapter_kind,
    read_checkpoint,
    restore_adapter,
    saved_part,
)
from detox_lightning.models.families.base import Family
from detox_lightning.models.families.decoder_only import DecoderOnly
from detox_lightning.models.families.encoder_decoder import EncoderDecoder
from detox_lightning.models.loading import (
    Weights,
    check_class,
    check_vocabulary,
    load_config,
    load_model,
    load_tokenizer,
)
from detox_lightning.models.lora import LoRA, add_lora, load_adapter
from detox_lightning.models.opening import find_file, open_by_name
from detox_lightning.models.special_tokens import complete_special_tokens
from detox_lightning.protocols import CHECKPOINT_KEY

VALUE_HEAD, CRITIC = "value_head.safetensors", "critic.safetensors"
LANGUAGE_MODELS = (  # endings of class names
    "CausalLM",
    "LMHeadModel",
    "ConditionalGeneration",
    "EncoderDecoderModel",
    "MTModel",
)
STATE_SPACE_MODELS = ("mamba", "rwkv")
PLAIN = Weights()


@dataclass(frozen=True)
class ModelSource:
    """Where a model to train comes from, and so which family and tokenizer it has.

    Attributes:
        base: Name of the base model, whose tokenizer is used.
        adapter: Name of the adapter to train further; None: the adapter is fresh, if there is one.
        checkpoint: Checkpoint of this package that holds the adapter; None: there is none.
        base_revision: Branch, tag or commit of the base.
        adapter_revision: Branch, tag or commit of the adapter.
        weights: How the base's weights are opened; its ``revision`` is one of these two.
    """

    base: str
    adapter: str | None = None
    checkpoint: str | None = None
    base_revision: str | None = None
    adapter_revision: str | None = None
    weights: Weights = PLAIN

    @classmethod
    def resolve(
        cls, name: str, adapter: str | None = None, weights: Weights = PLAIN
    ) -> "ModelSource":
        """Finds out what a name stands for, before any weights are opened.

        Args:
            name: A base model, an adapter, or a file ``*.ckpt`` of the supervised or PPO stage.
            adapter: An adapter whose base is ``name``.
            weights: How the base's weights are opened. The revision is that of ``name``; of a
                checkpoint it is the base's, by default the one that the checkpoint was made with.

        Raises:
            InputError: If the checkpoint isn't there or holds no adapter, or if two adapters are
                given.
        """
        revision = weights.revision
        if name.endswith(".ckpt"):
            if adapter is not None:
                raise InputError(
                    f"model.adapter={adapter}: the checkpoint {name} brings an adapter of its own; "
                    "give one of the two"
                )
            facts = read_checkpoint(name)[CHECKPOINT_KEY]
            base_revision = revision or facts.get("base_revision")
            return cls(facts["base"], checkpoint=name, base_revision=base_revision, weights=weights)
        base = adapter_base(name, revision)
        if base is None:
            return cls(name, adapter, base_revision=revision, weights=weights)
        if adapter is not None:
            raise InputError(
                f"model.adapter={adapter}: model.policy={name} is an adapter itself; give its base "
                f"there ({base.name})"
            )
        return cls(base.name, name, None, base.revision, revision, weights)

    @property
    def has_adapter(self) -> bool:
        """Whether there is an adapter already, which is trained further."""
        return self.adapter is not None or self.checkpoint is not None

    @property
    def tokenizer_options(self) -> dict[str, Any]:
        """Options with which the base's tokenizer and config are opened."""
        return {**self.weights.file_options, "revision": self.base_revision}

    @cached_property
    def config(self) -> Any:
        """The base's config."""
        return load_config(self.base, **self.tokenizer_options)

    @cached_property
    def family(self) -> Family:
        """The family of the base, by its config.

        Raises:
            InputError: If the base is no language model, or one without attention.
        """
        use = (
            "write text: give one such as T5ForConditionalGeneration, GPT2LMHeadModel or "
            "LlamaForCausalLM"
        )
        check_class(self.base, self.config, LANGUAGE_MODELS, use)
        kind = self.config.model_type
        if any(name in kind for name in STATE_SPACE_MODELS):
            raise InputError(
                f"the model {self.base!r} is of the kind {kind}, which keeps a state instead of "
                "attending to what came before: such models are not supported. Give one such as "
                "GPT-2, Llama or T5"
            )
        return EncoderDecoder() if self.config.is_encoder_decoder else DecoderOnly()

    def load_tokenizer(self) -> Any:
        """Opens the base's tokenizer, which pads on the family's side."""
        side = self.family.padding_side
        return load_tokenizer(self.base, padding_side=side, **self.tokenizer_options)

    def check_positions(self, prompt: int, responses: dict[str, int]) -> None:
        """Checks that the base has positions for the longest prompt and the longest response.

        Args:
            prompt: Tokens of the longest prompt.
            responses: Tokens of the longest response, by the flags that limit it.

        Raises:
            InputError: If the base has too few positions.
        """
        config = self.config.get_text_config(decoder=True)
        available = getattr(config, "max_position_embeddings", None)
        flag, response = max(responses.items(), key=lambda item: item[1])
        needed, held = max(prompt, response), "either"
        if self.family.shares_positions:
            needed, held = prompt + response, "both together"
        if available is not None and needed > available:
            raise InputError(
                f"data.max_prompt_tokens={prompt}, {flag}={response}: {self.base!r} has "
                f"{available} positions, which must hold {held}; lower them"
            )

    def load(
        self,
        lora: LoRA | None,
        device: torch.device | None = None,
        tokenizer: Any = None,
        with_reference: bool = False,
    ) -> Any:
        """Opens the model.

        Args:
            lora: The fresh adapter, unless there is an adapter already; None: all weights are
                trained.
            device: Where a quantized base goes, which can't move later; None: a GPU if there is
                one.
            tokenizer: Supplies special tokens that the model's configs lack; None: they stay as
                they are.
            with_reference: Whether a frozen copy of the adapter will be put beside it.

        Returns:
            A ``PeftModel`` whose adapter ``default`` is trainable, or a plain trainable model.

        Raises:
            InputError: If there is no such model or adapter, the tokenizer is another model's, or
                all weights are to be trained of a base that is quantized or not in float32.
        """
        if lora is None and not self.has_adapter:
            self.weights.check_trainable()
        if self.adapter is not None:
            check_adapter_kind(self.adapter, self.adapter_revision, with_reference)
        options = {**self.weights.options, "revision": self.base_revision, "device": device}
        model = base = load_model(self.family.auto_class, self.base, **options)
        if self.checkpoint is not None:
            model = restore_adapter(base, self.checkpoint)
        elif self.adapter is not None:
            model = load_adapter(base, self.adapter, self.adapter_revision)
        elif lora is not None:
            model = add_lora(base, lora, self.family.task_type)
        else:
            base.requires_grad_(True)
        if model is not base:  # programs that open the adapter later find its base here
            config = model.peft_config["default"]
            config.base_model_name_or_path = locate(self.base)
            config.revision = self.base_revision
        if tokenizer is not None:
            check_vocabulary(self.base, tokenizer, model)
            complete_special_tokens(model, tokenizer, self.base)
        self.family.check_model(model, self.base)
        return model

    def load_value_head(self, name: str = VALUE_HEAD) -> dict[str, torch.Tensor] | None:
        """Returns the parameters of the value head that was trained before, if one was.

        ``name`` is the file beside the adapter: :data:`VALUE_HEAD`, or :data:`CRITIC`.
        """
        from safetensors.torch import load_file

        if self.checkpoint is not None:
            return saved_part(self.checkpoint, Path(name).stem)

        def read(located: str, **options: Any) -> dict[str, torch.Tensor] | None:
            file = find_file(located, name, **options)
            return None if file is None else load_file(file)

        revision = self.base_revision if self.adapter is None else self.adapter_revision
        return open_by_name("value head of", self.adapter or self.base, read, revision=revision)
