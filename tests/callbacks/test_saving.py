"""What is said to be saved is, and a run that is asked to end isn't taken for one that failed."""

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from command import run
from detox_lightning.errors import InputError, Stopped
from detox_lightning.runs import checkpointing as saving
from detox_lightning.runs.checkpointing import BoundedCheckpoint


def test_a_last_checkpoint_that_is_none_is_refused() -> None:
    assert BoundedCheckpoint(save_last=True).save_last is True
    for given, shown in ((False, "false"), ("link", "link")):
        message = rf"^checkpoint.save_last={shown}: .*last.ckpt.*leave it true$"
        with pytest.raises(InputError, match=message):
            BoundedCheckpoint(save_last=given)


def test_the_command_line_refuses_to_do_without_it() -> None:
    demo = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"
    outcome = run("fit", "--config", str(demo), "--checkpoint.save_last=link")
    assert outcome.code == 2
    (line,) = outcome.errors
    assert "checkpoint.save_last=link: a run that is stopped is saved in last.ckpt" in line


def test_no_process_ends_before_slurm_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them asks; where another has ended meanwhile, it is taken for a failure."""
    did: list[str] = []
    monkeypatch.setattr(saving, "requeue", lambda *_: did.append("requeue"))
    trainer: Any = SimpleNamespace(global_step=0, strategy=SimpleNamespace(barrier=did.append))
    checkpoint = BoundedCheckpoint()
    checkpoint._last_global_step_saved = 0
    with pytest.raises(Stopped) as raised:
        checkpoint.stop(trainer, signal.SIGUSR1)
    assert raised.value.signum == signal.SIGUSR1
    assert did == ["requeue", "stopped"]
