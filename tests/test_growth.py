"""The benchmark of growth: its arithmetic, exponents and verdict."""

import importlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from command import ROOT, module_of
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.loading import Weights
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.source import ModelSource
from detox_lightning.ppo import clock

FOLDER = ROOT / "benchmarks"
VOCABULARY = 50
T5 = {"d_model": 4, "d_ff": 3, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 2, "d_kv": 5}


@pytest.fixture(scope="module")
def path() -> Iterator[None]:
    """The benchmark's parts can be imported from, as they are when it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER / "peer")
        patch.syspath_prepend(FOLDER)
        yield


@pytest.fixture(scope="module")
def command(path: None) -> ModuleType:
    return module_of(FOLDER / "growth.py", "growth_command")


@pytest.fixture(scope="module")
def arithmetic(path: None) -> ModuleType:
    return importlib.import_module("growth.arithmetic")


@pytest.fixture(scope="module")
def exponents(path: None) -> ModuleType:
    return importlib.import_module("growth.exponents")


@pytest.fixture(scope="module")
def world(path: None) -> ModuleType:
    return importlib.import_module("peer.world")


# -- arithmetic


def test_an_encoders_operations_by_hand(arithmetic: ModuleType) -> None:
    # 7 tokens, width 4, heads of 10 together, feed-forward 3 three times, rank 16, 2 layers
    linear = 2 * 7 * (4 * 4 * 10 + 3 * 4 * 3)
    attention = 2 * 2 * 7 * 7 * 10
    adapters = 2 * 2 * 7 * 16 * (4 + 10)
    assert arithmetic.encoder(7, T5) == (2 * linear, 2 * attention, 2 * adapters)


def test_a_decoders_operations_by_hand(arithmetic: ModuleType) -> None:
    # 5 tokens after a prompt of 7; keys and values of the prompt are made once, 3 layers
    linear = 2 * 5 * (6 * 4 * 10 + 3 * 4 * 3) + 2 * 7 * 2 * 4 * 10
    attention = 2 * 2 * (15 + 5 * 7) * 10
    adapters = 2 * 16 * (4 + 10) * (3 * 5 + 7)
    assert arithmetic.decoder(7, 5, 15, T5) == (3 * linear, 3 * attention, 3 * adapters)


def test_a_step_is_rollout_scoring_looking_back_and_learning(
    arithmetic: ModuleType, world: ModuleType
) -> None:
    shape = world.Shape(VOCABULARY, T5, world._roberta(6, 1, 2))
    setting = arithmetic.Setting(batch=3, prompt=7, response=5, epochs=2, width=0, layers=0)
    stages = arithmetic.stages(setting, shape)
    parts = {part: sum(each.values()) for part, each in stages.items()}
    read, head = arithmetic.encoder(7, T5), 2 * 5 * 4 * VOCABULARY
    stepwise = arithmetic.decoder(7, 5, 15, T5)  # 1 + 2 + 3 + 4 + 5 pairs
    at_once = arithmetic.decoder(7, 5, 25, T5)
    assert parts["rollout"] == 3 * (sum(read[:2]) + sum(stepwise[:2]) + head)
    # 12 tokens of width 6: four products 6 × 6, two 6 × 24, attention; one token's two labels
    assert parts["score"] == 3 * (2 * 12 * (4 * 36 + 2 * 144) + 4 * 144 * 6 + 2 * 6 * 8)
    linear, attention, adapters = (a + b for a, b in zip(read, at_once, strict=True))
    linear += head
    forward, reference = linear + attention + adapters, linear + attention
    backward = linear + 2 * attention + 2 * adapters
    assert parts["update"] == 3 * (forward + reference + 2 * (forward + backward))
    # the decoder, which then learns
    linear, attention, adapters = at_once
    learns = 2 * (linear + head) + 3 * (attention + adapters)
    assert stages["update"]["decoder, learning"] == 3 * 2 * learns
    assert stages["rollout"]["encoder"] == 3 * sum(read[:2])


@pytest.fixture(scope="module")
def policy(world: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("policy")
    world.build_policy(folder, world.Shape(VOCABULARY, T5, {}), 20)
    lora = LoRA(r=16, target_modules=["q", "v"])
    weights = Weights(attn_implementation="eager")  # torch doesn't count SDPA's on a CPU
    return load_policy(
        ModelSource(str(folder), weights=weights), lora, Sampling(), value_head=False
    )


def test_a_models_own_operations_are_those_that_were_counted(
    arithmetic: ModuleType, world: ModuleType, policy: Policy
) -> None:
    assert policy.avoids_logits  # it tries once
    ids, response = torch.arange(4, 18).view(2, 7), torch.arange(4, 14).view(2, 5)
    with FlopCounterMode(display=False) as forward:
        output = policy(ids, torch.ones_like(ids), response)
    with FlopCounterMode(display=False) as backward:
        output.logprobs.sum().backward()
    read = arithmetic.encoder(7, T5) + arithmetic.decoder(7, 5, 25, T5)
    head = arithmetic.head(5, world.Shape(VOCABULARY, T5, {}))
    # the head's gradient is made in the forward pass
    assert forward.get_total_flops() == 2 * (read.forward + 2 * head.forward)
    # the first layer's keys and values ask for no gradient of the embeddings
    assert backward.get_total_flops() == pytest.approx(2 * read.backward, rel=0.1)


# -- exponents


def test_a_power_is_found(exponents: ModuleType) -> None:
    assert exponents.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert exponents.slope([1, 10, 100], [5, 5, 5]) == 0
    # by hand: logarithms 0, 1, 2 and 0, 0, 3 to the base of 2
    assert exponents.slope([1, 2, 4], [1, 1, 8]) == pytest.approx(1.5)


def test_the_upper_half_leaves_constants_behind(exponents: ModuleType) -> None:
    found = exponents.exponent([1, 2, 4, 8, 16], [4, 4, 4, 8, 16])
    assert found.upper == pytest.approx(1)  # of 4, 8 and 16
    assert found.all == pytest.approx(0.5)  # (-2·0 - 1·0 + 0·0 + 1·1 + 2·2) / 10
    assert exponents.exponent([1, 2], [1, 4]) == pytest.approx((2, 2))


@pytest.fixture
def base(arithmetic: ModuleType) -> Any:
    return arithmetic.Setting(batch=2, prompt=8, response=8, epochs=1, width=32, layers=1)


def points(base: Any, axis: str, power: float) -> list[dict[str, Any]]:
    """Updates that grow with a power along an axis; the arithmetic grows evenly, but an encoder's
    not at all."""
    found = []
    for x in (8, 2, 4, 1):
        cpu = {"rollout": 1.0, "score": 0.5 * x, "update": x**power, "total": 2.0 * x}
        stages = {"rollout": {"encoder": 10**9, "decoder": x * 10**9}, "score": {"all": x * 10**9}}
        stages["update"] = {"all": x * 10**9}
        each = {**base._asdict(), axis: x, "cpu": cpu, "stages": stages, "parameters": 1000}
        found.append(each)
    return found


def test_what_grows_faster_than_its_arithmetic_is_marked(exponents: ModuleType, base: Any) -> None:
    found = exponents.growths(points(base, "batch", 1.2), base)
    found += exponents.growths(points(base, "epochs", 1.05), base)
    times = {(each.axis, each.part): each.time.upper for each in found}
    assert len(times) == 8
    assert times["batch", "rollout"] == 0
    assert times["batch", "update"] == pytest.approx(1.2)
    assert all(each.stage == pytest.approx((1, 1)) for each in found)
    slower = {each.part: each.flops.upper for each in found}
    assert slower["score"] == slower["update"] == pytest.approx(1)
    # of 4 and 8: 1 + 4 and 1 + 8, together with 2 × 4 and 2 × 8 more
    assert slower["rollout"] == pytest.approx(math.log2(9 / 5))
    assert slower["total"] == pytest.approx(math.log2(25 / 13))
    (fast,) = [each for each in found if each.too_fast]
    assert (fast.axis, fast.part, fast.excess) == ("batch", "update", pytest.approx(0.2))
    lines = exponents.growths_table(found).splitlines()
    (marked,) = [" ".join(line.split()) for line in lines if "FASTER" in line]
    assert marked == "batch update 1.20 1.20 1.00 1.00 1.00 0.20 FASTER THAN THE ARITHMETIC"


def test_the_table_of_points_says_what_an_operation_takes(exponents: ModuleType, base: Any) -> None:
    lines = exponents.points_table(points(base, "batch", 1), base).splitlines()
    assert len(lines) == 5  # one axis, its head
    # 8 seconds for 13 GFLOP
    assert " ".join(lines[3].split()) == "4 1,000 1.0000 2.0000 4.0000 8.0000 13.000 615.4"


# -- the command


def test_axes_meet_in_the_base_which_is_measured_once(command: ModuleType) -> None:
    found = command.settings(command.BASE, command.AXES)
    assert len(set(found)) == len(found)
    assert len(found) == 1 + sum(len(values) - 1 for values in command.AXES.values())
    for axis, values in command.AXES.items():
        line = [p for p in found if p._replace(**{axis: 0}) == command.BASE._replace(**{axis: 0})]
        assert sorted(getattr(each, axis) for each in line) == values


def test_steps_that_warm_up_are_enough_to_record_the_decoder(command: ModuleType) -> None:
    # recorded at the 21st call; the first token needs none
    assert [command.warm_up(response) for response in (22, 21, 20, 9, 2)] == [2, 3, 3, 4, 22]


class Processes:
    """Does not start any, but answers for them."""

    def __init__(self, totals: list[float], **others: float) -> None:
        self.totals = totals
        self.others = others
        self.job: dict[str, Any] = {}

    def steps(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        self.job = job
        assert len(self.totals) == job["rounds"]
        return [self.row(total) for total in self.totals]

    def row(self, total: float) -> dict[str, Any]:
        parts = {"rollout": total / 2, "score": total / 4, "update": total / 4, "total": total}
        tokens = {"prompt_tokens": 32, "response_tokens": 130, "scored_tokens": 160}
        return {**parts, "parameters": 1000, "peak_mb": 100, **tokens, **self.others}


@pytest.fixture
def setting(arithmetic: ModuleType) -> Any:
    return arithmetic.Setting(batch=2, prompt=16, response=65, epochs=1, width=32, layers=1)


@pytest.fixture
def built(command: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What models and prompts were asked for."""
    asked: list[Any] = []
    monkeypatch.setattr(command, "build", lambda *args: asked.append(args))
    return asked


