"""Plain functions as rewards: what they get, what is said if they fail, and their columns."""

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from command import DEMO, IdleCLI, run, tiny_recipe
from detox_lightning.cli import command
from detox_lightning.errors import InputError, TrainingError
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.modules import PPOModule
from detox_lightning.rewards import FunctionReward, LengthReward, Reward, WeightedReward
from detox_lightning.rewards.function_reward import as_reward
from detox_lightning.rollout import score
from numerics import FLOAT32
from toys import PAIRS, collate_pairs

BATCH = collate_pairs(PAIRS[:3])._replace(columns={"difficulty": [0.5, 0.25, 1.0]})
TEXTS = ["a b", "c", ""]
MY_FILE = """\
def brief(responses, difficulty):
    return [-d * len(text.split()) for text, d in zip(responses, difficulty)]


def sums() -> list[float]:
    return []
"""


def words(responses: list[str]) -> list[int]:
    return [len(text.split()) for text in responses]


def by_name(references: list[str], difficulty: list[float], prompts: list[str]) -> Tensor:
    assert (prompts, references) == (BATCH.prompts, BATCH.references)
    return torch.tensor(difficulty, dtype=torch.float64)


@pytest.fixture
def my_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's file with functions, in the working folder."""
    (tmp_path / "my_file.py").write_text(MY_FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_file", raising=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    return tmp_path


def test_a_function_gets_what_its_arguments_name() -> None:
    assert score(as_reward(words), BATCH, TEXTS, "here").total.tolist() == [2, 1, 0]
    reward = as_reward(by_name)
    assert (reward.name, reward.columns, reward.needs) == ("by_name", ("difficulty",), ())
    scores = score(reward, BATCH, TEXTS, "here")
    assert (scores.total.dtype, scores.total.tolist()) == (torch.float32, [0.5, 0.25, 1.0])
    assert list(scores.parts) == ["by_name"]


def test_arguments_with_a_default_keep_it() -> None:
    def longer(responses: list[str], than: int = 1, **others: Any) -> list[float]:
        return [float(len(text.split()) > than) for text in responses]

    assert as_reward(longer).columns == ()
    assert score(as_reward(longer), BATCH, TEXTS, "here").total.tolist() == [1, 0, 0]
    strict = FunctionReward(partial(longer, than=0), name="strict")
    assert (strict.name, strict.describe()) == ("strict", "FunctionReward (strict)")
    assert score(strict, BATCH, TEXTS, "here").total.tolist() == [1, 1, 0]


def test_functions_are_terms_of_a_weighted_reward() -> None:
    short = LengthReward(low=0, high=0)
    reward = WeightedReward([short, words, by_name, lambda responses: [1, 2, 3]], [1, 2, 4, 8])
    assert reward.columns == ("difficulty",)
    scores = score(reward, BATCH, TEXTS, "here")
    assert list(scores.parts) == ["length", "words", "by_name", "lambda"]
    assert scores.total.tolist() == [2 + 2 + 8, -1 + 2 + 1 + 16, 4 + 24]
    whole = reward(BATCH.prompts, TEXTS, BATCH.references, **BATCH.columns)
    assert whole.tolist() == scores.total.tolist()
    assert reward.describe().endswith("+ 8 × (FunctionReward (lambda))")


class Hard(Reward):
    """A class that takes a column, too."""

    name = "hard"
    columns = ("difficulty",)

    def forward(self, prompts: Any, responses: Any, references: Any, difficulty: Any = ()) -> Any:
        return torch.tensor(difficulty)


def test_a_class_may_take_columns() -> None:
    assert score(Hard(), BATCH, TEXTS, "here").total.tolist() == [0.5, 0.25, 1.0]
    assert score(WeightedReward([Hard()]), BATCH, TEXTS, "here").total.tolist() == [0.5, 0.25, 1.0]


def test_columns_follow_their_rows() -> None:
    twice = BATCH.repeated(2)
    assert twice.columns == {"difficulty": [0.5, 0.5, 0.25, 0.25, 1.0, 1.0]}
    assert twice.select(torch.tensor([5, 2])).columns == {"difficulty": [1.0, 0.25]}


# -- what is said


def failing(responses: list[str]) -> list[float]:
    return [float(text) for text in responses]


@pytest.mark.parametrize("inside", [as_reward, lambda x: WeightedReward([x])])
def test_a_function_that_fails_is_named(inside: Callable[[Any], Reward]) -> None:
    reward, line = inside(failing), failing.__code__.co_firstlineno + 1
    message = (
        f"here: the reward {reward.name!r} failed with ValueError: could not convert string to "
        f"float: 'a b' (test_function_reward.py, line {line}): look at the function failing"
    )
    with pytest.raises(TrainingError, match=f"^{re.escape(message)}$"):
        score(reward, BATCH, TEXTS, "here")


@pytest.mark.parametrize(
    ("given", "said"), [(None, "NoneType"), ([1.0], "[1]"), (["a", "b", "c"], "list"), (0.5, "[]")]
)
def test_a_function_gives_a_number_for_each_response(given: Any, said: str) -> None:
    def odd(responses: list[str]) -> Any:
        return given

    message = (
        f"here: the reward 'odd' gave {said} where a tensor [3] is expected, one score for each "
        "of 3 responses: look at the function odd"
    )
    for reward in (as_reward(odd), WeightedReward([words, odd])):
        with pytest.raises(TrainingError, match=f"^{re.escape(message)}$"):
            score(reward, BATCH, TEXTS, "here")


class Sums(Reward):
    """A reward with a total of its own, which may fail."""

    name = "sums"
    given: Any = None

    def parts(self, prompts: Any, responses: Any, references: Any, **columns: Any) -> Any:
        return {"one": torch.ones(3), "two": torch.ones(3)}

    def total(self, parts: dict[str, Tensor]) -> Any:
        return parts["three"] if self.given is None else self.given


def test_what_failed_is_what_one_is_told_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Sums.total.__code__.co_firstlineno + 1
    message = (
        "here: the reward 'sums' failed with KeyError: 'three' (test_function_reward.py, line "
        f"{line}): look at its total"
    )
    with pytest.raises(TrainingError, match=f"^{re.escape(message)}$"):
        score(Sums(), BATCH, TEXTS, "here")
    monkeypatch.setattr(Sums, "given", torch.ones(3, 1))
    message = (
        "here: the reward 'sums' gave [3, 1] where a tensor [3] is expected, one score for each "
        "of 3 responses: look at its "
    )
    with pytest.raises(TrainingError, match=f"^{re.escape(message)}total$"):
        score(Sums(), BATCH, TEXTS, "here")
    monkeypatch.setattr(Sums, "parts", lambda *_, **__: {"sums": torch.ones(3, 1)})
    with pytest.raises(TrainingError, match=f"^{re.escape(message)}parts$"):
        score(Sums(), BATCH, TEXTS, "here")
    monkeypatch.setattr(Sums, "parts", lambda *_, **__: torch.ones(3))
    with pytest.raises(TrainingError, match=r"failed with TypeError.*: look at its parts$"):
        score(Sums(), BATCH, TEXTS, "here")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("my_file.brief", "'my_file.brief' is neither a reward, such as"),
        (LengthReward, f"{LengthReward!r} is neither a reward, such as"),
        (0.2, "0.2 is neither a reward, such as"),
        (lambda *texts: [0.0], "the function lambda has no argument that it needs; name one or "),
    ],
)
def test_what_is_no_reward_is_refused(given: Any, said: str) -> None:
    plan = EvaluationPlan(toxicity_model="demo:classifier")
    with pytest.raises(InputError, match=f"^model.reward: {re.escape(said)}"):
        PPOModule("demo:policy", given, evaluation=plan)


