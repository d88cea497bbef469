"""Two processes that hold the base between them learn as two that hold it each."""

from pathlib import Path
from typing import Any

import pytest
import torch

import sharding
from command import ROOT, run, tiny_recipe
from conftest import save_classifier, tiny_t5_model, word_tokenizer
from launching import codes, elastic, started
from numerics import FLOAT32, float32

HEAD = "value_head.linear.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharding")
    tiny_t5_model().save_pretrained(folder / "t5")
    word_tokenizer().save_pretrained(folder / "t5")
    save_classifier(folder / "classifier", ["nothate", "hate"])
    sharding.save_adapter(folder)
    tiny_recipe(folder, str(folder / "t5"), str(folder / "classifier"))
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What came of two runs in each of two processes."""
    with started(folder, elastic(), sharding.learning, folder) as begun:
        ended = codes(begun)
    assert ended == [0, 0], (folder / "output0").read_text() + (folder / "output1").read_text()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def output(ranks: list[dict[str, Any]], folder: Path) -> str:
    """What two processes said that went on from these runs, and then failed."""
    runs = {strategy: ranks[0][strategy]["run"] for strategy in ("ddp", "sharded")}
    with started(folder, elastic(), sharding.going_on, folder, runs) as begun:
        ended = codes(begun)
    output = "".join((folder / f"output{rank}").read_text() for rank in (0, 1))
    assert None not in ended, output
    assert 0 not in ended, output
    return output


@pytest.fixture(scope="module")
def later(output: str, folder: Path) -> list[dict[str, Any]]:
    """What came of that in each of the two processes."""
    files = [folder / f"later{rank}.pt" for rank in (0, 1)]
    assert all(file.exists() for file in files), output
    return [torch.load(file, weights_only=False) for file in files]


def same(one: Any, other: Any, tolerance: float = FLOAT32) -> None:
    torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


def figures(metrics: dict[str, float]) -> dict[str, float]:
    return {name: x for name, x in metrics.items() if not name.startswith("time/")}


def test_each_process_holds_half_of_the_base(ranks: list[dict[str, Any]]) -> None:
    base = sum(p.numel() for p in tiny_t5_model().parameters())
    for rank in ranks:
        assert rank["sharded"]["sharded"] == base
        assert rank["sharded"]["held"] == base // 2
        assert rank["ddp"]["sharded"] == 0


def test_the_base_is_whole_in_the_rollout_alone(ranks: list[dict[str, Any]]) -> None:
    expected = {"generate": {False}, "scores_of": {True}, "on_before_optimizer_step": {True}}
    for rank in ranks:
        assert rank["sharded"]["states"] == expected


def test_what_is_learned_is_what_ddp_learns(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        ours, theirs = rank["sharded"], rank["ddp"]
        assert len(ours["gradients"]) == 2 * 2 * 1  # rollouts × epochs × mini-batches
        same(ours["gradients"], theirs["gradients"])
        same(ours["weights"], theirs["weights"])
        assert ours["samples"].responses == theirs["samples"].responses
        assert figures(ours["metrics"]) == pytest.approx(
            figures(theirs["metrics"]), rel=FLOAT32, abs=FLOAT32
        )
    first, second = (rank["sharded"] for rank in ranks)
    same(first["weights"], second["weights"], tolerance=0)
    assert first["samples"].prompts != second["samples"].prompts
    assert any(weight.any() for name, weight in first["weights"].items() if "lora_B" in name)


def test_the_base_stays_what_it_was(ranks: list[dict[str, Any]]) -> None:
    before = tiny_t5_model().state_dict()
    for rank in ranks:
        base = {
            name.removeprefix("base_model.model.").replace(".base_layer", ""): value
            for name, value in rank["sharded"]["base"].items()
        }
        assert base.keys() <= before.keys()
        same(base, {name: before[name] for name in base}, tolerance=0)


@pytest.mark.slow
def test_each_goes_on_from_the_other_s_checkpoint(
    ranks: list[dict[str, Any]], later: list[dict[str, Any]]
) -> None:
    for first, rank in zip(ranks, later, strict=True):
        ours, theirs = rank["sharded after ddp"], rank["ddp after sharded"]
        assert ours["rollouts"] == theirs["rollouts"] == 4
        same(ours["gradients"], theirs["gradients"])
        same(ours["weights"], theirs["weights"])
        before, after = first["ddp"]["weights"], ours["weights"]
        assert not torch.equal(before[f"policy.{HEAD}"], after[f"policy.{HEAD}"])


def test_checkpoints_are_those_of_ddp(ranks: list[dict[str, Any]]) -> None:
    ours, theirs = (
        torch.load(f"{ranks[0][strategy]['run']}/checkpoints/last.ckpt", weights_only=True)
        for strategy in ("sharded", "ddp")
    )
    assert ours.keys() == theirs.keys()
    assert ours["state_dict"].keys() == ranks[0]["sharded"]["weights"].keys()
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops"):
        same(ours[part], theirs[part])


def test_exports_are_those_of_ddp(ranks: list[dict[str, Any]], folder: Path) -> None:
    from peft import PeftModel

    adapters = [
        PeftModel.from_pretrained(tiny_t5_model(), f"{ranks[0][strategy]['run']}/adapter")
        for strategy in ("sharded", "ddp")
    ]
    ours, theirs = (adapter.state_dict() for adapter in adapters)
    same(ours, theirs)
    assert any(value.any() for name, value in ours.items() if "lora_B" in name)


@pytest.mark.slow
def test_one_process_finds_what_two_find(
    ranks: list[dict[str, Any]], later: list[dict[str, Any]], folder: Path
) -> None:
    """Seven prompts of the test, six of the validation, four in a batch."""
    last = f"{ranks[0]['sharded']['run']}/checkpoints/last.ckpt"
    alone = sharding.tested(folder, "test", last, f"--report.folder={folder}/report1")
    assert alone["test/after/kl"] != 0
    for rank in later:
        assert rank["test"] == pytest.approx(alone, abs=float32(6))
    logged = figures(ranks[0]["sharded"]["metrics"])
    for rank in later:
        assert {**logged, **rank["validate"]} == pytest.approx(logged, abs=float32(6))


def test_processes_in_a_gathered_base_need_not_wait(ranks: list[dict[str, Any]]) -> None:
    """One asks once, the other three times; and a copied adapter is the reference."""
    for rank in ranks:
        ours, theirs = rank["beside"]["shards"], rank["beside"]["whole"]
        same(ours, theirs)
        same(ours["reference"], ours["logprobs"], tolerance=FLOAT32)
        assert ours["gradients"][HEAD].any()


@pytest.mark.slow
def test_no_process_waits_for_one_that_failed(output: str) -> None:
    assert "rank 1: rollout 0: the reward 'nothate' failed with ZeroDivisionError" in output


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        ("deepspeed_stage_2", "DeepSpeed keeps gradients to itself"),
        ("fsdp", "FSDP1 would shard what learns"),
        ("DeepSpeedStrategy", "DeepSpeed keeps gradients to itself"),
        ("{class_path: lightning.pytorch.strategies.ModelParallelStrategy}", "the whole base"),
    ],
)
def test_other_strategies_are_refused(folder: Path, strategy: str, reason: str) -> None:
    flag = f"--trainer.strategy={strategy}"
    outcome = run("fit", "--config", str(folder / "tiny.yaml"), flag)
    (error,) = outcome.errors
    assert outcome.code == 2
    assert reason in error
    assert error.endswith("Give sharded (configs/overlays/fsdp.yaml) or ddp")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--model.lora=null"], "model.lora=null"),
        (["--model.weights.quantization=8bit"], "model.weights.quantization=8bit"),
        (["--model.critic=adapter"], "model.critic=adapter"),
    ],
)
def test_only_a_plain_frozen_base_is_sharded(folder: Path, words: list[str], named: str) -> None:
    flags = ["--trainer.strategy=sharded", *words]
    outcome = run("fit", "--config", str(folder / "tiny.yaml"), *flags)
    (error,) = outcome.errors
    assert outcome.code == 2
    assert error.startswith(f"error: trainer.strategy=sharded, {named}: ")
    assert "trainer.strategy=ddp" in error


def test_other_stages_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = ["--config", "configs/demo/supervised.yaml", "--trainer.strategy=sharded"]
    outcome = run(
        "fit", *words, "--trainer.accelerator=cpu", f"--trainer.default_root_dir={folder}"
    )
    assert outcome.errors == [
        "error: trainer.strategy=sharded: SupervisedModule trains models that fit on one device; "
        "give ddp"
    ]