def test_a_points_times_are_medians_without_those_that_warm_up(
    command: ModuleType, setting: Any, built: list[Any]
) -> None:
    processes = Processes([100, 100, 4, 8, 16])
    point = command.measure(processes, setting, rounds=3)
    assert point["cpu"] == {"rollout": 4, "score": 2, "update": 2, "total": 8}
    assert [each["total"] for each in point["every"]] == [4, 8, 16]
    assert point["stages"] == command.stages(setting, command.shape_of(setting))
    assert (point["width"], point["response"], point["parameters"]) == (32, 65, 1000)
    assert processes.job["mini_batch_size"] == 2  # 4 don't fit
    ((_, shape, prompts, lengths, _),) = built
    assert (shape.policy["d_model"], shape.classifier["hidden_size"]) == (32, 32)
    assert (prompts, lengths) == (5 * 2, (16, 16))


def test_of_several_measurements_the_quietest_counts(command: ModuleType) -> None:
    found = [{"cpu": {"total": total, "rollout": rollout}} for total, rollout in [(3, 1), (2, 2)]]
    assert command.quietest(found) is found[1]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("prompt_tokens", 31, "31 prompt_tokens, not 32"),
        ("response_tokens", 129, "129 response_tokens, not 130"),
        ("scored_tokens", 130, "130 scored_tokens, not about 162"),
    ],
)
def test_a_point_of_other_work_than_was_counted_is_refused(
    command: ModuleType,
    setting: Any,
    built: list[Any],
    field: str,
    value: int,
    words: str,
) -> None:
    with pytest.raises(SystemExit, match=words):
        command.measure(Processes([1, 1, 1], **{field: value}), setting, rounds=1)