# -- the command line


def judged_by(classifier: str) -> list[str]:
    return [f"--model.evaluation.toxicity_model={classifier}"]


PATH = "the path of a function, such as my_reward.brief (its file without .py, a dot, and its name)"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "my_file.py",
            "my_file.py: this is Python code, no options; to name a function or class that it "
            "defines, give my_file.NAME: the file without .py, a dot, and the name",
        ),
        (
            "my_file.py:brief",
            f"--model.reward=my_file.py:brief: must be the name of a Reward, or {PATH}",
        ),
        ("my_file", f", or {PATH}"),
    ],
)
@pytest.mark.usefixtures("my_file")
def test_the_message_says_how_a_function_is_named(given: str, said: str) -> None:
    outcome = run("fit", "--config", DEMO, f"--model.reward={given}")
    assert outcome.code == 2
    assert said in outcome.err


@pytest.mark.usefixtures("my_file")
def test_a_path_without_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "DetoxCLI", IdleCLI)
    base = ["fit", "--config", DEMO, *judged_by("demo:classifier")]
    model = IdleCLI([*base, "--model.reward", "my_file.brief"]).model
    assert (model.reward.name, [*model.columns]) == ("brief", ["difficulty"])
    rewards = [{"class_path": "RougeReward"}, "my_file.brief"]
    tree = {"class_path": "WeightedReward", "init_args": {"rewards": rewards}}
    model = IdleCLI([*base, f"--model.reward={json.dumps(tree)}"]).model
    assert [part.name for _, part in model.reward.weighted] == ["rougeL", "brief"]
    for path in ("my_file.brief", "my_file.sums"):
        outcome = run(*base, f'--model.reward={{"class_path": "{path}"}}')
        assert outcome.code == 2
        assert outcome.errors == [
            f"error: --model.reward={path}: this is not a class, so it is not called; give a "
            "class, or a function's path without class_path"
        ]
    outcome = run(*base, "--model.reward=my_file.breif")
    assert outcome.code == 2
    assert outcome.errors[0].startswith("error: --model.reward=my_file.breif: must be the name of ")


