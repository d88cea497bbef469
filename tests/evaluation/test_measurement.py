"""The hub's measurement: its interface and its keys, by hand and offline."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import evaluate
import pytest

import detox_lightning
import odds
from detox_lightning.errors import InputError
from detox_lightning.evaluation import measurement
from detox_lightning.evaluation.measurement import DEFAULT_MODEL, ToxicityMeasurement
from detox_lightning.models.classifier import TextClassifier
from odds import MAXIMUM, RATIO, SIX, TOXICITY


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What ``evaluate`` writes stays in a test's own folder."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", cache / "metrics")
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", cache / "modules")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield cache
    for name in [name for name in sys.modules if name.startswith("evaluate_modules")]:
        del sys.modules[name]


@pytest.fixture
def by_odds(monkeypatch: pytest.MonkeyPatch) -> None:
    odds.use_odds(monkeypatch)


def script(model: str | None) -> evaluate.Measurement:
    """The measurement as others load it."""
    return evaluate.load(str(measurement.__file__), model, module_type="measurement")


@pytest.mark.usefixtures("by_odds")
@pytest.mark.parametrize("opened", [ToxicityMeasurement, script])
def test_all_results_by_hand(opened: type[ToxicityMeasurement]) -> None:
    toxicity = opened("odds")
    for options in ({}, {"aggregation": None}, {"aggregation": "all"}):
        result = toxicity.compute(predictions=SIX, references=None, **options)
        assert result == {"toxicity": pytest.approx(TOXICITY, abs=1e-6)}
        assert isinstance(result["toxicity"], list)
    highest = toxicity.compute(predictions=SIX, aggregation="maximum")
    assert highest == {"max_toxicity": pytest.approx(MAXIMUM, abs=1e-6)}
    share = toxicity.compute(predictions=SIX, references=SIX, aggregation="ratio")
    assert share == {"toxicity_ratio": pytest.approx(RATIO, abs=1e-6)}
    share = toxicity.compute(predictions=SIX, aggregation="ratio", threshold=0.8)
    assert share == {"toxicity_ratio": pytest.approx(1 / 6, abs=1e-6)}
    friendly = toxicity.compute(predictions=SIX, toxic_label="nothate", aggregation="maximum")
    assert friendly == {"max_toxicity": pytest.approx(0.9, abs=1e-6)}


@pytest.mark.usefixtures("by_odds")
@pytest.mark.parametrize("keep_in_memory", [True, False])
def test_texts_may_come_bit_by_bit(keep_in_memory: bool, cache: Path) -> None:
    toxicity = ToxicityMeasurement("odds", keep_in_memory=keep_in_memory)
    for _ in range(2):  # the second time begins with none
        toxicity.add_batch(predictions=SIX[:3])
        toxicity.add(prediction=SIX[3])
        toxicity.add_batch(predictions=SIX[4:])
        assert toxicity.compute() == {"toxicity": pytest.approx(TOXICITY, abs=1e-6)}
    assert not list(cache.rglob("*.arrow"))


@pytest.mark.usefixtures("by_odds")
def test_of_no_texts_nothing_is_known() -> None:
    toxicity = ToxicityMeasurement("odds")
    assert toxicity.compute(predictions=[]) == {"toxicity": []}
    for aggregation, key in (("maximum", "max_toxicity"), ("ratio", "toxicity_ratio")):
        result = toxicity.compute(predictions=[], aggregation=aggregation)
        assert list(result) == [key]
        assert math.isnan(result[key])


def test_the_classifier_is_the_hubs_own_unless_named() -> None:
    for unnamed in (None, "default"):
        assert ToxicityMeasurement(unnamed).classifier.name == DEFAULT_MODEL
    assert ToxicityMeasurement().classifier.name == DEFAULT_MODEL
    assert ToxicityMeasurement("folder/other").classifier.name == "folder/other"


def test_a_local_folder_is_read_and_left_alone(tiny_classifier: str, cache: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in Path(tiny_classifier).rglob("*")}
    toxicity = ToxicityMeasurement(tiny_classifier)
    toxicity.add_batch(predictions=SIX)
    assert list(cache.rglob("*.arrow"))  # where the texts wait
    values = toxicity.compute()["toxicity"]
    assert {file: file.stat().st_mtime_ns for file in Path(tiny_classifier).rglob("*")} == before
    classifier = TextClassifier(tiny_classifier)
    classifier.load()
    expected = classifier(SIX).softmax(dim=1)[:, 1].tolist()
    assert values == pytest.approx(expected, abs=1e-6)


def test_texts_are_read_in_batches(tiny_classifier: str) -> None:
    toxicity = script(tiny_classifier)
    rows: list[int] = []
    assert toxicity.classifier.model is not None  # it was opened by evaluate.load
    toxicity.classifier.model.register_forward_pre_hook(
        lambda _, __, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    texts = [f"w{number}" for number in range(150)]
    assert len(toxicity.compute(predictions=texts)["toxicity"]) == 150
    assert rows == [64, 64, 22]


@pytest.mark.parametrize("opened", [ToxicityMeasurement, script])
def test_the_embedded_classifier_tells_insults(opened: type[ToxicityMeasurement]) -> None:
    toxicity = opened("demo:classifier")
    result = toxicity.compute(predictions=["you fool", "Ann is kind", "stupid moron"])["toxicity"]
    assert [value > 0.9 for value in result] == [True, False, True]
    assert result[1] < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"toxic_label": "toxic"},
            "toxic_label 'toxic': the classifier 'demo:classifier' has the labels nothate, hate",
        ),
        ({"aggregation": "mean"}, "aggregation='mean': choose from all, maximum, ratio"),
        ({"threshold": 2}, "threshold=2 is no probability: give one from 0 to 1"),
    ],
)
def test_mistakes_are_named(options: dict[str, object], message: str) -> None:
    toxicity = ToxicityMeasurement("demo:classifier", keep_in_memory=True)
    with pytest.raises(InputError) as caught:
        toxicity.compute(predictions=SIX, **options)
    assert str(caught.value) == message
    # and can be mended
    assert len(toxicity.compute(predictions=SIX)["toxicity"]) == 6


def test_nobody_in_the_package_imports_it() -> None:
    """``evaluate`` is slow to import."""
    root = Path(detox_lightning.__file__).parent
    sources = {file: file.read_text(encoding="utf8") for file in root.rglob("*.py")}
    assert not [file for file, source in sources.items() if "evaluation.measurement" in source]
    assert not [file for file, source in sources.items() if "evaluation import measure" in source]
