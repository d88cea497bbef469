"""What the training stages have in common."""

import inspect
import math
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric
from typing_extensions import Self

from detox_lightning.arguments import as_name, as_options
from detox_lightning.batches import LabeledBatch, PromptBatch
from detox_lightning.errors import InputError
from detox_lightning.evaluation.agreement import Agreement
from detox_lightning.models.adapters import adapter_facts
from detox_lightning.models.families.base import Family
from detox_lightning.models.loading import Weights
from detox_lightning.models.lora import LoRA
from detox_lightning.models.precision import check_finite_model
from detox_lightning.models.saving import save_model
from detox_lightning.models.source import ModelSource
from detox_lightning.protocols import data_of
from detox_lightning.runs.checkpoint_reading import open_checkpoint
from detox_lightning.seeding import derive_seed, global_seed
from detox_lightning.stages.checkpoint import load_stage, save_stage
from detox_lightning.stages.faults import CAUSES_ELSEWHERE, Faults
from detox_lightning.stages.optimization import (
    Schedule,
    build_schedule,
    fuse_steps,
    naming_option,
    trainable_parameters,
)
from detox_lightning.stages.strategy import not_shardable


class StageModule(LightningModule):
    """The members of a :class:`~detox_lightning.protocols.Stage` that all stages have.

    Attributes:
        model_name: The model to begin from: a base, an adapter or a checkpoint with an adapter.
        adapter: An adapter on that model; None if the model's name is enough.
        weights: How the base's weights are opened.
        lora: The fresh adapter; None: all weights are trained, unless there is an adapter already.
        tokenizer: The model's; None before it is opened.
    """

    stage_name: str
    labels: list[str] | None = None
    learns_scores = False
    adapter: str | None = None
    lora: LoRA | None = None

    def __init__(
        self,
        model_name: str,
        weights: Weights,
        make_optimizer: OptimizerCallable,
        schedule: Schedule,
        max_faults: int,
    ):
        super().__init__()
        self.strict_loading = False
        self.model_name = as_name(model_name, "model")
        self.weights = as_options(Weights, weights, "weights")
        self.make_optimizer = make_optimizer
        self.schedule = as_options(Schedule, schedule, "schedule")
        self.faults = Faults(max_faults)
        self.tokenizer: Any = None

    def save_hyperparameters(self, *names: Any, frame: Any = None, **options: Any) -> None:
        """Saves the constructor's arguments; those that no file can hold are left out silently."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attribute '.*' (is an instance|removed from)")
            frame = frame or inspect.currentframe().f_back  # type: ignore[union-attr]
            super().save_hyperparameters(*names, frame=frame, **options)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, **options: Any) -> Self:  # type: ignore[override]
        """Opens a checkpoint's model; ``options`` are arguments of the constructor.

        A checkpoint of a run that Python began holds no reward, optimizer, loss and advantage: give
        the reward, and if they aren't the default ones the others.

        Raises:
            InputError: If there is no such checkpoint, it doesn't fit, or the reward is missing.
        """
        file = Path(checkpoint_path)
        kept = open_checkpoint(file).get(cls.CHECKPOINT_HYPER_PARAMS_KEY, {})
        if "_instantiator" not in kept:  # else the command line's parser makes them
            options = {"reward": None, "loss": None, "advantage": None, **options}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found keys that are in the model state dict")
            return super().load_from_checkpoint(file, **{"weights_only": True, **options})

    def prompts_of(self, texts: list[str], data: Any) -> PromptBatch:
        """Opens the model, and makes prompts of texts; ``data`` is None for the trainer's.

        Raises:
            InputError: If there is no data module of prompts, or a text is empty.
        """
        data = data or data_of(self._trainer)
        if not hasattr(data, "encode_texts"):
            raise InputError(
                "answer: the prompts of texts are made by a data module, such as a "
                "DialogueDataModule: give it as answer(texts, data)"
            )
        self.configure_model()
        rows = data.encode_texts([texts] if isinstance(texts, str) else list(texts), self)
        if cut := sum(row["cut"] for row in rows):
            rank_zero_info(f"{cut} {data.truncation_note.format(data.max_prompt_tokens)}")
        moved: PromptBatch = self.transfer_batch_to_device(data.batch_of(rows), self.device, 0)
        return moved

    @cached_property
    def source(self) -> ModelSource:
        """Where the model comes from; resolved on first use, as this may contact the hub."""
        return ModelSource.resolve(self.model_name, self.adapter, self.weights)

    @property
    def agreement(self) -> Mapping[str, Agreement]:
        """By label, how well scores agreed with the data's; empty, as only a judge has scores."""
        return {}

    @property
    def family(self) -> Family | None:
        """The language model's family; None for a classifier."""
        return self.source.family

    @property
    def auto_class(self) -> str:
        """Name of the ``transformers`` class that opens the model."""
        return self.source.family.auto_class

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is trained, and not the base."""
        return self.lora is not None or self.source.has_adapter

    @property
    def export_name(self) -> str:
        """Name of the folder that ``export`` writes: ``adapter`` or ``model``."""
        return "adapter" if self.has_adapter else "model"

    @property
    def root_device(self) -> torch.device | None:
        """The trainer's device; None without a trainer."""
        return None if self._trainer is None else self._trainer.strategy.root_device

    def origin(self, model: Any) -> dict[str, Any]:
        """Returns facts about the base and the adapter of a model of ``transformers`` or ``peft``.

        They show whether a checkpoint belongs to this base and this kind of adapter.
        """
        return {"base_revision": self.source.base_revision, "adapter": adapter_facts(model)}

    def parameter_groups(self) -> list[Any]:
        """Returns what the optimizer gets: parameters, or groups of them with their options."""
        return trainable_parameters(self)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Returns the optimizer and its schedule; InputError if the optimizer can't be made."""
        with naming_option():
            optimizer = self.make_optimizer(self.parameter_groups())
        fuse_steps(optimizer)
        scheduler = build_schedule(
            optimizer, self.schedule, self.trainer.estimated_stepping_batches
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def say_what_learns(learning: int, total: int) -> None:
    """Prints how many of a model's parameters are trained."""
    rank_zero_info(f"{learning:,} of {total:,} parameters learn ({100 * learning / total:.1f} %)")


class AutomaticStage(StageModule):
    """A stage whose optimizer steps Lightning takes: the supervised and the reward stage.

    Attributes:
        model: The model from ``transformers`` or ``peft``; None before it is opened.
        mean_loss: The mean loss of a validation or test.
        metrics: Its other figures, which have the names by which they are logged.
    """

    model: Any
    mean_loss: MeanMetric
    metrics: Any
    rollouts = samples = kl_target = validation = comparison = None
    columns: Mapping[str, str] = MappingProxyType({})

    @property
    def about(self) -> dict[str, Any]:
        """Empty, as a test of this stage compares nothing."""
        return {}

    @property
    def seed(self) -> int:
        """The seed of ``--seed_everything``."""
        return global_seed()

    def check_shardable(self) -> None:
        """Refuses ``trainer.strategy=sharded``, which is made for PPO alone."""
        raise not_shardable(self)

    def train_model(self, model: Any) -> None:
        """Checks that a model's weights are finite, and puts it into train mode."""
        check_finite_model("model.model", self.model_name, model)
        # models open in eval mode, and Lightning doesn't change the mode of a module's parts
        self.model = model.train()

    def on_fit_start(self) -> None:
        """Says how many parameters there are, and how many learn."""
        learning = sum(x.numel() for x in trainable_parameters(self.model))
        say_what_learns(learning, sum(x.numel() for x in self.model.parameters()))

    def on_train_batch_start(self, batch: PromptBatch | LabeledBatch, batch_idx: int) -> None:
        """Seeds dropout by the place in the run, so that a resumed run has the same dropout."""
        place = (self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(derive_seed(self.seed, "dropout", *place))
        fields = batch._asdict()
        for other in ("places", "columns"):
            fields.pop(other, None)
        tensors = {name: x for name, x in fields.items() if isinstance(x, Tensor)}
        texts = {name: x for name, x in fields.items() if name not in tensors}
        self.faults.begin(f"step {self.global_step}", texts, **tensors)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Leaves the step out if its gradient is not finite."""
        gradients = [p.grad for p in trainable_parameters(self) if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            optimizer.zero_grad()
            self.faults.leave_out(f"the gradient's norm is {norm}", CAUSES_ELSEWHERE)
        self.log("train/faults", float(self.faults.count))

    def on_validation_epoch_end(self) -> None:
        """Logs the mean loss and the metrics under ``val/``, or ``test/`` at the end of a test."""
        prefix = "test" if self.trainer.testing else "val"
        if not self.trainer.sanity_checking:  # its few batches may hold a single class
            figures = {"loss": self.mean_loss.compute(), **self.metrics.compute()}
            self.log_dict({f"{prefix}/{name}": figure for name, figure in figures.items()})
        self.mean_loss.reset()
        self.metrics.reset()

    on_test_epoch_end = on_validation_epoch_end

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reduces the checkpoint to the parameters that learn, and adds the facts of the run."""
        facts = {"model": self.model_name, "lora": self.lora, "labels": self.labels}
        scores = {"learns_scores": self.learns_scores}
        save_stage(self, checkpoint, **facts, **scores, **self.origin(self.model))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the checkpoint fits this model; see :func:`load_stage`."""
        load_stage(self, checkpoint, **self.origin(self.model))

    def export(self, folder: str | Path) -> None:
        """Writes the model, or the adapter, with its tokenizer as a Hugging Face folder."""
        save_model(self.model, self.tokenizer, folder)
