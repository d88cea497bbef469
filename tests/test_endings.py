"""What looks like the end of a run and isn't, and what the program says of ends."""

import errno
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from command import Outcome, run, tiny_recipe
from detox_lightning import __main__
from detox_lightning.algorithm.advantages import GAE
from detox_lightning.cli import command
from detox_lightning.errors import InputError, TrainingError, causes, find_cause
from detox_lightning.rewards import Reward
from detox_lightning.runs.end_of_data import EndingCallback
from detox_lightning.runs.signals import StopRequests
from ppo_toys import Liking, fit, make_module
from toys import make_trainer, pairs_loader

HERE = Path(__file__).name
EXITS = [StopIteration, SystemExit, GeneratorExit]


class Leaving(Reward):
    """Raises what ends loops and programs."""

    name = "leaving"

    def __init__(self, kind: type[BaseException]):
        super().__init__()
        self.kind = kind

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        raise self.kind


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", EXITS)
def test_a_reward_ends_no_training_as_done(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, kind: type[BaseException]
) -> None:
    module = make_module(tiny_t5, tiny_classifier, reward=Leaving(kind))
    line = Leaving.forward.__code__.co_firstlineno + 1
    said = rf"^rollout 0: the reward 'leaving' failed with {kind.__name__}: no reason given "
    with pytest.raises(TrainingError, match=rf"{said}\({HERE}, line {line}\): look at its"):
        fit(tmp_path, module, rollouts=2)
    module.configure_model()
    with pytest.raises(TrainingError, match=rf"^evaluation: the reward 'leaving' .*line {line}"):
        make_trainer(tmp_path).validate(module, pairs_loader(), verbose=False)


class Unsure(Liking):
    """Knows no number for some responses."""

    def forward(self, prompts: list[str], responses: list[str], references: list[str]) -> Tensor:
        return super().forward(prompts, responses, references).log()  # of numbers below 0, too


