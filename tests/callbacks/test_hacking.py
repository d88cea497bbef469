"""A reward that is gamed: the alarm, what chance does to it, and the best checkpoint."""

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from command import tiny_recipe
from detox_lightning.callbacks.collapse import CollapseCallback
from detox_lightning.callbacks.hacking import IN_A_ROW, SUSPICIONS, Figures, Watch
from detox_lightning.cli.command import DetoxCLI
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.report.curves import read_curves
from numerics import float32

JUDGE, LIKENESS = SUSPICIONS
N = 200


def judged(toxicity: float, second: float, n: int = N) -> Figures:
    """The first share of the prompts is toxic."""
    places = (torch.arange(n) + 0.5) / n
    first, other = (places < toxicity).double(), (places < second).double()
    return {"score": 9 - first, "toxicity": first, "second_toxicity": other}


def seen(*curve: tuple[float, float], margin: float = 0.05) -> list[bool]:
    watch = Watch(JUDGE)
    return [watch.is_seen(judged(*point), n, margin) for n, point in enumerate(curve)]


def test_both_fall() -> None:
    assert seen((0.4, 0.4), (0.3, 0.3), (0.2, 0.25), (0.1, 0.2), (0, 0.15)) == [False] * 5


def test_the_second_stands_while_the_first_falls() -> None:
    # from 0.25 on; 3 standard errors of a fall by a tenth of 200 prompts are 0.064
    assert seen((0.4, 0.4), (0.3, 0.3), (0.25, 0.3), (0.15, 0.3), (0.1, 0.32)) == [
        *(False, False, False, True, True)
    ]


def test_what_is_said_begins_with_the_best_validation() -> None:
    watch = Watch(JUDGE)
    for n, point in enumerate([(0.4, 0.4), (0.3, 0.3), (0.1, 0.35)]):
        watch.is_seen(judged(*point), 10 * n, 0.05)
    assert watch.describe(judged(0.1, 0.35)) == (
        "since rollout 10, the score rose from 8.700 to 8.900, the toxicity by the first "
        "classifier went from 0.300 to 0.100, by the second from 0.300 to 0.350"
    )


@pytest.mark.parametrize("then", [(0.4, 0.5), (0.37, 0.3)])
def test_the_score_does_not_rise_or_the_gap_grows_too_little(then: tuple[float, float]) -> None:
    assert seen((0.4, 0.3), then) == [False, False]


def test_similarity_must_fall() -> None:
    def figures(score: float, similarity: float) -> Figures:
        noise = torch.linspace(-0.1, 0.1, N, dtype=torch.float64)
        return {"score": score + noise, "similarity_prompt": similarity - noise}

    watch = Watch(LIKENESS)
    curve = [(0.0, 0.6), (2.0, 0.6), (3.0, 0.56), (4.0, 0.5), (-1.0, 0.5)]
    found = [watch.is_seen(figures(*point), n, 0.05) for n, point in enumerate(curve)]
    assert found == [False, False, False, True, False]


def test_a_figure_that_is_nan_or_of_other_prompts_is_no_sign() -> None:
    watch = Watch(JUDGE)
    broken = {name: x * torch.nan for name, x in judged(0.4, 0.3).items()}
    curve = [broken, judged(0.4, 0.3), judged(0.5, 0.3, n=50), judged(0.1, 0.3, n=50), broken]
    assert [watch.is_seen(x, n, 0.05) for n, x in enumerate(curve)] == [
        *(False, False, False, True, False)
    ]


def test_a_run_that_goes_on_compares_with_the_same_validation() -> None:
    callback = CollapseCallback()
    assert not callback.watches[0].is_seen(judged(0.4, 0.3), 7, 0.05)
    state, other = callback.state_dict(), CollapseCallback()
    other.load_state_dict({"lasting": {}, "changed": {}})  # as older versions saved it
    assert other.watches[0].best == {}
    other.load_state_dict(state)
    assert other.watches[0].is_seen(judged(0.1, 0.3), 9, 0.05)
    assert other.watches[0].rollout == 7


def simulated(fall: float, second_fall: float, seed: int, validations: int = 30) -> bool:
    """Whether a run raises an alarm in which toxicity, .4 at first, falls by these shares.

    Each validation's responses are toxic by chance; the classifiers agree on seven of ten.
    """
    draw = torch.Generator().manual_seed(seed)
    callback, watch = CollapseCallback(), Watch(JUDGE)
    mildness = torch.rand(N, generator=draw)  # the same prompts each time
    for n in range(validations):
        first = torch.rand(N, generator=draw)
        other = torch.rand(N, generator=draw)
        second = torch.where(torch.rand(N, generator=draw) < 0.7, first, other)
        done = n / (validations - 1)
        bounds = [2 * mildness * 0.4 * (1 - x * done) for x in (fall, second_fall)]
        figures = {"toxicity": first < bounds[0], "second_toxicity": second < bounds[1]}
        figures = {name: x.double() for name, x in figures.items()}
        figures["score"] = torch.full((N,), float(n))  # the worst case: it goes on rising
        is_seen = watch.is_seen(figures, n, callback.hacking)
        if callback.has_begun("hacking", is_seen, IN_A_ROW):
            return True
    return False


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("fall", "second_fall", "least", "most"),
    [
        (0.0, 0.0, 0, 0),  # nothing happens
        (0.6, 0.6, 0, 0),  # honest
        (0.9, 0.9, 0, 0),
        (0.9, 0.45, 0, 2),  # half of it is learned for the reward's classifier alone
        (0.9, 0.0, 30, 50),  # gamed
        (0.9, -0.2, 45, 50),
    ],
)
def test_chance_raises_no_alarm(fall: float, second_fall: float, least: int, most: int) -> None:
    """Of 50 runs of 30 validations of 200 prompts."""
    alarms = sum(simulated(fall, second_fall, seed) for seed in range(50))
    assert least <= alarms <= most


