"""Loaders of batches, the order of their rows, and the position at which a run resumes."""

import atexit
import math
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, DistributedSampler

from detox_lightning.errors import STOP_SIGNALS, InputError
from detox_lightning.seeding import derive_seed, global_seed

if TYPE_CHECKING:
    from datasets import Dataset
    from lightning.pytorch import Trainer

Collate = Callable[[list[Any]], Any]


class EpochSampler(DistributedSampler[int]):  # Lightning would replace any other kind of sampler
    """Shuffles ``rows`` rows in an order that is a function of (seed, epoch) and can be resumed.

    Each rank gets every ``num_replicas``-th row of one common order; the shares are disjoint and
    of equal size, so up to ``num_replicas - 1`` rows are left out of an epoch. Ranks take turns, so
    all of them together have used the first ``used_rows`` rows of ``epoch``, however many ranks
    there were; the other epochs, and ``len``, are whole.
    """

    def __init__(
        self,
        rows: int,
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
        epoch: int = 0,
        used_rows: int = 0,
    ) -> None:
        super().__init__(range(rows), num_replicas, rank, seed=seed, drop_last=True)  # type: ignore[arg-type]
        # with workers, loaders draw rows before Lightning calls `set_epoch`
        self.epoch = self._resumed_epoch = epoch
        self._used_rows = used_rows

    def __iter__(self) -> Iterator[int]:
        """Draws this rank's share of the rows that the epoch has not used yet."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        order = torch.randperm(len(self.dataset), generator=generator)  # type: ignore[arg-type]
        rest = order[self._used_rows if self.epoch == self._resumed_epoch else 0 :]
        whole = len(rest) // self.num_replicas * self.num_replicas
        return iter(rest[:whole][self.rank :: self.num_replicas].tolist())


class _TrainLoader(DataLoader[Any]):
    """Has hooks for state, without which Lightning warns of an inexact resume.

    They do nothing, as the data module's state has the position.
    """

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignores the state."""


