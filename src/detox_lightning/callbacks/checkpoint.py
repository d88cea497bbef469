"""Which checkpoints are kept: the best within a bound, and the last."""

from typing import Any

from jsonargparse.typing import PositiveFloat
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from detox_lightning.errors import InputError


class BoundedCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, whose best ones may not have gone too far.

    With ``monitor: val/toxicity`` and ``max_kl: 6`` the best checkpoint is the least toxic one that
    is still near the reference; ``last.ckpt`` is written all the same.
    """

    def __init__(self, max_kl: PositiveFloat | None = None, **options: Any):
        """Sets the bound.

        Args:
            max_kl: A checkpoint whose ``val/kl``, in nats a response, is above this is not among
                the best, whatever is monitored; null for no bound.
            options: For Lightning's ModelCheckpoint.

        Raises:
            InputError: If there is a bound and nothing says what the best is.
        """
        super().__init__(**options)
        if max_kl is not None and self.monitor is None:
            raise InputError(
                f"checkpoint.max_kl={max_kl}: this bounds the best checkpoint; say what is best "
                "with checkpoint.monitor, such as val/toxicity"
            )
        self.max_kl = max_kl

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether a checkpoint is among the best.

        Args:
            trainer: Knows the last validation's KL divergence.
            current: What is monitored.
        """
        if self.max_kl is not None:
            kl = trainer.callback_metrics.get("val/kl")
            if kl is None or not kl <= self.max_kl:  # NaN is far
                return False
        return super().check_monitor_top_k(trainer, current)

    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        # Lightning writes last.ckpt only where it has just kept a best one: a run would go on from
        # its best place, not from its last
        self._last_global_step_saved = trainer.global_step
