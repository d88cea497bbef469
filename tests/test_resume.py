"""A run that was killed and goes on is the run that nobody killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import detox_lightning
from command import run, tiny_recipe
from detox_lightning.rewards import ClassifierReward
from detox_lightning.runs import signals
from detox_lightning.runs.resume_callback import ResumeCallback
from detox_lightning.runs.run_folders import is_trial
from detox_lightning.runs.run_lock import is_locked
from test_finding import held

SECONDS = 300  # nothing may take longer, hanging processes included


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--kills=3", "--seed=8"),
        ("--processes=2", "--kills=2", "--signals", "SIGTERM", "SIGKILL", "--seed=1048"),
    ],
    ids=["one process", "two processes"],
)
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    """``python tests/kills.py --runs 20`` does it twenty times."""
    here = Path(__file__).parent
    paths = [str(Path(detox_lightning.__file__).parents[1]), str(here)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(here / "kills.py"), "--runs=1", f"--folder={tmp_path}", *flags]
    done = subprocess.run(
        words, capture_output=True, text=True, env=environment, timeout=SECONDS, check=False
    )
    assert done.stdout.endswith("1 of 1 runs are the uninterrupted one, bit for bit\n"), (
        done.stdout + done.stderr
    )


# -- within this process


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder and a cache of its own; the seed that a run sets ends with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


@pytest.fixture
def recipe(tmp_path: Path, tiny_t5: str, tiny_classifier: str) -> str:
    return tiny_recipe(tmp_path, tiny_t5, tiny_classifier)


@pytest.fixture
def at_second_rollout(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets something happen when the training reward is asked for the second time."""

    def arrange(happen: Any) -> None:
        forward, asked = ClassifierReward.forward, []

        def heeded(self: ClassifierReward, *texts: list[str]) -> torch.Tensor:
            asked.append(texts)
            if len(asked) == 2:
                happen()
            return forward(self, *texts)

        monkeypatch.setattr(ClassifierReward, "forward", heeded)

    return arrange


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows."""
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    names = events.Tags()["scalars"]
    return {name: [(x.step, x.value) for x in events.Scalars(name)] for name in names}


LOGGER = '{"class_path": "%sLogger", "init_args": {"save_dir": "%s", "name": "tiny"}}'
CSV = (f"--trainer.logger=[{LOGGER % ('TensorBoard', 'runs')}, {LOGGER % ('CSV', 'csv')}]",)
ENDLESS = ("--trainer.max_epochs=3", "--trainer.limit_val_batches=0")


def test_a_signal_saves_and_tells_how_to_go_on(
    recipe: str, tmp_path: Path, at_second_rollout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", "--config", recipe, *ENDLESS]
    monkeypatch.setattr(sys, "argv", ["detox-lightning", *words])
    at_second_rollout(lambda: signal.raise_signal(signal.SIGTERM))
    outcome = run(*words)
    assert outcome.code == 128 + signal.SIGTERM
    last = "runs/tiny/version_0/checkpoints/last.ckpt"
    command = " ".join(["python -m detox_lightning", *words, "--ckpt_path last"])
    assert outcome.err.splitlines()[-2:] == [
        f"Everything is saved in {tmp_path / last}.",
        f"To resume: {command}",
    ]
    assert "Traceback" not in outcome.err
    facts = torch.load(last, weights_only=True)["detox_lightning"]
    assert facts["rollouts"] == 2
    outcome = run(*words, "--ckpt_path", "last")
    assert outcome.code == 0, outcome.err
    assert [x.name for x in Path("runs/tiny").iterdir()] == ["version_0"]
    curves = scalars(Path("runs/tiny/version_0"))
    assert [step for step, _ in curves["objective/kl"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in curves["size/policy_total"]] == [0]


def test_a_run_is_alive_until_it_ends(recipe: str, tmp_path: Path, at_second_rollout: Any) -> None:
    folder = tmp_path / "runs/tiny/version_0/checkpoints"
    seen = []

    def look() -> None:
        """From another process."""
        child = os.fork()
        if not child:
            os._exit(17 if is_locked(folder) else 1)
        seen.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        signal.raise_signal(signal.SIGTERM)

    at_second_rollout(look)
    assert run("fit", "--config", recipe, *ENDLESS).code == 128 + signal.SIGTERM
    assert seen == [17]
    assert not (folder / ".lock").exists()


@pytest.mark.slow
def test_runs_that_choose_together_do_not_go_on_together(recipe: str, tmp_path: Path) -> None:
    """Another one has begun between this one's choice and its start."""
    assert run("fit", "--config", recipe, *CSV).code == 0
    folder = tmp_path / "runs/tiny/version_0/checkpoints"
    rows = (tmp_path / "csv/tiny/version_0/metrics.csv").read_text()
    hold, holders = ResumeCallback.lock_folders, []

    def late(self: ResumeCallback, *given: Any) -> None:
        if not holders:
            holders.append(other := held(folder))
            other.__enter__()
        hold(self, *given)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ResumeCallback, "lock_folders", late)
            outcome = run("fit", "--config", recipe, *CSV, "--ckpt_path", "last")
    finally:
        holders[0].__exit__(None, None, None)
    assert outcome.code == 2
    (line,) = outcome.errors
    assert "this run is still active in another process" in line
    assert (tmp_path / "csv/tiny/version_0/metrics.csv").read_text() == rows


