"""The reward stage: teaches a sequence classifier to tell hate from the rest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jsonargparse.typing import NonNegativeInt
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from detox_lightning.batches import LabeledBatch
from detox_lightning.errors import InputError
from detox_lightning.models.finite import refuse_broken_model
from detox_lightning.models.loading import (
    Weights,
    load_model,
    load_tokenizer,
)
from detox_lightning.models.saving import save_model
from detox_lightning.models.text_padding import repadded
from detox_lightning.protocols import data_of
from detox_lightning.seeding import derive_seed, global_seed
from detox_lightning.stages.checkpoint import check_stamp, check_trainable, keep_trainable, stamp
from detox_lightning.stages.classifier_checks import check_labels, check_positions, name_padding
from detox_lightning.stages.devices import choose_kernels
from detox_lightning.stages.faults import Faults
from detox_lightning.stages.optimization import CONSTANT, Schedule, StepwiseOptimization
from detox_lightning.stages.run_checks import check_conditions
from detox_lightning.stages.strategy import not_shardable


class RewardModule(LightningModule):
    """Fine-tunes a sequence classifier on labelled text.

    Logs ``train/loss``; under ``val/`` and ``test/`` loss, accuracy, F1 and AUROC. With two labels
    the second is the one that F1 and AUROC look for; with more they are means over the labels.
    """

    stage_name = "reward"
    needs = ()
    family = rollouts = samples = kl_target = comparison = None
    export_name = "model"
    auto_class = "AutoModelForSequenceClassification"
    padding_side: Literal["left", "right"] = "right"

    def __init__(
        self,
        model: str,
        labels: Sequence[str] = ("nothate", "hate"),
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=2e-5),
        schedule: Schedule = CONSTANT,
        weights: Weights = Weights(),  # noqa: B008
        max_faults: NonNegativeInt = 10,
    ):
        """Notes names and settings; the weights load when a run begins.

        Args:
            model: Hub id or folder of an encoder, which gets a fresh head, or of a classifier of
                these very labels.
            labels: Names of the classes, by which the data's rows are labelled too, in the order
                of the classifier's outputs.
            optimizer: Optimizer and its learning rate.
            schedule: Warm-up and decay of the learning rate, in optimizer steps.
            weights: How the weights are opened.
            max_faults: Steps of the whole run that may be left out because their gradient is not
                finite; their batches are written into the folder ``faults`` of the run. One more
                ends the run.

        Raises:
            InputError: If there are fewer than two labels, or two of the same name, or the weights
                are to be quantized or bfloat16, as all of them are trained.
        """
        super().__init__()
        self.save_hyperparameters()
        self.strict_loading = False
        if len(labels) < 2 or len(set(labels)) < len(labels):
            raise InputError(f"labels={list(labels)}: give two or more different names.")
        self.name = model
        self.labels = list(labels)
        self.optimization = StepwiseOptimization(optimizer, schedule)
        self.weights = Weights(**weights) if isinstance(weights, dict) else weights
        if self.weights.quantization:
            raise InputError(
                f"weights.quantization={self.weights.quantization}: a quantized classifier can't "
                "be trained; leave it null"
            )
        if self.weights.dtype != "float32":
            raise InputError(
                f"weights.dtype={self.weights.dtype}: small steps are lost in weights that are "
                "trained in it; give float32, with trainer.precision=bf16-mixed"
            )
        self.faults = Faults(max_faults)
        self.mean_loss = MeanMetric()
        self.metrics = classification_metrics(len(labels))
        self.model: Any = None
        self.tokenizer: Any = None

    @property
    def seed(self) -> int:
        """The seed of ``--seed_everything``."""
        return global_seed()

    @property
    def about(self) -> dict[str, Any]:
        """Nothing: a test compares no policy with a reference."""
        return {}

    @property
    def tokenizer_name(self) -> str:
        """The model whose tokenizer the data must use."""
        return self.name

    @property
    def tokenizer_options(self) -> dict[str, Any]:
        """How the data must open it."""
        return self.weights.file_options

    def setup(self, stage: str) -> None:
        """Refuses what can't work, before any model is opened.

        Raises:
            InputError: If the trainer is one that can't work.
        """
        check_conditions(self, stage, ("loss", *self.metrics))

    def check_shardable(self) -> None:
        """Refuses the sharded strategy, which only PPO is made for."""
        raise not_shardable(self)

    def configure_model(self) -> None:
        """Loads the weights and the tokenizer, once.

        Raises:
            InputError: If there is no such model, its classes are others, or the data's texts may
                be longer than it reads.
        """
        if self.model is not None:
            return
        choose_kernels()
        options = self.weights.file_options
        check_labels(self.name, self.labels, **options)
        self.tokenizer = load_tokenizer(self.name, padding_side=self.padding_side, **options)
        model = load_model(
            self.auto_class,
            self.name,
            id2label=dict(enumerate(self.labels)),
            label2id={label: index for index, label in enumerate(self.labels)},
            problem_type="single_label_classification",
            fresh_head=True,
            **self.weights.options,
        )
        if (data := data_of(self._trainer)) is not None:
            check_positions(self.name, model, data.max_prompt_tokens)
        name_padding(model, self.tokenizer)
        refuse_broken_model("model.model", self.name, model)
        # Models open in eval mode, and Lightning leaves the mode of a module's parts alone.
        self.model = model.train()
        # nothing changes them, and validation steps may not wait for other ranks
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer and its schedule."""
        return self.optimization.configure(self)

    def on_train_start(self) -> None:
        """Lets the flags win over a checkpoint's hyper-parameters."""
        self.optimization.let_flags_win(self)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Makes dropout's noise a function of the place in the run: a resumed run has it too."""
        place = (self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(derive_seed(global_seed(), "dropout", *place))
        ids = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        self.faults.begin(f"step {self.global_step}", {}, **ids, labels=batch.labels)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Leaves the step out if its gradient is not finite."""
        self.faults.guard(self, optimizer)
        self.log("train/faults", float(self.faults.count))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores of the classes.

        Args:
            input_ids: ``[b, s]``.
            attention_mask: ``[b, s]``, True where ``input_ids`` holds a real token.

        Returns:
            Logits ``[b, classes]``, float32.
        """
        ids, mask = repadded(self.model, input_ids, attention_mask.bool())
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask.long()).logits
        return logits.float()

    def training_step(self, batch: LabeledBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of the labels, mean over the texts."""
        loss = F.cross_entropy(self(batch.input_ids, batch.attention_mask), batch.labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.labels))
        return loss

    def validation_step(self, batch: LabeledBatch, batch_idx: int) -> None:
        """Adds a batch to the metrics."""
        logits = self(batch.input_ids, batch.attention_mask)
        self.mean_loss.update(F.cross_entropy(logits, batch.labels), weight=len(batch.labels))
        probabilities = logits.softmax(-1)
        binary = len(self.labels) == 2
        self.metrics.update(probabilities[:, 1] if binary else probabilities, batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/``."""
        self._log_metrics("val")

    def test_step(self, batch: LabeledBatch, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Logs ``test/``."""
        self._log_metrics("test")

    def predict_step(self, batch: LabeledBatch, batch_idx: int) -> Tensor:
        """Probabilities of the classes, ``[b, classes]``."""
        return self(batch.input_ids, batch.attention_mask).softmax(-1)

    def export(self, folder: str | Path) -> None:
        """Writes the classifier with its tokenizer as a Hugging Face folder.

        Args:
            folder: Where to.
        """
        save_model(self.model, self.tokenizer, folder)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the parameters that learn, and notes what they are."""
        keep_trainable(self, checkpoint)
        stamp(
            checkpoint,
            self.stage_name,
            self.name,
            base_revision=self.weights.revision,
            labels=self.labels,
            faults=self.faults.count,
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes sure that the checkpoint is one of this model's and of these labels.

        Raises:
            InputError: If it isn't.
        """
        facts = check_stamp(checkpoint, self.stage_name, self.name)
        self.faults.count = facts.get("faults", 0)
        if facts["labels"] != self.labels:
            raise InputError(
                f"labels={self.labels}: the checkpoint's are {facts['labels']}; give the same ones."
            )
        check_trainable(self, checkpoint, base=self.name, base_revision=self.weights.revision)

    def _log_metrics(self, prefix: str) -> None:
        if not self.trainer.sanity_checking:  # two batches may well hold a single class
            values = {"loss": self.mean_loss.compute(), **self.metrics.compute()}
            self.log_dict({f"{prefix}/{name}": value for name, value in values.items()})
        self.mean_loss.reset()
        self.metrics.reset()


def classification_metrics(classes: int) -> MetricCollection:
    """Accuracy, F1 and AUROC.

    Args:
        classes: With 2 the metrics take the second's probability ``[b]``; with more, all of them
            ``[b, classes]``, and F1 and AUROC are means over the classes.
    """
    from torchmetrics import classification as kinds

    if classes == 2:
        return MetricCollection(
            {
                "accuracy": kinds.BinaryAccuracy(),
                "f1": kinds.BinaryF1Score(),
                "auroc": kinds.BinaryAUROC(),
            }
        )
    return MetricCollection(
        {
            "accuracy": kinds.MulticlassAccuracy(classes, average="micro"),
            "f1": kinds.MulticlassF1Score(classes, average="macro"),
            "auroc": kinds.MulticlassAUROC(classes, average="macro"),
        }
    )
