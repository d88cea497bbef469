"""Ends all processes of a run where one of them can't go on."""

import itertools
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer

from detox_lightning.errors import InputError, Stopped, TrainingError

PERIOD = 0.5  # seconds between two looks
GRACE = 1.0  # seconds in which what looks like a failure may turn out to be the end
PATIENCE = 5.0  # seconds that a failing process gives the others to hear of it
GONE = "its process is gone: killed, or out of memory"


class WatchCallback(Callback):
    """Ends all processes of a run when one of them fails, whatever the others are waiting for.

    A process that fails tells the others why, by the store at which they met; one that is killed is
    missed by the others on its machine, and by all if it was the first. Each process says in one
    line which one failed and why, and exits with code 1.
    """

    runs = itertools.count()  # of this process; the same number on all ranks

    def __init__(self) -> None:
        """Watches nothing as yet."""
        self.watch: Watch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begins to watch, where there is more than one process."""
        self.watch = None
        if trainer.world_size > 1 and torch.distributed.is_initialized():
            run = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}.{next(self.runs)}"

            def finalize() -> None:
                for logger in trainer.loggers:
                    logger.finalize("failed")

            self.watch = Watch(trainer.global_rank, trainer.world_size, run, finalize)
            self.watch.start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stops watching when all processes have come to the end."""
        if self.watch is not None:
            trainer.strategy.barrier("watch")
            self.watch.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Tells the others, or ends with them if this failed for want of another."""
        if self.watch is None:
            return
        if isinstance(exception, Stopped) or getattr(exception, "by_all", False):  # as all do
            self.watch.stop()
            return
        ours = isinstance(exception, (InputError, TrainingError))
        if not ours and isinstance(exception, RuntimeError):
            self.watch.end_if_another_failed()
        self.watch.stop()
        if ours:
            exception.args = (f"rank {trainer.global_rank}: {exception}",)
        if isinstance(exception, Exception):
            named = str(exception) if ours else f"{type(exception).__name__}: {exception}"
            self.watch.tell(named.removeprefix(f"rank {trainer.global_rank}: "))


class Watch:
    """One process's look at the others, in a thread of its own."""

    def __init__(self, rank: int, world_size: int, run: str, finalize: Callable[[], None]):
        """Meets the others.

        Args:
            rank: Of this process.
            world_size: How many there are.
            run: Names what is watched, the same on all ranks and never twice.
            finalize: Writes what would be lost if the process ended at once.
        """
        self.rank = rank
        self.world_size = world_size
        self.finalize = finalize
        self.stopped = threading.Event()
        self.ending = threading.Lock()
        # a connection of its own: the process group's may be busy waiting
        store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=30),
            wait_for_workers=False,
        )
        self.store = torch.distributed.PrefixStore(  # type: ignore[attr-defined]
            f"watch/{run}", store
        )
        self.unmet = set(range(world_size)) - {rank}
        self.here: dict[int, int] = {}  # rank on this machine → file that is ready when it ended
        self.gone: list[int] = []
        self.thread = threading.Thread(target=self.run, name="watch", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self.store.set(f"place/{self.rank}", f"{machine()} {os.getpid()}")
        self.thread.start()

    def stop(self) -> None:
        """Looks no longer."""
        self.stopped.set()

    def run(self) -> None:
        """Looks from time to time, until a failure or :meth:`stop`."""
        while not self.stopped.wait(PERIOD):
            reason = self.look()
            if reason is not None and not self.stopped.wait(GRACE):
                self.end(reason)

    def look(self) -> str | None:
        """Which process has failed and why; None if all is well."""
        try:
            self.meet()
            self.gone += [rank for rank, file in self.here.items() if has_ended(file)]
            if 0 not in self.gone and self.store.check(["failure"]):
                return self.store.get("failure").decode()
            return self.publish(f"rank {self.gone[0]}: {GONE}") if self.gone else None
        except RuntimeError:  # nobody answers where the first process was
            return f"rank 0: {GONE}"

    def meet(self) -> None:
        """Finds out which processes are on this machine, as they turn up."""
        for rank in [rank for rank in self.unmet if self.store.check([f"place/{rank}"])]:
            self.unmet.remove(rank)
            where, pid = self.store.get(f"place/{rank}").decode().split()
            if where == machine() and hasattr(os, "pidfd_open"):
                try:
                    self.here[rank] = os.pidfd_open(int(pid))
                except ProcessLookupError:
                    self.gone.append(rank)
                except OSError:
                    pass  # not allowed here: the processes go without

    def publish(self, reason: str) -> str:
        """Lets all know; the first reason of all counts and is returned."""
        if reason.startswith("rank 0: ") and 0 in self.gone:  # and the store with it
            return reason
        return self.store.compare_set("failure", "", reason).decode()

    def tell(self, reason: str) -> None:
        """Lets the others know why this process fails, and waits until they do.

        Args:
            reason: Its first line is told.
        """
        with suppress(RuntimeError):
            self.publish(f"rank {self.rank}: {reason.strip().splitlines()[0]}")
            self.store.add("heard", 1)
            until(lambda: self.store.add("heard", 0) >= self.world_size, PATIENCE)

    def end_if_another_failed(self) -> None:
        """Ends this process if one that failed can be found; it may take a moment to be gone."""
        until(lambda: self.look() is not None, GRACE)
        if (reason := self.look()) is not None:
            self.end(reason)

    def end(self, reason: str) -> None:
        """Says why and ends the process at once: it may be waiting where no signal reaches it."""
        self.ending.acquire()  # for good: one thread is enough
        sys.stderr.write(f"error: {reason}\n")
        sys.stderr.flush()
        last = threading.Thread(target=self.finalize, daemon=True)
        last.start()
        last.join(PATIENCE)
        with suppress(RuntimeError):
            self.store.add("heard", 1)
        # launchers take the one that ends first for the one that failed
        until(lambda: any((self.gone, *map(has_ended, self.here.values()))), PATIENCE)
        os._exit(1)


def until(condition: Callable[[], bool], seconds: float) -> None:
    """Waits until something is so, or for so many seconds."""
    last = time.monotonic() + seconds
    while not condition() and time.monotonic() < last:
        time.sleep(PERIOD / 10)


def has_ended(process: int) -> bool:
    """Whether a process has, of which this is a file descriptor."""
    return bool(select.select([process], [], [], 0)[0])


def machine() -> str:
    """Names the machine, or the part of it whose processes can see each other."""
    space = os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
    return f"{socket.gethostname()}{space}"
