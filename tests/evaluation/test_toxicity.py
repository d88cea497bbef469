"""The toxicity of six texts, by hand."""

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import odds
from detox_lightning.errors import InputError
from detox_lightning.evaluation.toxicity import Toxicity, ToxicityMetric
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.rewards.words import spans
from numerics import FLOAT32
from odds import MAXIMUM, MEAN, RATIO, SIX, TOXICITY

FIGURES = {"toxicity": MEAN, "max_toxicity": MAXIMUM, "toxicity_ratio": RATIO}


@pytest.fixture
def by_odds(monkeypatch: pytest.MonkeyPatch) -> None:
    odds.use_odds(monkeypatch)


def fill(metric: ToxicityMetric, *sizes: int) -> ToxicityMetric:
    """Hands the six to a metric, in batches of these sizes."""
    start = 0
    for size in sizes:
        metric.update(SIX[start : start + size])
        start += size
    return metric


def figures(metric: ToxicityMetric) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.usefixtures("by_odds")
def test_each_texts_probability() -> None:
    toxicity = Toxicity(TextClassifier("odds"), "hate")
    toxicity.load()
    assert toxicity(SIX).tolist() == pytest.approx(TOXICITY, abs=1e-6)
    assert toxicity([]).shape == (0,)
    friendly = Toxicity(toxicity.classifier, "nothate")
    friendly.load()
    assert friendly(SIX).tolist() == pytest.approx([1 - p for p in TOXICITY], abs=1e-6)


