"""How the processes of a run agree that it ends, and who begins it again."""

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from detox_lightning.callbacks import signals


@pytest.fixture
def group() -> Iterator[None]:
    """Of one process."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_request_is_agreed_on_without_a_barrier(
    group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a batch, all would wait for each other."""
    calls: list[Any] = []
    reduce = torch.distributed.all_reduce

    def noted(number: torch.Tensor, operation: Any) -> None:
        reduce(number, operation)
        calls.append(operation)
        number.clamp_(min=signal.SIGUSR1)  # what another process got

    monkeypatch.setattr(torch.distributed, "all_reduce", noted)
    monkeypatch.setattr(torch.distributed, "barrier", lambda *_, **__: calls.append("barrier"))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy)
    requests = signals.Requests()
    assert requests.agreed(trainer) == signal.SIGUSR1
    requests.received = signal.SIGTERM
    assert requests.agreed(trainer) == signal.SIGTERM
    assert calls == [torch.distributed.ReduceOp.MAX] * 2


@pytest.mark.parametrize(
    ("words", "goes_on"),
    [
        (["fit", "--ckpt_path", "last"], True),
        (["fit", "--ckpt_path=last", "--config", "c"], True),
        (["fit", "--config", "last"], False),
        (["fit", "--ckpt_path", "runs/last.ckpt"], False),  # would go on from there each time
    ],
)
def test_slurm_begins_nothing_anew(
    words: list[str], goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job whose command doesn't go on would do the same again and again."""
    asked: list[list[str]] = []
    warned: list[str] = []
    monkeypatch.setattr(signals.subprocess, "run", lambda command, **_: asked.append(command))
    monkeypatch.setattr(signals, "rank_zero_warn", warned.append)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    strategy = SimpleNamespace(cluster_environment=signals.SLURMEnvironment(auto_requeue=True))
    trainer: Any = SimpleNamespace(strategy=strategy, is_global_zero=True, words=words)
    signals.requeue(trainer, signal.SIGTERM)  # the job was cancelled
    assert not asked
    assert not warned
    signals.requeue(trainer, signal.SIGUSR1)
    assert asked == ([["scontrol", "requeue", "17"]] if goes_on else [])
    assert [("job 17 again" in line, "--ckpt_path last" in line) for line in warned] == (
        [] if goes_on else [(True, True)]
    )
