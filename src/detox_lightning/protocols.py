"""What callbacks, data modules and runs may rely on in a training stage and in a data module.

The three training stages have all members of :class:`Stage`, so that nobody has to try what a
module has. A user's own LightningModule need not be a stage: :func:`stage_of` then gives None.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from detox_lightning.data.loaders import Loaders
    from detox_lightning.evaluation.comparison import Comparison
    from detox_lightning.models.families.base import Family
    from detox_lightning.rollout import Samples
    from detox_lightning.stages.faults import Faults


class Stage(Protocol):
    """A training stage: the supervised, the reward or the PPO module.

    Attributes:
        stage_name: ``supervised``, ``reward`` or ``ppo``.
        seed: Seed of all random draws.
        needs: Names of what the rows of a data set must have besides a prompt.
        labels: Names of a classifier's classes in the order of their indices, where they are known.
        family: The kind of language model; None for a classifier.
        auto_class: The class of ``transformers`` that opens the model.
        tokenizer_name: The model whose tokenizer the data must use.
        tokenizer_options: Options with which the data must open that tokenizer.
        faults: Steps that were left out because something was not finite.
        rollouts: Rollouts done; None where a stage takes none.
        samples: The newest rollout's texts, where there is one.
        comparison: What the last ``test`` found, where there was one.
        about: What a test compares and how, for its report.
        export_name: Name of the folder that :meth:`export` writes.
    """

    stage_name: str
    seed: int
    needs: Collection[str]
    labels: list[str] | None
    faults: "Faults"
    rollouts: int | None
    samples: "Samples | None"
    comparison: "Comparison | None"

    @property
    def family(self) -> "Family | None": ...
    @property
    def auto_class(self) -> str: ...
    @property
    def tokenizer_name(self) -> str: ...
    @property
    def tokenizer_options(self) -> dict[str, Any]: ...
    @property
    def about(self) -> dict[str, Any]: ...
    @property
    def export_name(self) -> str: ...
    def export(self, folder: str | Path) -> None: ...
    def check_shardable(self) -> None: ...


class Data(Protocol):
    """A data module of this package.

    Attributes:
        sources: Names of the data sets.
        batch_size: Rows of a batch, on each rank.
        loaders: Makes the loaders and keeps the position in the epoch.
    """

    sources: list[str]
    batch_size: int
    loaders: "Loaders"


def stage_of(trainer: "Trainer | None") -> Stage | None:
    """Returns the stage that a trainer runs; None if its module is somebody else's."""
    module = getattr(trainer, "lightning_module", None)
    return cast(Stage, module) if hasattr(type(module), "stage_name") else None


def data_of(trainer: "Trainer | None") -> Data | None:
    """Returns the data module that a trainer uses; None if it is somebody else's, or none."""
    data = getattr(trainer, "datamodule", None)
    return cast(Data, data) if hasattr(data, "loaders") else None