def test_a_test_says_that_scores_are_missing(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(tiny_t5, tiny_classifier, reward=Unsure())
    loader = pairs_loader(8, side=module.source.family.padding_side)
    with pytest.warns(UserWarning, match=r"^evaluation: the reward 'liking' gave numbers that are"):
        make_trainer(tmp_path).test(module, loader, verbose=False)


class UsedUp(GAE):
    """Asks for more of what there is no more of."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        return next(iter(()))


def test_an_advantage_ends_no_training_as_done(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(tiny_t5, tiny_classifier, advantage=UsedUp())
    said = rf"^rollout 0: StopIteration was raised \({HERE}, line \d+\), perhaps by a next\(\)"
    with pytest.raises(TrainingError, match=said):
        fit(tmp_path, module, rollouts=2)


class Rows(Dataset[Tensor]):
    """Four rows, of which the third can't be had."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        if index == 2:
            raise StopIteration
        return torch.ones(1)


class Flow(IterableDataset[Tensor]):
    """Says that it has more than it has: who reads it finds out."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Tensor]:
        yield from SOUND[:2]


class Tiny(LightningModule):
    """Learns one number, and stops where it is told to."""

    def __init__(self, where: str = ""):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.where = where

    def step(self, name: str, batch: Tensor) -> Tensor:
        if name == self.where:
            next(iter(()))
        return self.layer(batch).square().mean()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.step("training", batch)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.step("validation", batch)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.step("test", batch)

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.step("predict", batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Stopping(Callback):
    """Somebody's callback."""

    def on_train_batch_end(self, *_: Any) -> None:
        raise StopIteration


SOUND = [torch.ones(1) for _ in range(4)]
FIT: dict[str, tuple[str, Any, list[Callback], str]] = {
    "its step": ("training", SOUND, [], "epoch 0: StopIteration was raised within batch 1,"),
    "its validation": ("validation", SOUND, [], "validation: StopIteration .* within batch 1,"),
    "a callback": ("", SOUND, [Stopping()], "epoch 0: StopIteration was raised within batch 1,"),
    "the data": ("", Rows(), [], "epoch 0: .* where the data should give 4 batches and gave 2,"),
}


@pytest.mark.parametrize("name", FIT)
def test_no_other_code_ends_training_as_done(tmp_path: Path, name: str) -> None:
    where, rows, callbacks, said = FIT[name]
    trainer = make_trainer(tmp_path, max_epochs=2, callbacks=[EndingCallback(), *callbacks])
    with pytest.raises(TrainingError, match=f"^{said}"):
        trainer.fit(Tiny(where), DataLoader(rows), DataLoader(SOUND))


def test_nor_do_workers(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=2, callbacks=[EndingCallback()])
    with pytest.raises(TrainingError, match=r"should give 4 batches and gave 2,"):
        trainer.fit(Tiny(), DataLoader(Rows(), num_workers=1))


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_nor_an_evaluation(tmp_path: Path, verb: str) -> None:
    trainer = make_trainer(tmp_path, callbacks=[EndingCallback()])
    part = {"validate": "validation"}.get(verb, verb)
    with pytest.raises(TrainingError, match=f"^{part}: StopIteration was raised within batch 1,"):
        getattr(trainer, verb)(Tiny(part), DataLoader(SOUND))
    with pytest.raises(TrainingError, match=f"^{part}: .* should give 4 batches and gave 2,"):
        getattr(trainer, verb)(Tiny(), DataLoader(Rows()))


def test_what_ends_as_it_was_asked_to_is_left_alone(tmp_path: Path) -> None:
    class Enough(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = True

    class Skipping(Tiny):
        def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> int | None:
            return -1 if batch_idx == 1 else None  # Lightning's way to leave out an epoch's rest

    ends: list[tuple[dict[str, Any], list[Callback]]] = [
        ({"max_steps": 3}, []),
        ({"limit_train_batches": 2, "limit_val_batches": 1}, []),
        ({}, [Enough()]),
    ]
    for options, callbacks in ends:
        more = {"max_epochs": 2, "callbacks": [EndingCallback(), *callbacks], **options}
        make_trainer(tmp_path, **more).fit(Tiny(), DataLoader(SOUND), DataLoader(SOUND))
    make_trainer(tmp_path, max_epochs=1, callbacks=[EndingCallback()]).fit(
        Tiny(), DataLoader(Flow()), [DataLoader(SOUND), DataLoader(SOUND[:1])]
    )
    with pytest.raises(TrainingError, match="should give 4 batches and gave 1"):
        make_trainer(tmp_path, max_epochs=1, callbacks=[EndingCallback()]).fit(
            Skipping(), DataLoader(SOUND)
        )


# -- the program


@pytest.fixture
def recipe(
    tmp_path: Path, tiny_t5: str, tiny_classifier: str, monkeypatch: pytest.MonkeyPatch
) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    return tiny_recipe(tmp_path, tiny_t5, tiny_classifier)


def ran(monkeypatch: pytest.MonkeyPatch, recipe: str, what: Callable[[], object]) -> Outcome:
    """What the program does where a command's run does something."""
    monkeypatch.setattr(command.DetoxTrainer, "fit", lambda *_, **__: what())
    return run("fit", "--config", recipe)


def raising(error: BaseException) -> Callable[[], object]:
    def what() -> None:
        raise error

    return what


def test_the_program_ends_with_what_was_raised(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = ran(monkeypatch, recipe, raising(SystemExit(0)))
    line = raising.__code__.co_firstlineno + 2
    assert outcome.code == 1
    assert outcome.errors == [
        f"error: SystemExit was raised within the run ({HERE}, line {line}) before it had "
        "finished; raise another exception where something is wrong"
    ]
    assert ran(monkeypatch, recipe, raising(GeneratorExit("odd"))).code == 1
    outcome = ran(monkeypatch, recipe, raising(KeyboardInterrupt()))
    assert (outcome.code, outcome.err.splitlines()[-1]) == (
        130,
        "SIGINT: The command ended at once; saved checkpoints are complete.",
    )
    circle, back = RuntimeError("round"), OSError(28, "No space left on device")
    circle.__cause__, back.__context__ = back, circle
    outcome = ran(monkeypatch, recipe, raising(circle))
    assert (outcome.code, len(outcome.errors)) == (1, 1)


def test_a_writer_in_a_thread_that_fails_is_a_line(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard's raises one stored exception again and again: its causes are a circle."""
    stored = FileNotFoundError(errno.ENOENT, "No such file or directory", b"runs/events")

    def write() -> None:
        thread = threading.Thread(target=raising(stored))
        thread.start()
        thread.join()
        try:
            raise stored
        except OSError as error:
            again = RuntimeError("the logger")
            again.__context__, error.__context__ = error, again
            raise again from error

    outcome = ran(monkeypatch, recipe, write)
    said = "runs/events: No such file or directory; check the path"
    assert outcome.err.splitlines()[-2] == said
    assert "Traceback" not in outcome.err
    assert (outcome.code, len(outcome.errors)) == (1, 1)
    assert threading.excepthook is not __main__.print_thread_failure


def test_ctrl_c_while_it_starts_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def early(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "DetoxCLI", early)
    outcome = run("fit")
    assert (outcome.code, outcome.err) == (
        130,
        "SIGINT: The command ended at once; saved checkpoints are complete.\n",
    )


def test_ctrl_c_by_way_of_lightning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class ByHand(Callback):
        def on_test_batch_end(self, *_: Any) -> None:
            raise KeyboardInterrupt

    def test() -> None:
        make_trainer(tmp_path, callbacks=[ByHand()]).test(Tiny(), DataLoader(SOUND))

    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as end:
            test()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert any(isinstance(x, KeyboardInterrupt) for x in causes(end.value))
    assert __main__.failure_behind(end.value) is end.value.__context__


def test_ctrl_c_once_is_a_request_and_twice_an_end() -> None:
    assert threading.current_thread() is threading.main_thread()
    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
    before = {signum: signal.getsignal(signum) for signum in signals}
    requests = StopRequests()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run behind
    try:
        requests.listen()
        signal.raise_signal(signal.SIGINT)
        assert requests.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell has it for what runs behind
        requests.listen()
        signal.raise_signal(signal.SIGINT)
        assert requests.received == 0
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def test_causes_in_a_circle_come_once() -> None:
    one, other = ValueError("one"), InputError("other")
    one.__context__, other.__context__ = other, one
    assert list(causes(one)) == [one, other]
    assert find_cause(one, InputError) is other
    assert find_cause(one, TrainingError) is None
