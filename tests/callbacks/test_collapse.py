"""Each sign of a collapse in a real run: what is said, when, and how often."""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from command import run, tiny_recipe
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.callbacks.collapse import SIGNS, CollapseCallback
from detox_lightning.models.decoding.sampling import Sampling
from ppo_toys import EOS, WatchedPPO, fit, make_module

VARIED = [[5 + n, 6 + n, EOS] for n in range(8)]
RESTRAINT = "a lower model.optimizer.lr, a higher model.kl.coef"
BEFORE = "resume from a checkpoint from before the collapse"


class Certain(WatchedPPO):
    """A policy with a head that makes one token all but certain."""

    token = EOS

    def configure_model(self) -> None:
        super().configure_model()
        head = self.policy.model.get_output_embeddings()
        head.bias = torch.nn.Parameter(torch.zeros(200), requires_grad=False)
        head.bias[self.token] = 1e3


def said(folder: Path, module: WatchedPPO, count: int, **options: Any) -> list[str]:
    """The warnings of a run, whose bounds are those of the defaults where nothing else is given."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(folder, module, count, callbacks=CollapseCallback(**options))
    return [str(x.message) for x in caught if "collapse" in str(x.message)]


def test_empty_responses(tiny_t5: str, tiny_classifier: str, tmp_path: Path) -> None:
    module = make_module(tiny_t5, tiny_classifier)
    module.given = [[EOS]] * 5 + VARIED[:3]
    assert said(tmp_path, module, 3, same=1) == [
        "rollout 2: the policy is collapsing: 62% of the responses are empty (collapse.empty=0.5, "
        "collapse.rollouts=3). What usually helps: a reward that is low for empty responses (add "
        f"a LengthReward), {RESTRAINT}; {BEFORE}"
    ]
    assert [step.metrics["objective/signs_of_collapse"] for step in module.watched] == [0, 0, 1]


def test_one_response_to_different_prompts(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(tiny_t5, tiny_classifier)
    module.given = [[5, 6, EOS]] * 8
    assert said(tmp_path, module, 2, rollouts=2, kl=math.inf) == [
        "rollout 1: the policy is collapsing: 100% of the prompts get the same response "
        "(collapse.same=0.9, collapse.rollouts=2). What usually helps: a reward that is low for "
        f"this response, a higher model.loss.ent_coef, {RESTRAINT}; {BEFORE}"
    ]


def test_a_policy_that_is_certain_of_its_end_shows_three_signs(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(tiny_t5, tiny_classifier, sampling=Sampling(max_new_tokens=4))
    module.__class__ = Certain
    lines = said(tmp_path, module, 3)
    assert [line.partition(" (")[0] for line in lines] == [
        "rollout 2: the policy is collapsing: 100% of the responses are empty",
        "rollout 2: the policy is collapsing: the entropy is 0.0000 nats per token",
        "rollout 2: the policy is collapsing: 100% of the prompts get the same response",
    ]
    assert lines[1].endswith(
        "(collapse.entropy=0.01, collapse.rollouts=3). What usually helps: a higher "
        "model.loss.ent_coef, "
        f"{RESTRAINT}; {BEFORE}"
    )
    assert [step.metrics["objective/signs_of_collapse"] for step in module.watched] == [0, 0, 3]


def test_far_from_the_reference(tiny_t5: str, tiny_classifier: str, tmp_path: Path) -> None:
    module = make_module(tiny_t5, tiny_classifier, lr=0.1, kl=KLPenalty(coef=0, target=0.1))
    lines = said(tmp_path, module, 4, rollouts=1, empty=1, same=1, entropy=0)
    kl = [step.metrics["objective/kl"] for step in module.watched]
    first = next(n for n, each in enumerate(kl) if each > 0.3)  # three times the target
    assert lines[0] == (
        f"rollout {first}: the policy is collapsing: the KL divergence from the reference is "
        f"{kl[first]:.1f} nats per response (collapse.kl=0.3, collapse.rollouts=1). What usually "
        "helps: "
        f"{RESTRAINT}, a smaller model.kl.horizon, fewer model.ppo_epochs or "
        f"model.early_stop_kl; {BEFORE}"
    )


@pytest.mark.parametrize(
    ("target", "given", "bound"),
    [(6.0, None, 18), (None, None, 18), (2.0, None, 6), (2.0, 9.5, 9.5)],
)
def test_the_bound_on_kl_is_three_times_its_target(
    target: float | None, given: float | None, bound: float
) -> None:
    (sign,) = (x for x in SIGNS if x.flag == "kl")
    assert CollapseCallback(kl=given).bounds(target)["kl"] == bound
    seen = [sign.is_seen(x, bound) for x in (bound, bound + 1e-6, math.nan)]
    assert seen == [False, True, False]


def test_a_healthy_run_is_left_alone(tiny_t5: str, tiny_classifier: str, tmp_path: Path) -> None:
    module = make_module(tiny_t5, tiny_classifier, lr=1e-3)
    assert said(tmp_path, module, 4, rollouts=1) == []
    assert [step.metrics["objective/signs_of_collapse"] for step in module.watched] == [0] * 4


def begun(callback: CollapseCallback, seen: str) -> list[int]:
    """Rollouts at which a sign begins; x: it is seen."""
    return [n for n, x in enumerate(seen) if callback.has_begun("same", x == "x")]


@pytest.mark.parametrize(
    ("seen", "rollouts"),
    [
        ("xx.xx.xx.", []),  # never three in a row
        ("xxxxxxxxx", [2]),  # once
        ("xxx..x..xxx", [2]),  # it hadn't ended
        ("xxx...xx.xxx", [2, 11]),  # it had
    ],
)
def test_a_sign_is_named_once_when_it_begins_and_again_after_it_had_ended(
    seen: str, rollouts: list[int]
) -> None:
    assert begun(CollapseCallback(), seen) == rollouts


def test_a_run_that_goes_on_knows_what_was_seen() -> None:
    seen, callback = "xxx...xx.xxx", CollapseCallback()
    found = []
    for n, x in enumerate(seen):
        state, callback = callback.state_dict(), CollapseCallback()
        callback.load_state_dict(state)
        found += [n] * len(begun(callback, x))
    assert found == [2, 11]


def test_the_command_line_warns_tells_tensorboard_and_can_end_the_run(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_t5, tiny_classifier)
    stopping = {
        "callbacks": "EarlyStopping",
        "callbacks.monitor": "objective/signs_of_collapse",
        "callbacks.divergence_threshold": "0.5",
        "callbacks.patience": "1000000",
    }
    with pytest.warns(UserWarning, match="the policy is collapsing") as caught:
        outcome = run(
            *("fit", "--config", recipe, "--trainer.max_epochs=6"),
            *("--trainer.limit_train_batches=1", "--data.validation_split=null"),
            *("--collapse.entropy=1000", "--collapse.rollouts=2"),
            *(f"--trainer.{name}={value}" for name, value in stopping.items()),
        )
    assert outcome.code == 0, outcome.err
    (line,) = (str(x.message) for x in caught if "the policy is collapsing" in str(x.message))
    assert line.startswith("rollout 1: the policy is collapsing: the entropy is ")
    events = EventAccumulator(str(tmp_path / "runs/tiny/version_0"), {"tensors": 0}).Reload()
    (text,) = events.Tensors("collapse/text_summary")
    assert (text.step, text.tensor_proto.string_val[0].decode()) == (2, line)
    signs = [(event.step, event.value) for event in events.Scalars("objective/signs_of_collapse")]
    assert signs == [(1, 0), (2, 1)]  # and that was the last rollout
