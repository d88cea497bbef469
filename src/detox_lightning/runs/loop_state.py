"""Reads and edits what Lightning's loops store of a run's place in its data.

``loops`` is ``checkpoint["loops"]["fit_loop"]`` everywhere.
"""

from typing import Any

from lightning.pytorch import Trainer

from detox_lightning.protocols import stage_of

BETWEEN_BATCHES = "between_batches"  # key: the state was saved when nothing was left to do
_TRACKERS = ("total", "current")


def settle_between_batches(loops: dict[str, Any]) -> None:
    """Rewrites the loops' state so that it stands between two batches or two epochs.

    Lightning saves from within a batch or an epoch and guesses on loading what was left to do.
    From some places it guesses wrong and skips a validation or an epoch.

    Args:
        loops: Saved when a batch, or the whole training, is over, validation included; changed in
            place.
    """
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    for tracker in _TRACKERS:
        batches[tracker] = dict.fromkeys(batches[tracker], batches[tracker]["completed"])
    batches["is_last_batch"] = False
    epoch = epochs["current"]
    if not batches["current"]["completed"] or epoch["ready"] == epoch["processed"]:
        batches["current"] = dict.fromkeys(batches["current"], 0)
        for tracker in _TRACKERS:
            epochs[tracker] = dict.fromkeys(epochs[tracker], epochs[tracker]["processed"])
    loops[BETWEEN_BATCHES] = True


def batches_stepped(loops: dict[str, Any]) -> int:
    """Returns how many batches ended with a step: Lightning's own x-axis of curves."""
    return int(loops["epoch_loop.state_dict"].get("_batches_that_stepped", 0))


def next_point(trainer: Trainer, stepped: int) -> int:
    """Returns the next place on the curves' x-axis: rollouts in PPO, else ``stepped`` batches."""
    stage = stage_of(trainer)
    return stepped if stage is None or stage.rollouts is None else stage.rollouts + 1


def set_batches_done(loops: dict[str, Any], batches: int) -> None:
    """Sets the number of batches done in the epoch, after the batch size has changed."""
    current = loops["epoch_loop.batch_progress"]["current"]
    if current["completed"]:
        loops["epoch_loop.batch_progress"]["current"] = dict.fromkeys(current, batches)
