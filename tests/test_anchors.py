"""The benchmark of rollouts against ``generate``, and of the least time that a step needs."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from command import ROOT
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.loading import load_tokenizer
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import load_policy

FOLDER = ROOT / "benchmarks"
TOKENS = 4


@pytest.fixture(scope="module")
def anchors() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("anchors")


@pytest.fixture(scope="module")
def shape(anchors: ModuleType) -> object:
    world = importlib.import_module("peer.world")
    return world.Shape(50, world._t5(16, 16, 1, 2, 8), world._roberta(16, 1, 2))


def test_operations_are_those_of_growth_without_the_policys_second_pass(
    anchors: ModuleType, shape: object
) -> None:
    growth = importlib.import_module("growth.arithmetic")
    setting = growth.Setting(batch=2, prompt=7, response=5, epochs=3, width=16, layers=1)
    parts = {name: sum(counts.values()) for name, counts in growth.stages(setting, shape).items()}
    again = growth.encoder(7, shape.policy) + growth.decoder(7, 5, 25, shape.policy)
    again += growth.head(5, shape)
    parts["update"] -= 2 * again.forward
    found = anchors.operations([7, 7], 5, 3, shape)
    assert found == {**parts, "total": sum(parts.values())}
    one, other = (anchors.operations([length], 5, 3, shape)["total"] for length in (3, 11))
    assert anchors.operations([3, 11], 5, 3, shape)["total"] == one + other


def test_all_ways_answer_with_responses_of_the_same_length(
    anchors: ModuleType, shape: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    anchors.build(tmp_path, shape, 2)
    sampling = Sampling(max_new_tokens=TOKENS, min_new_tokens=TOKENS)
    policy = load_policy(str(tmp_path / "policy"), LoRA(r=16), sampling)
    tokenizer = load_tokenizer(str(tmp_path / "policy"))
    prompts = anchors.read_prompts(tmp_path, tokenizer)
    words = [text.count(" ") + 1 for text in prompts.prompts]
    assert prompts.prompt_mask.sum(dim=1).tolist() == [count + 1 for count in words]  # EOS
    ways = anchors.rollouts(policy, tokenizer, prompts, TOKENS)
    assert list(ways) == ["ours", "generate, growing cache", "generate, static cache"]
    measured = anchors.measure(ways, 2, TOKENS)
    assert [list(row) for row in measured] == [list(ways)] * 2
    with pytest.raises(SystemExit, match="ours: responses of 4 tokens, 5 expected"):
        anchors.measure(ways, 2, TOKENS + 1)

    rows = [{"ours": 2.0, "other": 3.0}, {"ours": 4.0, "other": 8.0}]
    anchors.show("small", rows, {"rollout": 30, "total": 60}, rate=20.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["ours", "3.000", "CPU", "s", "1.00", "×", "ours"]
    assert lines[2].split() == ["other", "5.500", "CPU", "s", "1.75", "×", "ours"]
    assert lines[5].split() == ["total", "3.000", "CPU", "s", "0.0", "GFLOP"]
