"""Where in its data a run is, as Lightning's loops keep it."""

from typing import Any

from lightning.pytorch import LightningModule

SETTLED = "between_batches"
TRACKERS = ("total", "current")


def settle(loops: dict[str, Any]) -> None:
    """Brings the loops' state to a place between two batches, or between two epochs.

    Lightning saves from within a batch or an epoch and guesses on loading what was left to do; from
    some places it guesses wrong and skips a validation or an epoch. Here nothing is left to do.

    Args:
        loops: ``checkpoint["loops"]["fit_loop"]``, of a checkpoint that is saved when a batch or
            the whole training is over, validation included; changed in place.
    """
    epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    for tracker in TRACKERS:
        batches[tracker] = dict.fromkeys(batches[tracker], batches[tracker]["completed"])
    batches["is_last_batch"] = False
    epoch = epochs["current"]
    if not batches["current"]["completed"] or epoch["ready"] == epoch["processed"]:
        batches["current"] = dict.fromkeys(batches["current"], 0)
        for tracker in TRACKERS:
            epochs[tracker] = dict.fromkeys(epochs[tracker], epochs[tracker]["processed"])
    loops[SETTLED] = True


def steps_logged(loops: dict[str, Any]) -> int:
    """Lightning's own x-axis: batches that stepped so far.

    Args:
        loops: ``checkpoint["loops"]["fit_loop"]``.
    """
    return int(loops["epoch_loop.state_dict"].get("_batches_that_stepped", 0))


def next_point(module: LightningModule, steps: int) -> int:
    """The place on the curves' x-axis that comes next.

    Args:
        module: Counts its rollouts, if it makes any.
        steps: Else: :func:`steps_logged`.
    """
    rollouts: int | None = getattr(module, "rollouts", None)
    return steps if rollouts is None else rollouts + 1


def move(loops: dict[str, Any], batches: int) -> None:
    """Makes another number of batches the place in the epoch, for batches of another size.

    Args:
        loops: ``checkpoint["loops"]["fit_loop"]``; changed in place.
        batches: How many of the new size are done.
    """
    current = loops["epoch_loop.batch_progress"]["current"]
    if current["completed"]:
        loops["epoch_loop.batch_progress"]["current"] = dict.fromkeys(current, batches)
