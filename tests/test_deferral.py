"""Modules that are put off are what they would have been as soon as somebody looks."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # test_cli.py looks at what is imported, too

PROGRAM = """
import json, sys
from detox_lightning.lazy_imports import DeferredModule, deferred

with deferred():
    import lightning.pytorch
    import torch, torchmetrics
    from lightning.fabric.wrappers import OptimizedModule
    from torchmetrics import MeanMetric, Metric

facts = {"version": torchmetrics.__version__}
facts["early"] = sorted(sys.modules)
facts["put off"] = [name for name, it in sys.modules.items() if type(it) is DeferredModule]
facts["finders left"] = [str(it) for it in sys.meta_path if "Deferring" in str(it)]

layer = torch.nn.Linear(1, 1)
facts["compiled before"] = isinstance(layer, OptimizedModule)
facts["compiled after"] = [isinstance(it, OptimizedModule) for it in (layer, torch.compile(layer))]
facts["compiler"] = type(sys.modules["torch._dynamo"]) is DeferredModule

metric = MeanMetric()
metric.update(3.0)
figure, axes = metric.plot()
drawn = [float(y) for line in axes.lines for y in line.get_ydata()]
facts["plot"] = [type(figure).__module__, drawn]

with deferred():
    from scipy.stats import fisher_exact
facts["statistics"] = [type(sys.modules["scipy.stats"]) is DeferredModule]
facts["statistics"].append(float(fisher_exact([[8, 2], [1, 5]]).pvalue))

accuracy = torchmetrics.Accuracy(task="binary")
facts["accuracy"] = float(accuracy(torch.tensor([0.9, 0.2]), torch.tensor([1, 1])))
facts["same class"] = isinstance(accuracy, Metric) and torchmetrics.Metric is Metric
facts["still put off"] = [name for name, it in sys.modules.items() if type(it) is DeferredModule]
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def facts() -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_lightning_loads_without_what_it_does_not_need(facts: dict) -> None:
    heavy = {"torch._dynamo", "sympy", "matplotlib", "scipy", "transformers"}
    assert not heavy & set(facts["early"])
    assert facts["put off"] == ["torchmetrics", "torchmetrics.utilities.plot"]
    assert facts["finders left"] == []


def test_what_is_compiled_is_told_from_what_is_not(facts: dict) -> None:
    assert facts["compiled before"] is False
    assert facts["compiled after"] == [False, True]
    assert facts["compiler"] is False


def test_a_module_put_off_is_whole_when_it_is_used(facts: dict) -> None:
    import torchmetrics

    assert facts["version"] == torchmetrics.__version__
    assert facts["plot"] == ["matplotlib.figure", [3.0]]
    assert facts["statistics"] == [True, pytest.approx(280 / 8008)]
    assert facts["accuracy"] == 0.5
    assert facts["same class"] is True
    assert facts["still put off"] == []
