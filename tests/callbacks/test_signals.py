"""How the processes of a run agree that it ends, and who begins it again."""

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from command import IdleCLI, tiny_recipe
from detox_lightning.runs import signals
from toys import blank_checkpoint


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
    requests = signals.StopRequests()
    assert requests.agreed(trainer) == signal.SIGUSR1
    requests.received = signal.SIGTERM
    assert requests.agreed(trainer) == signal.SIGTERM
    assert calls == [torch.distributed.ReduceOp.MAX] * 2


@pytest.mark.parametrize(
    ("flags", "goes_on"),
    [
        (["--ckpt_path", "last"], True),
        (["--config", "last.yaml"], True),  # which says ckpt_path: last
        ([], False),
        (["--ckpt_path", "runs/last.ckpt"], False),  # would go on from there each time
    ],
)
def test_slurm_begins_nothing_anew(
    flags: list[str],
    goes_on: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_t5: str,
    tiny_classifier: str,
) -> None:
    """A job whose command doesn't go on would do the same again and again."""
    monkeypatch.chdir(tmp_path)
    Path("last.yaml").write_text("ckpt_path: last")
    Path("runs").mkdir()
    torch.save(blank_checkpoint(), "runs/last.ckpt")
    recipe = tiny_recipe(tmp_path, tiny_t5, tiny_classifier)
    trainer: Any = IdleCLI(["fit", "--config", recipe, *flags]).trainer
    asked: list[list[str]] = []
    warned: list[str] = []
    monkeypatch.setattr(signals.subprocess, "run", lambda command, **_: asked.append(command))
    monkeypatch.setattr(signals, "rank_zero_warn", warned.append)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    environment = signals.SLURMEnvironment(auto_requeue=True)
    monkeypatch.setattr(trainer.strategy, "cluster_environment", environment, raising=False)
    signals.requeue(trainer, signal.SIGTERM)  # the job was cancelled
    assert not asked
    assert not warned
    signals.requeue(trainer, signal.SIGUSR1)
    assert asked == ([["scontrol", "requeue", "17"]] if goes_on else [])
    assert [("job 17 again" in line, "--ckpt_path last" in line) for line in warned] == (
        [] if goes_on else [(True, True)]
    )