@dataclass
class Loaders:
    """Makes the loaders of a data module and keeps the position within the epoch.

    Args:
        batch_size: Rows of a training batch, on each rank.
        eval_batch_size: Rows of any other batch, on each rank; None: ``batch_size``.
        num_workers: Processes that prepare batches; 0: the training process does it.
        seed: Seed of the order of rows; None: that of ``--seed_everything``.
    """

    batch_size: int
    eval_batch_size: int | None
    num_workers: int
    seed: int | None
    epoch: int = 0
    batches: int = 0  # done in that epoch
    rows: int = 0  # used of that epoch, by all ranks together
    batch_size_changed: bool = False  # if True, `batches` is not the checkpoint's number
    train_rows: int | None = None  # None until the training rows are read

    def train(
        self, rows: "Dataset", collate: Collate, trainer: "Trainer | None"
    ) -> DataLoader[Any]:
        """Makes a loader of full batches in the order of (seed, epoch), from the position on.

        Raises:
            InputError: If a rank has fewer rows than one batch.
        """
        self.check(len(rows), trainer)
        sampler = EpochSampler(len(rows), self._seed(), *_ranks(trainer), self.epoch, self.rows)
        options = self._options(collate, self.batch_size)
        return _TrainLoader(rows, sampler=sampler, drop_last=True, **options)

    def evaluation(
        self, rows: "Dataset", collate: Collate, trainer: "Trainer | None"
    ) -> DataLoader[Any]:
        """Makes a loader of all rows in order, each once over all ranks.

        Some ranks may have one batch more than others, so evaluation steps must not use
        collectives.

        Raises:
            InputError: If there are fewer rows than ranks.
        """
        world, rank = _ranks(trainer)
        if len(rows) < world:
            raise InputError(
                f"{len(rows)} rows to evaluate are too few for {world} processes: give more rows "
                "(--data.num_eval_samples) or fewer processes (--trainer.devices)"
            )
        sampler = UnrepeatedDistributedSampler(range(len(rows)), world, rank, shuffle=False)
        options = self._options(collate, self.eval_batch_size or self.batch_size)
        return DataLoader(rows, sampler=sampler, **options)

    def _options(self, collate: Collate, batch_size: int) -> dict[str, Any]:
        if self.num_workers:
            atexit.unregister(_end_workers)
            atexit.register(_end_workers)
        return {
            "batch_size": batch_size,  # by name, as Lightning rebuilds loaders
            "collate_fn": collate,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "worker_init_fn": _ignore_signals,
        }

    def check(self, rows: int, trainer: "Trainer | None") -> None:
        """Raises InputError unless ``rows`` training rows give each rank a full batch."""
        self.train_rows = rows
        world, _ = _ranks(trainer)
        if rows // world < self.batch_size:
            share = f" give each of {world} processes {rows // world}," if world > 1 else " are"
            raise InputError(
                f"--data.batch_size={self.batch_size}: the {rows} training rows{share} less than "
                "one batch; lower it or give more rows"
            )

    def state(self, trainer: "Trainer | None") -> dict[str, int]:
        """Returns the position of the next batch and the conditions that determine its rows.

        After an epoch's last batch it is the beginning of the next epoch; without a trainer, the
        position at which ``fit`` would begin.
        """
        if trainer is None:
            return {"epoch": self.epoch, "batches": self.batches, **self._conditions(trainer)}
        epochs: Any = trainer.fit_loop.epoch_progress.current
        done: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        epoch, batches = epochs.processed, done.processed
        if epochs.ready == epochs.processed:  # between two epochs; `batches` is the old one's
            batches = 0
        elif batches >= trainer.num_training_batches:
            epoch, batches = epoch + 1, 0
        size = {} if self.train_rows is None else {"size": self.train_rows}
        return {"epoch": epoch, "batches": batches, **self._conditions(trainer), **size}

    def load(self, state: dict[str, int], trainer: "Trainer | None") -> None:
        """Continues ``fit`` at the position of :meth:`state`; warns if the order can't be the same.

        Raises:
            InputError: If the state holds no position.
        """
        if trainer is not None and trainer.state.fn != "fit":
            return
        if not all(isinstance(state[name], int) for name in ("epoch", "batches")):
            raise InputError(
                "the checkpoint holds no position in the data; give another checkpoint"
            )
        now = self._conditions(trainer)
        then = {name: state.get(name, value) for name, value in now.items()}
        self.epoch = state["epoch"]
        self.rows = state["batches"] * then["batch_size"] * then["processes"]
        # a batch that was used in part is left out, so that no row comes twice
        self.batches = math.ceil(self.rows / (now["batch_size"] * now["processes"]))
        self.batch_size_changed = self.batches != state["batches"]
        size = state.get("size", self.train_rows)
        if self.train_rows is not None and size != self.train_rows:
            rank_zero_warn(
                f"the checkpoint's run had {size} training rows, this one has {self.train_rows}: "
                "their order differs, so that some of them come twice in this epoch"
            )
        if now != then:
            changes = [f"{k} {then[k]} is now {v}" for k, v in now.items() if then[k] != v]
            rank_zero_warn(
                f"Since the checkpoint {', '.join(changes)}: the run goes on after {self.rows} "
                f"rows of epoch {self.epoch}, with batch {self.batches}, but is not exactly the "
                "uninterrupted one. For that, give the former values "
                "(--seed_everything, --data.batch_size, --trainer.devices)."
            )

    def reset(self) -> None:
        """Returns to the first epoch, so that another ``fit`` begins there."""
        self.epoch = self.batches = self.rows = 0
        self.batch_size_changed = False

    def _conditions(self, trainer: "Trainer | None") -> dict[str, int]:
        # a checkpoint may hold only plain numbers, and flags give subclasses of `int`
        world, _ = _ranks(trainer)
        return {"seed": self._seed(), "batch_size": int(self.batch_size), "processes": world}

    def _seed(self) -> int:
        return global_seed() if self.seed is None else self.seed


def _ranks(trainer: "Trainer | None") -> tuple[int, int]:
    """Returns the number of ranks, and which one this is."""
    return (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)


def _ignore_signals(worker: int) -> None:
    """Keeps a worker alive when the run is asked to end: the rollout still needs its batches."""
    for signum in (*STOP_SIGNALS, signal.SIGINT):  # a terminal sends Ctrl-C to workers, too
        signal.signal(signum, signal.SIG_IGN)


def _end_workers() -> None:
    """Kills the workers when the program exits, as they ignore the SIGTERM that it waits for."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
