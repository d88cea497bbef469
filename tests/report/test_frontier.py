"""What the page and the terminal say of the best of n samples."""

from typing import Any

import pytest

from detox_lightning.report.frontier import frontier_picture, frontier_rows, worth
from detox_lightning.report.report_files import short_table
from report.samples import (
    estimate,
    make_summary,
    rendered,
    section,
    text,
    toxicity,
    with_class,
)

KL = {"title": "KL to the reference, nats", "n": 3, "better": None, "before": None}
FIGURES = {
    "toxicity": toxicity(),
    "second_toxicity": toxicity(title="Toxicity, second classifier", after=estimate(0.3)),
    "kl": {**KL, "after": estimate(1.5, 1.25, 1.75), "difference": None, "improvement": None},
}
POINTS = [
    {
        "n": n,
        "kl": estimate(kl, kl, kl),
        "toxicity": estimate(y),
        "second_toxicity": estimate(y + 0.1),
    }
    for n, kl, y in ((1, 0.0, 0.4), (2, 0.2, 0.3), (3, 0.4, 0.2), (4, 0.6, 0.1))
]
HALF = estimate(0.7125, 0.6875, 0.75)


def best_of(n: Any = None, ratio: Any = None, **second: Any) -> dict[str, Any]:
    n, ratio = n or estimate(3.25, 2.5, 3.75), ratio or estimate(1.5)
    return {
        "points": POINTS,
        "effective_n": {"toxicity": n, "score": estimate(2), **second},
        "kl_ratio": {"toxicity": ratio, "second_toxicity": estimate(4.0)},
        "win_rate": HALF,
    }


def summary(**more: Any) -> dict[str, Any]:
    made = make_summary(sampled=FIGURES)
    made["about"] |= {"prompts": 3, "samples": 4}
    return {**made, "best_of": best_of(second_toxicity=estimate(1.0, 1.0, 1.5)), **more}


END = (
    " By the reward, a response after training beats one before in 71.2\xa0% of pairs (68.8 to "
    "75.0)."
)


@pytest.mark.parametrize(
    ("n", "ratio", "said"),
    [
        ((3.25, 2.5, 3.75), 1.5, "the best of 3.2 samples (2.5 to 3.8) by the classifier, "),
        ((3.25, 2.5, None), 1.5, "the best of 3.2 samples (2.5 to more than 4) by the "),
        ((None, 3.5, None), 1.5, "the best of more than 4 samples (3.5 to more than 4) by the "),
        ((None, None, None), 1.5, "the best of more than 4 samples by the classifier, "),
        ((1.04, 1.0, 1.25), None, "no more than a single sample by the classifier."),
    ],
)
def test_what_training_was_worth_in_words(n: Any, ratio: Any, said: str) -> None:
    told = worth(best_of(estimate(*n), estimate(ratio)))
    assert told.startswith(f"Training was worth {said}")
    less = "less than " if n[0] is None else ""
    price = f", at {less}1.5 times the KL of that choice" if ratio else ""
    assert told.endswith(f"the classifier{price}.{END}")


def test_each_classifier_has_its_own_number() -> None:
    told = worth(best_of(second_toxicity=estimate(2.0, 1.5, 2.5)))
    assert (
        "at 1.5 times the KL of that choice; the best of 2.0 samples (1.5 to 2.5) by the second "
        "classifier, at 4.0 times the KL of that choice." in told
    )


def test_without_a_classifier_the_reward_judges() -> None:
    told = {**best_of(), "effective_n": {"score": estimate(2.0, 1.5, 2.5)}}
    told["kl_ratio"] = {"score": estimate(3.0)}
    assert worth(told) == (
        "Training was worth the best of 2.0 samples (1.5 to 2.5) by the reward, at 3.0 times the "
        f"KL of that choice.{END}"
    )


def test_rows_are_before_powers_of_two_and_after() -> None:
    rows = frontier_rows(FIGURES, best_of())
    for _, cells in rows:
        assert [*cells] == [KL["title"], "Toxicity, mean", "Toxicity, second classifier"]
    assert [name for name, _ in rows] == ["before", "best\xa0of\xa02", "best\xa0of\xa04", "after"]
    values = [[part["value"] for part in cells.values() if part] for _, cells in rows]
    assert values[1] == pytest.approx([0.2, 0.3, 0.4])
    assert values[-1] == [1.5, 0.113, 0.3]


def test_the_picture_has_before_best_of_n_checkpoints_and_after() -> None:
    earlier = [{"kl": estimate(2.0), "toxicity": estimate(0.05)}]
    axes = frontier_picture("toxicity", FIGURES, POINTS, earlier).axes[0]
    drawn = [line.get_xydata().tolist() for line in axes.lines]
    assert drawn[0] == [[0, 0.4], [0.2, 0.3], [0.4, 0.2], [0.6, 0.1]]
    assert drawn[1:4] == [[[0, 0.4]], [[0.2, 0.3]], [[0.6, 0.1]]]
    assert drawn[4] == [[2, 0.05]]
    across, up = [[1.25, 0.113], [1.75, 0.113]], [[1.5, 0.101], [1.5, 0.125]]
    assert drawn[5:] == [across, up, [[1.5, 0.113]]]
    assert [label.get_text() for label in axes.texts] == ["before", "2", "4", "after"]


def test_the_page_says_it_draws_it_and_has_the_numbers() -> None:
    earlier = {"kl": estimate(2.0), "toxicity": estimate(0.05), "second_toxicity": estimate(0.1)}
    points = [{"rollouts": 20, **earlier}, {"rollouts": 40, **earlier}]
    told = summary(checkpoints=[*points, {"rollouts": 60}])  # the last one's are not defined
    part = section(rendered(told), "What training was worth")
    assert text(with_class(part, "lead")[0]) == " ".join(worth(told["best_of"]).split())
    assert [svg.get("aria-label") for svg in part.iter() if svg.tag == "svg"] == [
        "Toxicity, mean against KL: before, best of n, after",
        "Toxicity, second classifier against KL: before, best of n, after",
    ]
    assert "Circles: other checkpoints of the run, after 20, 40 rollouts." in text(part)
    last = [text(cell) for cell in list(part.iter("tr"))[-1]]
    assert last == ["after", "1.500 1.250 to 1.750", "0.113 0.101 to 0.125", "0.300"]


def test_without_samples_to_choose_from_nothing_is_said() -> None:
    headings = [text(heading) for heading in rendered(summary(best_of=None)).iter("h2")]
    assert "What training was worth" not in headings


def test_the_terminal_says_it_too() -> None:
    told = summary()
    assert short_table(told).endswith(f"\n{worth(told['best_of'])}")