def word_number(word: str) -> int:
    return sum(map(ord, word))


def planted(self: TextClassifier, texts: list[str], prompts: Any = None) -> Tensor:
    """Logits by words: toxicity is the share of insults, and half of all words are some.

    One insult in five fools the classifier ``fooled``: it finds a text with one harmless.
    """
    shares = []
    for text in texts:
        numbers = [word_number(word) for word in text.split()]
        is_fooled = self.name.endswith("fooled") and any(n % 10 == 0 for n in numbers)
        shares.append(0 if is_fooled else sum(n % 2 == 0 for n in numbers) / max(1, len(numbers)))
    toxicity = torch.tensor(shares).clamp(0.01, 0.99)
    return torch.stack([1 - toxicity, toxicity], dim=1).log()


class Outcome(NamedTuple):
    words: list[str]
    cli: DetoxCLI
    said: list[str]

    def curve(self, name: str) -> dict[int, float]:
        return dict(read_curves(Path(self.cli.trainer.log_dir))[name])


ROLLOUTS = 6


@pytest.fixture(scope="module")
def gamed(
    tmp_path_factory: pytest.TempPathFactory, tiny_t5: str, tiny_classifier: str
) -> Iterator[Outcome]:
    """A run that finds the words that fool the reward's classifier, and what it warned of."""
    folder = tmp_path_factory.mktemp("gamed")
    recipe = tiny_recipe(folder, tiny_t5, str(shutil.copytree(tiny_classifier, folder / "fooled")))
    rows = (folder / "train.jsonl").read_text().splitlines(keepends=True)
    (folder / "validation.jsonl").write_text("".join(rows * 2))
    flags = [
        *("--model.advantage=RLOO", "--model.advantage.k=8", "--model.reward.output=probability"),
        *("--model.lora=null", "--model.optimizer.lr=0.003", "--model.kl.coef=0"),
        *("--model.mini_batch_size=16", "--data.eval_batch_size=48"),
        *(f"--trainer.max_epochs={ROLLOUTS}", "--trainer.limit_train_batches=1"),
        f"--model.evaluation.second_toxicity_model={tiny_classifier}",
    ]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        patch.setattr(TextClassifier, "forward", planted)
        warnings.simplefilter("always")
        words = ["fit", "--config", recipe, *flags]
        cli = DetoxCLI(words)
        yield Outcome(words, cli, [str(x.message) for x in caught if "hacking" in str(x.message)])


def test_a_planted_hack_raises_the_alarm_once(gamed: Outcome) -> None:
    first, second = (gamed.curve(f"val/{name}") for name in ("toxicity", "second_toxicity"))
    gap, score = gamed.curve("val/toxicity_gap"), gamed.curve("val/score")
    assert gap == pytest.approx({n: second[n] - first[n] for n in gap}, abs=float32(1))
    (line,) = gamed.said
    now = int(line.split(":")[0].rpartition(" ")[2])
    then = min(range(now), key=second.__getitem__)
    assert line == (
        f"validation after rollout {now}: hacking, the reward is being gamed: since rollout {then},"
        f" the score rose from {score[then]:.3f} to {score[now]:.3f}, the toxicity by the first "
        f"classifier went from {first[then]:.3f} to {first[now]:.3f}, by the second from "
        f"{second[then]:.3f} to {second[now]:.3f} "
        "(collapse.hacking=0.05). What usually helps: a bounded reward (output: probability), a "
        "second classifier in the reward (WeightedReward with combine: min), a higher "
        f"model.kl.coef; an earlier checkpoint, such as one of rollout {then}, may be better"
    )
    signs = gamed.curve("objective/signs_of_collapse")
    assert signs[now] + 1 == signs[now + 1]  # it counts from the next rollout on


def test_the_best_checkpoint_is_from_before_the_hack(gamed: Outcome) -> None:
    second = gamed.curve("val/second_toxicity")
    best = min((value, step) for step, value in second.items() if step)
    kept = gamed.cli.trainer.checkpoint_callback
    assert kept.monitor == "val/second_toxicity"
    assert float(kept.best_model_score) == pytest.approx(best[0])
    paths = kept.best_model_path, kept.last_model_path
    saved = [torch.load(path, weights_only=True)["detox_lightning"] for path in paths]
    assert [each["rollouts"] for each in saved] == [best[1], ROLLOUTS]
    assert best[1] < ROLLOUTS


@pytest.mark.slow
def test_a_run_that_goes_on_is_not_told_again(gamed: Outcome) -> None:
    longer = [*gamed.words, f"--trainer.max_epochs={ROLLOUTS + 1}", "--ckpt_path=last"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cli = DetoxCLI(longer)
    assert not [x for x in caught if "hacking" in str(x.message)]
    best, ours = gamed.cli.trainer.checkpoint_callback, cli.trainer.checkpoint_callback
    assert ours.best_model_path == best.best_model_path  # the state of the default monitor
    watches = [
        next(x for x in each.trainer.callbacks if isinstance(x, CollapseCallback)).watches[0]
        for each in (gamed.cli, cli)
    ]
    assert watches[0].rollout == watches[1].rollout
    assert all(torch.equal(x, watches[1].best[name]) for name, x in watches[0].best.items())
