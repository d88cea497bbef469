"""What a stage of a language model tells others about it, before its weights are opened."""

from functools import cached_property
from typing import Any, Literal

from detox_lightning.models.adapter_checkpoint import adapter_facts
from detox_lightning.models.families.base import Family
from detox_lightning.models.loading import Weights
from detox_lightning.models.lora import LoRA
from detox_lightning.models.source import ModelSource


class LanguageModelStage:
    """The members of a :class:`~detox_lightning.protocols.Stage` that follow from a model's source.

    Attributes:
        model_name: The model to begin from: a base, an adapter or a checkpoint with an adapter.
        adapter: An adapter on that model; None if the name says all.
        weights: How the base's weights are opened.
        lora: The fresh adapter; None: all weights are trained, unless there is an adapter already.
    """

    labels = None
    model_name: str
    adapter: str | None
    weights: Weights
    lora: LoRA | None

    @cached_property
    def source(self) -> ModelSource:
        """Where the model comes from; found out when first needed, as it may ask the hub."""
        return ModelSource.resolve(self.model_name, self.adapter, self.weights)

    @property
    def family(self) -> Family:
        """The model's family."""
        return self.source.family

    @property
    def auto_class(self) -> str:
        """Name of the ``transformers`` class that opens the base."""
        return self.source.family.auto_class

    @property
    def padding_side(self) -> Literal["left", "right"]:
        """The side on which prompts are padded."""
        return self.source.padding_side

    @property
    def tokenizer_name(self) -> str:
        """The model whose tokenizer the data must use; an adapter's is its base's."""
        return self.source.base

    @property
    def tokenizer_options(self) -> dict[str, Any]:
        """Options with which the data must open that tokenizer."""
        return self.source.tokenizer_options

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is trained, and not the base."""
        return self.lora is not None or self.source.has_adapter

    @property
    def export_name(self) -> str:
        """Name of the folder that ``export`` writes: ``adapter`` or ``model``."""
        return "adapter" if self.has_adapter else "model"

    def origin(self, model: Any) -> dict[str, Any]:
        """Returns the facts by which a checkpoint tells its base and adapter from similar ones.

        Args:
            model: From ``transformers`` or ``peft``.
        """
        return {"base_revision": self.source.base_revision, "adapter": adapter_facts(model)}
