"""What callbacks, data modules and checks may rely on in a training stage and in a data module.

The three training stages have all members of :class:`Stage`; mypy checks that they do. A user's own
LightningModule need not be a stage.
"""

from collections.abc import Collection, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

    from detox_lightning.data.loaders import Loaders
    from detox_lightning.evaluation.agreement import Agreement
    from detox_lightning.evaluation.comparison import Comparison
    from detox_lightning.evaluation.validation import Validation
    from detox_lightning.models.families.base import Family
    from detox_lightning.models.source import ModelSource
    from detox_lightning.stages.faults import Faults

CHECKPOINT_KEY = "detox_lightning"  # in a checkpoint: what the stage stores of itself


class Samples(NamedTuple):
    """A rollout as people read it.

    Attributes:
        prompts: ``b`` prompts.
        responses: Their responses.
        scores: Their rewards, raw.
        lengths: Tokens of each response, EOS included.
        kl: KL divergence of each response from the reference, in nats.
    """

    prompts: list[str]
    responses: list[str]
    scores: list[float]
    lengths: list[int]
    kl: list[float]


class Stage(Protocol):
    """A training stage: the supervised, the reward or the PPO module."""

    @property
    def stage_name(self) -> str:
        """``supervised``, ``reward`` or ``ppo``."""

    @property
    def model_name(self) -> str:
        """The model that training begins from, as the user named it."""

    @property
    def seed(self) -> int:
        """Seed of the run's random draws."""

    @property
    def needs(self) -> Collection[str]:
        """What data rows must have besides a prompt: ``summary``, ``reference``."""

    @property
    def columns(self) -> Mapping[str, str]:
        """Further columns that a reward takes, and the flags that ask for them."""

    @property
    def labels(self) -> list[str] | None:
        """A classifier's class names, in the order of its outputs; None for a language model."""

    @property
    def learns_scores(self) -> bool:
        """Whether a text has a number from 0 to 1 for each of ``labels``, and not one of them."""

    @property
    def source(self) -> "ModelSource":
        """Where the model comes from; names the tokenizer that the data must use."""

    @property
    def family(self) -> "Family | None":
        """The language model's family; None for a classifier."""

    @property
    def auto_class(self) -> str:
        """Name of the ``transformers`` class that opens the model."""

    @property
    def faults(self) -> "Faults":
        """The steps or rollouts left out so far because something was not finite."""

    @property
    def rollouts(self) -> int | None:
        """Number of rollouts done; None for the stages without rollouts."""

    @property
    def samples(self) -> Samples | None:
        """Texts of the newest rollout; None before the first, and without rollouts."""

    @property
    def kl_target(self) -> float | None:
        """Target of an adaptive KL coefficient; None if there is none."""

    @property
    def validation(self) -> "Validation | None":
        """What PPO's newest validation found; None for the other stages."""

    @property
    def comparison(self) -> "Comparison | None":
        """Result of the last ``test``; None before it. Only PPO's test compares."""

    @property
    def agreement(self) -> "Mapping[str, Agreement]":
        """By label, how the last ``test`` of scores agreed with the data; empty otherwise."""

    @property
    def about(self) -> dict[str, Any]:
        """What PPO's test compares and how, for its report; empty for the other stages."""

    @property
    def export_name(self) -> str:
        """Name of the folder that :meth:`export` writes: ``model`` or ``adapter``."""

    def export(self, folder: str | Path) -> None:
        """Writes what was trained, with its tokenizer, as a Hugging Face folder."""

    def check_shardable(self) -> None:
        """Raises an InputError if the model can't be trained with ``trainer.strategy=sharded``."""


class Data(Protocol):
    """A data module of this package.

    Attributes:
        batch_size: Rows of a training batch, on each rank.
        template: The prompt, with ``{dialogue}`` in place of a text; empty: the text alone.
        chat_template: Whether prompts are put into the tokenizer's chat template.
        loaders: Makes the loaders and holds the position in the epoch.
        shared_by: Options that decide which training rows are in a share that is cut off.
        share_read: The share that was read to measure, ``validation`` or ``test``; empty: none.
    """

    batch_size: int
    template: str
    chat_template: bool
    loaders: "Loaders"
    shared_by: Sequence[str]
    share_read: str

    @property
    def sources(self) -> Sequence[str]:
        """Names of the data sets."""

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens that a prompt, or a text to classify, may have."""

    @property
    def max_target_tokens(self) -> int:
        """Tokens that an answer to learn from may have; 0 if there are none."""

    def rows(self, split: str) -> Any:
        """The encoded rows of a split, among whose columns is ``reference``."""

    def train_dataloader(self) -> Sized:
        """Full batches, from the checkpoint's place on."""

    def val_dataloader(self) -> Sized:
        """All validation rows; an empty list without validation."""


def as_stage(module: object) -> Stage | None:
    """Returns a module as a :class:`Stage`; None if it is no stage of this package."""
    return cast(Stage, module) if hasattr(type(module), "stage_name") else None


def stage_of(trainer: "Trainer | None") -> Stage | None:
    """Returns the stage that a trainer runs; None if its module is no stage of this package."""
    return as_stage(getattr(trainer, "lightning_module", None))


def steps_done(trainer: "Trainer", stage: Stage) -> int:
    """Returns the number of rollouts done; of optimizer steps for the stages without rollouts."""
    return trainer.global_step if stage.rollouts is None else stage.rollouts


def callbacks_of(trainer: "Trainer") -> "list[Callback]":
    """Returns a trainer's callbacks, which Lightning doesn't type."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def data_of(trainer: "Trainer | None") -> Data | None:
    """Returns the data module that a trainer uses; None if it has none of this package."""
    data = getattr(trainer, "datamodule", None)
    return cast(Data, data) if hasattr(type(data), "max_prompt_tokens") else None
