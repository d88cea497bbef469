"""In what order rows are drawn, and how a resumed run finds its place."""

import atexit
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, DistributedSampler

from detox_lightning.data.loader_workers import end_workers, work_on
from detox_lightning.errors import InputError
from detox_lightning.seeding import derive_seed, global_seed

if TYPE_CHECKING:
    from datasets import Dataset
    from lightning.pytorch import Trainer


class EpochSampler(DistributedSampler[int]):
    """Shuffles so that the order is a function of (seed, epoch) and can be taken up anywhere.

    Each rank gets every ``num_replicas``-th row of one common order; the shares are disjoint and
    of equal size, so up to ``num_replicas - 1`` rows are left out of an epoch.

    Args:
        rows: Number of rows to draw from.
        seed: The run's seed.
        num_replicas: Number of processes.
        rank: Which of them this is.
    """

    # a subclass of DistributedSampler, because Lightning leaves those alone

    def __init__(self, rows: int, seed: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(range(rows), num_replicas, rank, seed=seed, drop_last=True)  # type: ignore[arg-type]
        self._resumed = (0, 0)

    def resume(self, epoch: int, rows: int) -> None:
        """Goes on in the middle of an epoch; other epochs stay whole, and so does ``len``.

        Args:
            epoch: The epoch to go on with.
            rows: How many rows of its order all ranks together have used, by however many they
                were: ranks take turns, so these are its first.
        """
        # the epoch too: loaders with workers begin to draw before Lightning calls `set_epoch`
        self.epoch = epoch
        self._resumed = (epoch, rows)

    def __iter__(self) -> Iterator[int]:
        """This rank's share of the epoch's order, less what was used before a resume."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        order = torch.randperm(len(self.dataset), generator=generator)  # type: ignore[arg-type]
        resumed, used = self._resumed
        rest = order[used if self.epoch == resumed else 0 :]
        whole = len(rest) // self.num_replicas * self.num_replicas
        return iter(rest[:whole][self.rank :: self.num_replicas].tolist())


class ShareSampler(DistributedSampler[int]):
    """Draws each row once over all ranks, in order; ranks differ by at most one row.

    Args:
        rows: Number of rows.
        num_replicas: Number of processes.
        rank: Which of them this is.
    """

    def __init__(self, rows: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(range(rows), num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        self._share = range(rows)[rank::num_replicas]

    def __iter__(self) -> Iterator[int]:
        """This rank's rows, ascending."""
        return iter(self._share)

    def __len__(self) -> int:
        """Number of this rank's rows."""
        return len(self._share)


class PlacedLoader(DataLoader[Any]):
    """A loader whose place in the epoch the data module keeps, by way of :class:`EpochSampler`.

    Without the two methods Lightning would warn that a resumed run may be unreliable.
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep here."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to take up here."""


@dataclass
class Feed:
    """Makes loaders of rows and keeps the place in the epoch.

    Args:
        batch_size: Rows a step and process.
        eval_batch_size: Rows a step and process outside training; None: ``batch_size``.
        num_workers: Processes that collate batches; 0: the training process does.
        seed: Of the order; None: the seed of ``--seed_everything``.
    """

    batch_size: int
    eval_batch_size: int | None
    num_workers: int
    seed: int | None
    epoch: int = 0
    batches: int = 0
    rows: int = 0  # done in that epoch, by all processes
    moved: bool = False  # whether `batches` is not the checkpoint's number
    size: int | None = None  # of all training rows, once they are known

    def train(
        self, rows: "Dataset", collate: Callable[..., Any], trainer: "Trainer | None"
    ) -> DataLoader[Any]:
        """A loader of full batches in the order of (seed, epoch), from the remembered place on.

        Args:
            rows: What to draw from.
            collate: Turns a list of rows into a batch.
            trainer: Says which of how many processes this is; None: the only one.

        Raises:
            InputError: If a process has fewer rows than one batch.
        """
        world, rank = _processes(trainer)
        sampler = EpochSampler(len(rows), self._seed(), world, rank)
        self.check(len(rows), trainer)
        sampler.resume(self.epoch, self.rows)
        return self._loader(rows, collate, sampler, self.batch_size, drop_last=True)

    def check(self, rows: int, trainer: "Trainer | None") -> None:
        """Makes sure that each process has a batch to train on.

        Args:
            rows: Their number, over all processes.
            trainer: Says how many processes there are; None: one.

        Raises:
            InputError: If a process has fewer rows than one batch.
        """
        self.size = rows
        world, _ = _processes(trainer)
        if rows // world < self.batch_size:
            share = f" give each of {world} processes {rows // world}," if world > 1 else " are"
            raise InputError(
                f"--data.batch_size={self.batch_size}: the {rows} training rows{share} less than "
                "one batch; lower it or give more rows"
            )

    def evaluation(
        self, rows: "Dataset", collate: Callable[..., Any], trainer: "Trainer | None"
    ) -> DataLoader[Any]:
        """A loader of all rows in order, each once over all processes; see :meth:`train`.

        Some processes may have one batch more than others: nothing collective belongs in the steps.

        Raises:
            InputError: If there are fewer rows than processes.
        """
        world, rank = _processes(trainer)
        if len(rows) < world:
            raise InputError(
                f"{len(rows)} rows to evaluate are too few for {world} processes: give more rows "
                "(--data.num_eval_samples) or fewer processes (--trainer.devices)"
            )
        sampler = ShareSampler(len(rows), world, rank)
        return self._loader(rows, collate, sampler, self.eval_batch_size or self.batch_size)

    def _loader(
        self,
        rows: "Dataset",
        collate: Callable[..., Any],
        sampler: DistributedSampler[int],
        batch_size: int,
        drop_last: bool = False,
    ) -> DataLoader[Any]:
        # drop_last means training
        loader = PlacedLoader if drop_last else DataLoader
        if self.num_workers:
            atexit.unregister(end_workers)
            atexit.register(end_workers)
        return loader(
            rows,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=work_on,
            drop_last=drop_last,
        )

    def state(self, trainer: "Trainer | None") -> dict[str, int]:
        """The next batch's place, and what must stay the same for it to be the same batch.

        Args:
            trainer: In ``fit``; None: the place is where the next ``fit`` would begin.

        Returns:
            ``seed``, ``epoch``, ``batches`` done in that epoch, ``batch_size``, ``processes``;
            after an epoch's last batch the place is the start of the next.
        """
        if trainer is None:
            return {"epoch": self.epoch, "batches": self.batches, **self._terms(trainer)}
        epochs: Any = trainer.fit_loop.epoch_progress.current
        done: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        epoch, batches = epochs.processed, done.processed
        if epochs.ready == epochs.processed:  # between two epochs; `batches` is the old one's
            batches = 0
        elif batches >= trainer.num_training_batches:
            epoch, batches = epoch + 1, 0
        size = {} if self.size is None else {"size": self.size}
        return {"epoch": epoch, "batches": batches, **self._terms(trainer), **size}

    def load(self, state: dict[str, int], trainer: "Trainer | None") -> None:
        """Takes up the place of :meth:`state`; warns if the order can't be the same.

        Args:
            state: From the checkpoint.
            trainer: Other jobs than ``fit`` have no place.

        Raises:
            InputError: If the place is none.
        """
        if trainer is not None and trainer.state.fn != "fit":
            return
        if not all(isinstance(state[name], int) for name in ("epoch", "batches")):
            raise InputError("the checkpoint's place in the data is none: give another checkpoint")
        now = self._terms(trainer)
        then = {name: state.get(name, value) for name, value in now.items()}
        self.epoch = state["epoch"]
        self.rows = state["batches"] * then["batch_size"] * then["processes"]
        # of a batch that was done in part, the rest is left out: nothing comes twice
        self.batches = math.ceil(self.rows / (now["batch_size"] * now["processes"]))
        self.moved = self.batches != state["batches"]
        if self.size is not None and (size := state.get("size", self.size)) != self.size:
            rank_zero_warn(
                f"the checkpoint's run had {size} training rows, this one has {self.size}: they "
                "come in another order, so some of this epoch's come twice"
            )
        changed = [
            f"{name} {then[name]} is now {value}"
            for name, value in now.items()
            if then[name] != value
        ]
        if changed:
            rank_zero_warn(
                f"Since the checkpoint {', '.join(changed)}: the run goes on after {self.rows} "
                f"rows of epoch {self.epoch}, with batch {self.batches}, but is not exactly the "
                "uninterrupted one. For that, give the former values "
                "(--seed_everything, --data.batch_size, --trainer.devices)."
            )

    def forget(self) -> None:
        """Starts over at the first epoch, for another ``fit`` with the same data module."""
        self.epoch = self.batches = self.rows = 0
        self.moved = False

    def _terms(self, trainer: "Trainer | None") -> dict[str, int]:
        world, _ = _processes(trainer)
        # plain numbers: a checkpoint holds nothing else
        return {"seed": self._seed(), "batch_size": int(self.batch_size), "processes": world}

    def _seed(self) -> int:
        return global_seed() if self.seed is None else self.seed


def _processes(trainer: "Trainer | None") -> tuple[int, int]:
    """How many processes there are, and which this is."""
    return (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