def test_a_start_that_is_refused_loses_no_rows(recipe: str, tmp_path: Path) -> None:
    words = ["fit", "--config", recipe, *CSV, "--ckpt_path", "last"]
    (tmp_path / "csv/tiny/version_0").mkdir(parents=True)  # of a run without the other logger
    assert run(*words).code == 0
    folder = tmp_path / "csv/tiny/version_1"
    rows = (folder / "metrics.csv").read_text()
    assert [x.name for x in Path("runs/tiny").iterdir()] == ["version_1"]
    assert run(*words, "--model.lora.r=8").code == 2
    assert (folder / "metrics.csv").read_text() == rows
    assert [x.name for x in folder.iterdir() if x.name.startswith(".")] == []
    assert run(*words).code == 0  # nothing is left to do
    assert (folder / "metrics.csv").read_text() == rows
    assert len([*Path("csv/tiny").iterdir()]) == 2


@pytest.mark.slow
def test_what_early_stopping_has_ended_stays_ended(recipe: str, tmp_path: Path) -> None:
    options = {"monitor": "val/toxicity", "patience": 1, "min_delta": 10.0}
    stopping = {"class_path": "EarlyStopping", "init_args": options}
    (tmp_path / "stops.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [stopping]}}))
    endless = [
        "fit",
        "--config",
        recipe,
        "--trainer.max_epochs=3",
        "--trainer.limit_train_batches=1",
        "--ckpt_path",
        "last",
    ]
    last = tmp_path / "runs/tiny/version_0/checkpoints/last.ckpt"

    def rollouts() -> int:
        done: int = torch.load(last, weights_only=True)["detox_lightning"]["rollouts"]
        return done

    stopped = [*endless, "--config", str(tmp_path / "stops.yaml")]
    assert run(*stopped).code == 0
    done = rollouts()
    assert done == 2
    outcome = run(*stopped)
    assert outcome.code == 0, outcome.err
    assert rollouts() == done
    assert run(*endless).code == 0
    assert rollouts() == 3


def test_slurm_is_asked_to_start_the_job_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    program = tmp_path / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "17")

    class Strategy:
        cluster_environment: Any = signals.SLURMEnvironment(auto_requeue=True)

    class Process:
        strategy, is_global_zero = Strategy(), True

    process: Any = Process()
    signals.requeue(process, signal.SIGTERM)  # the job was cancelled
    assert not asked.exists()
    signals.requeue(process, signal.SIGUSR1)
    assert asked.read_text() == "requeue 17\n"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    signals.requeue(process, signal.SIGUSR1)
    assert asked.read_text() == "requeue 17\nrequeue 16_2\n"
    process.is_global_zero = False
    signals.requeue(process, signal.SIGUSR1)
    process.strategy.cluster_environment = signals.SLURMEnvironment(auto_requeue=False)
    process.is_global_zero = True
    signals.requeue(process, signal.SIGUSR1)
    assert len(asked.read_text().splitlines()) == 2


def test_a_command_loses_its_checkpoint() -> None:
    words = ["fit", "--ckpt_path", "a.ckpt", "--config", "c", "--ckpt_path=b.ckpt", "--x=1"]
    assert signals.without_checkpoint(words) == ["fit", "--config", "c", "--x=1"]