def test_training_with_a_column(my_file: Path, tiny_t5: str, tiny_classifier: str) -> None:
    base = ["--config", tiny_recipe(my_file, tiny_t5, tiny_classifier), *judged_by(tiny_classifier)]
    base += ["--model.reward", "my_file.brief"]
    outcome = run("fit", *base)
    assert outcome.code == 2
    assert outcome.errors == [
        f"error: model.reward's argument=difficulty: {my_file} has no such column; it has "
        "dialogue, summary"
    ]
    for split in ("train", "validation", "test"):
        file = my_file / f"{split}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows = [{**row, "difficulty": number / 4} for number, row in enumerate(rows)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = command.DetoxCLI(["fit", *base]).model
    prompts, responses, rollout = model.newest
    difficulty = prompts.columns["difficulty"]
    assert difficulty == [place / 4 for place in prompts.places.tolist()]
    expected = [-d * len(x.split()) for d, x in zip(difficulty, responses.texts, strict=True)]
    assert rollout.scores.tolist() == pytest.approx(expected, abs=FLOAT32)
    assert any(expected)

    questions = my_file / "questions.jsonl"
    questions.write_text('{"dialogue": "Mia : nice"}\n')
    asked = ["predict", *base, "--ckpt_path=last", f"--data.predict_source={questions}"]
    outcome = run(*asked)
    assert outcome.code == 2
    assert outcome.errors == [
        f"error: --data.predict_source={questions}: line 1 has no column 'difficulty', which the "
        "reward takes as an argument; give a .jsonl file that has it"
    ]
    questions.write_text('{"dialogue": "Mia : nice", "difficulty": 3}\n')
    (row,) = command.DetoxCLI(asked).trainer.predict_loop.predictions[0] or [None]
    assert row["score"] == -3 * len(row["response"].split())
