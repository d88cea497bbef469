"""Which checkpoints are kept: the best within a bound, and the last."""

from typing import Any

from jsonargparse.typing import PositiveFloat
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


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
        """
        super().__init__(**options)
        self.max_kl = max_kl

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether a checkpoint is among the best.

        Args:
            trainer: Knows the last validation's KL divergence.
            current: What is monitored.
        """
        kl = trainer.callback_metrics.get("val/kl")
        if self.max_kl is not None and kl is not None and kl > self.max_kl:
            return False
        return super().check_monitor_top_k(trainer, current)

    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        # Lightning writes last.ckpt only where it has just kept a best one: a run would go on from
        # its best place, not from its last
        self._last_global_step_saved = trainer.global_step