def test_a_finished_run_is_left_alone_and_can_be_made_longer(recipe: str) -> None:
    fit = ["fit", "--config", recipe, "--ckpt_path", "last"]
    begun = run(*fit)
    assert begun.code == 0, begun.err
    folder = Path("runs/tiny/version_0")
    names = {x.name for x in folder.iterdir() if "tfevents" not in x.name}
    assert names == {"adapter", "checkpoints", "config.yaml", "hparams.yaml", "summary.txt"}
    curves, state = scalars(folder), (folder / "checkpoints/last.ckpt").read_bytes()
    again = run(*fit)
    assert again.code == 0
    assert [x.name for x in Path("runs/tiny").iterdir()] == ["version_0"]
    assert {x.name for x in folder.iterdir() if "tfevents" not in x.name} == names
    assert (folder / "checkpoints/last.ckpt").read_bytes() == state
    assert scalars(folder) == curves
    assert f"is complete, and {folder.absolute()}/adapter exists" in again.err
    longer = run("fit", "--ckpt_path", "last", "--trainer.max_epochs=2")
    assert longer.code == 0, longer.err
    assert f"The configuration is {folder}/config.yaml" in longer.err
    assert [x.name for x in Path("runs/tiny").iterdir()] == ["version_0"]
    said = [line.removeprefix("INFO: ") for line in longer.err.splitlines()]
    assert f"The trained model is in {folder.absolute()}/adapter-1" in said
    earlier = "/adapter holds an earlier model, from before this training"
    assert f"{folder.absolute()}{earlier}" in said
    assert [step for step, _ in scalars(folder)["objective/kl"]] == [1, 2, 3, 4]
    assert [step for step, _ in scalars(folder)["val/kl"]] == [0, 2, 4]
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
    complete = run("fit", "--ckpt_path", "last", "--export.merged=true")
    assert complete.code == 0, complete.err
    assert "earlier model" not in begun.err + again.err + complete.err
    assert f"The trained model is in {folder.absolute()}/adapter-1" in complete.err
    names = {x.name for x in folder.iterdir() if x.is_dir()}
    assert names == {"adapter", "adapter-1", "checkpoints", "merged-1"}
    again = run("fit", "--ckpt_path", "last")
    assert f"is complete, and {folder.absolute()}/adapter-1 exists" in again.err


def test_a_checkpoint_that_can_t_be_written_leaves_the_one_before(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at the second rollout's end."""
    sync, written = os.fsync, []

    def full(handle: int) -> None:
        written.append(handle)
        if len(written) == 3:  # the file and its folder, then the next file
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    flags = (*ENDLESS, "--checkpoint.every_n_batches=1", "--checkpoint.save_top_k=0")
    outcome = run("fit", "--config", recipe, *flags)
    assert outcome.code == 1
    (line,) = outcome.errors
    assert "checkpoints/last.ckpt could not be written ([Errno 28] No space left" in line
    folder = Path("runs/tiny/version_0/checkpoints")
    assert [x.name for x in folder.iterdir() if x.suffix != ".ckpt"] == []
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    assert saved["detox_lightning"]["rollouts"] == 1


def test_a_torn_last_checkpoint_is_skipped(recipe: str) -> None:
    flags = (*ENDLESS, "--checkpoint.every_n_batches=1", "--checkpoint.save_top_k=0")
    assert run("fit", "--config", recipe, *flags).code == 0
    folder = Path("runs/tiny/version_0/checkpoints")
    whole = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"damaged: .*last.ckpt; .*previous.ckpt is used"):
        outcome = run("fit", "--config", recipe, *flags, "--ckpt_path", "last")
    assert outcome.code == 0, outcome.err
    names = {"last.ckpt", "previous.ckpt", "last.ckpt.damaged"}
    assert {x.name for x in folder.iterdir()} == names
    ours = torch.load(folder / "last.ckpt", weights_only=True)
    (folder / "whole.ckpt").write_bytes(whole)
    theirs = torch.load(folder / "whole.ckpt", weights_only=True)
    for name, weight in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], weight)
    assert ours["detox_lightning"]["moments"] == theirs["detox_lightning"]["moments"]
    curves = scalars(folder.parent)
    assert [step for step, _ in curves["objective/kl"]] == [1, 2, 3, 4, 5, 6]


def test_nothing_is_written_in_a_trial(recipe: str) -> None:
    assert run("fit", "--config", recipe, "--trainer.fast_dev_run=1").code == 0
    assert not list(Path().rglob("*.ckpt"))
    assert is_trial(type("T", (), {"fast_dev_run": 1})())  # type: ignore[arg-type]