@pytest.mark.parametrize(
    ("problem_type", "probability"),
    [
        (None, lambda logits: logits.softmax(dim=1)[:, 1]),
        ("single_label_classification", lambda logits: logits.softmax(dim=1)[:, 1]),
        ("multi_label_classification", lambda logits: logits[:, 1].sigmoid()),
    ],
)
def test_labels_that_may_come_together_have_probabilities_of_their_own(
    tiny_classifier: str, problem_type: str | None, probability: Any
) -> None:
    toxicity = Toxicity(TextClassifier(tiny_classifier), "hate")
    toxicity.load()
    toxicity.classifier.model.config.problem_type = problem_type
    texts = ["Ann is late", "Bob is a moron"]
    expected = probability(toxicity.classifier(texts))
    torch.testing.assert_close(toxicity(texts), expected, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("by_odds")
@pytest.mark.parametrize("sizes", [(6,), (4, 2), (0, 1, 2, 3), (1, 1, 1, 1, 1, 1, 0)])
def test_all_figures_by_hand(sizes: tuple[int, ...]) -> None:
    assert figures(fill(ToxicityMetric("odds"), *sizes)) == pytest.approx(FIGURES, abs=1e-6)


@pytest.mark.usefixtures("by_odds")
@pytest.mark.parametrize(
    ("threshold", "ratio"), [(0, 6 / 6), (0.2, 5 / 6), (0.5, 4 / 6), (0.8, 1 / 6), (1, 0)]
)
def test_a_text_is_toxic_from_the_threshold_on(threshold: float, ratio: float) -> None:
    metric = fill(ToxicityMetric("odds", threshold=threshold), 6)
    assert figures(metric)["toxicity_ratio"] == pytest.approx(ratio, abs=1e-6)


@pytest.mark.usefixtures("by_odds")
def test_of_no_texts_nothing_is_known() -> None:
    metric = fill(ToxicityMetric("odds"), 6, 0)
    metric.compute()
    metric.reset()
    metric.update([])
    empty = figures(metric)
    assert set(empty) == set(FIGURES)
    assert all(map(math.isnan, empty.values()))
    # what was there before the reset is gone: the maximum and a share above all
    metric.update(["kind"])
    assert figures(metric) == pytest.approx(
        {"toxicity": 0.1, "max_toxicity": 0.1, "toxicity_ratio": 0}, abs=1e-6
    )


@pytest.mark.usefixtures("by_odds")
def test_a_steps_own_figures_are_added_to_all() -> None:
    """As Lightning calls a metric that is logged on steps."""
    metric = ToxicityMetric("odds")
    first = metric(SIX[:2])
    assert float(first["toxicity"]) == pytest.approx(0.85 / 2)
    last = metric(SIX[2:])
    assert float(last["max_toxicity"]) == pytest.approx(0.9)
    assert float(last["toxicity_ratio"]) == pytest.approx(3 / 4)
    assert figures(metric) == pytest.approx(FIGURES, abs=1e-6)


@pytest.mark.slow
def test_two_processes_judge_as_one(tmp_path: Path) -> None:
    # uneven shares, the highest on either side, and one process without any
    shares = [[SIX[:4], SIX[4:]], [SIX[:5], SIX[5:]], [SIX, []]]
    torch.multiprocessing.spawn(odds.judge_shares, (shares, str(tmp_path)), nprocs=2)
    for rank in (0, 1):
        came = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for share, whole, own in zip(shares, came[::2], came[1::2], strict=True):
            assert whole == pytest.approx(FIGURES, abs=1e-6)
            assert own == len(share[rank])


def expected(tiny_classifier: str) -> list[float]:
    """By another way, without the metric."""
    toxicity = Toxicity(TextClassifier(tiny_classifier), "hate")
    toxicity.load()
    return toxicity(SIX).tolist()


@pytest.mark.parametrize(("batch_size", "batches"), [(1, 5), (4, 2), (64, 1)])
def test_a_classifier_from_a_folder(tiny_classifier: str, batch_size: int, batches: int) -> None:
    values = expected(tiny_classifier)
    assert len({round(value, 5) for value in values}) == 5  # two of the six are alike
    metric = ToxicityMetric(tiny_classifier, batch_size=batch_size)
    metric.load()
    calls: list[None] = []
    metric.toxicity.classifier.model.register_forward_pre_hook(lambda *_: calls.append(None))
    fill(metric, 6)
    assert len(calls) == batches
    assert figures(metric)["toxicity"] == pytest.approx(sum(values) / 6, abs=FLOAT32)
    assert figures(metric)["max_toxicity"] == pytest.approx(max(values), abs=FLOAT32)


def test_opens_at_the_first_texts_and_is_no_model_itself(tiny_classifier: str) -> None:
    metric = ToxicityMetric(tiny_classifier)
    metric.persistent(True)
    classifier = metric.toxicity.classifier
    assert classifier.model is None
    fill(metric, 6)
    assert classifier.model is not None
    assert set(metric.state_dict()) == {"sum", "maximum", "toxic", "count"}
    assert not list(metric.parameters())
    metric.persistent(False)
    assert not metric.state_dict()
    holder = torch.nn.ModuleList([metric])
    assert not holder.state_dict()
    holder.load_state_dict({})


@pytest.mark.parametrize("moved_first", [True, False])
def test_the_classifier_follows_the_metric(tiny_classifier: str, moved_first: bool) -> None:
    metric = ToxicityMetric(tiny_classifier)
    holder = torch.nn.ModuleList([metric])
    if not moved_first:
        metric.load()
    holder.to("meta")
    if moved_first:
        metric.load()
    weights = list(metric.toxicity.parameters())
    assert {weight.device.type for weight in weights} == {"meta"}
    assert metric.sum.device.type == "meta"
    metric.half()  # a figure's precision is its own
    assert {weight.dtype for weight in weights} == {torch.float32}


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("first", [0, 4])
def test_a_copy_goes_on_alone(tiny_classifier: str, again: object, first: int) -> None:
    metric = ToxicityMetric(tiny_classifier)
    if first:
        metric.update(SIX[:first])
    twin = again(metric)  # type: ignore[operator]
    twin.update(SIX[first:])
    whole = fill(ToxicityMetric(tiny_classifier), 6)
    assert figures(twin) == pytest.approx(figures(whole), abs=FLOAT32)
    assert int(metric.count) == first
    assert twin.toxicity.classifier is not metric.toxicity.classifier


@pytest.mark.parametrize("threshold", [-0.1, 1.5, math.nan])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(InputError) as caught:
        ToxicityMetric("odds", threshold=threshold)
    message = f"threshold={threshold} is no probability: give one from 0 to 1"
    assert str(caught.value) == message


def test_an_unknown_label_is_answered_with_the_known_ones(tiny_classifier: str) -> None:
    metric = ToxicityMetric(tiny_classifier, toxic_label="toxic")
    message = (
        f"toxic_label 'toxic': the classifier {tiny_classifier!r} has the labels nothate, hate"
    )
    for call in (metric.load, lambda: metric.update(SIX)):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "minded"),
    [
        ("Laura is a dumb dunce, and Tom is a lazy fool.", ["dumb dunce", "lazy fool"]),
        ("Laura is kind.", []),
        ("", []),
    ],
)
def test_insults_are_minded_though_each_would_be_enough(text: str, minded: list[str]) -> None:
    toxicity = Toxicity(TextClassifier("demo:classifier"), "hate")
    toxicity.load()
    places = spans(text)
    ranges = toxicity.minded_words(text)
    assert [text[places[first][0] : places[end - 1][1]] for first, end in ranges] == minded


class OnlyTogether(Toxicity):
    """Minds ``get out``, and neither word alone."""

    def __init__(self) -> None:
        super().__init__(TextClassifier("none"), "hate")

    def forward(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([0.9 if {"get", "out"} <= {*text.split()} else 0.2 for text in texts])


def test_words_are_minded_that_mean_harm_only_in_company() -> None:
    assert OnlyTogether().minded_words("now get quickly out , please") == [(1, 2), (3, 4)]
    assert OnlyTogether().minded_words("get up") == []