def test_a_points_rows_are_in_the_processors_seconds(
    path: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "time", time)
    point, ours = (importlib.import_module(name) for name in ("growth.point", "ours"))
    seconds = iter([0.5, 2.0])

    def train(job: dict[str, int], channel: Any) -> None:
        channel.answer()  # the models are open
        watch = clock.Clock(torch.device("cpu"))
        channel.wait()
        channel.answer(total=watch.metrics(3)["time/total"], job=job)

    monkeypatch.setattr(time, "process_time", lambda: next(seconds))
    monkeypatch.setattr(ours, "train", train)
    assert point.steps({"rounds": 1}) == [{"total": 1.5, "job": {"rounds": 1}}]


def test_the_picture_shows_times_and_the_arithmetic_that_ends_where_they_do(
    path: None, base: Any, tmp_path: Path
) -> None:
    from matplotlib.figure import Figure

    picture = importlib.import_module("growth.picture")
    given = points(base, "batch", 1)
    panel = Figure().subplots()
    picture.draw_axis(panel, "batch", sorted(given, key=lambda point: point["batch"]))
    lines = {line.get_label(): list(line.get_ydata()) for line in panel.lines}
    assert lines["rollout"] == [1, 1, 1, 1]
    assert lines["total"] == [2, 4, 8, 16]
    assert lines["slope 1"] == [2, 4, 8, 16]
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    predicted = [16 * each / 25 for each in (4, 7, 13, 25)]
    assert lines["total's arithmetic, at its last speed"] == pytest.approx(predicted)
    picture.draw(given, base, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
