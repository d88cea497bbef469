"""The embedded default at a smaller size: it learns, is judged, goes on, and is used elsewhere."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from command import DEMO
from detox_lightning.cli.command import DetoxCLI
from detox_lightning.demo import ASSETS
from detox_lightning.models.decoding.sampling import greedy
from detox_lightning.ppo.actor import Actor
from numerics import float32, rounding

ROLLOUTS = 14
SMALL = (
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_epochs=1",
)
FEW = ("--data.num_eval_samples=40", "--data.eval_batch_size=20")


def demo(verb: str, folder: Path, *flags: str) -> DetoxCLI:
    """A command on the embedded default, with its runs in a folder."""
    saved = f"--trainer.logger.save_dir={folder}"
    return DetoxCLI([verb, "--config", DEMO, saved, *SMALL, *flags])


def curve(run_folder: Path, name: str) -> list[float]:
    """What TensorBoard shows of a metric."""
    return [event.value for event in EventAccumulator(str(run_folder)).Reload().Scalars(name)]


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setenv("PL_GLOBAL_SEED", "0")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def fitted(folder: Path) -> DetoxCLI:
    """The run that the tests look at."""
    some = "--data.num_eval_samples=100"
    return demo("fit", folder, some, f"--trainer.limit_train_batches={ROLLOUTS}")


@pytest.fixture(scope="module")
def adapter(folder: Path, fitted: DetoxCLI) -> Path:
    return folder / "demo" / "version_0" / "adapter"


def metrics(cli: DetoxCLI, prefix: str) -> dict[str, float]:
    values = cli.trainer.callback_metrics.items()
    return {k.removeprefix(prefix): float(v) for k, v in values if k.startswith(prefix)}


NAMES = ("toxicity", "score", "rougeL", "length", "eos_rate", "kl")


@pytest.mark.usefixtures("fitted")
def test_it_learns_to_summarize_without_insults(folder: Path) -> None:
    before, after = (
        {name: curve(folder / "demo" / "version_0", f"val/{name}")[place] for name in NAMES}
        for place in (0, -1)
    )
    assert before["kl"] == pytest.approx(0, abs=float32(100))
    assert before["toxicity"] > 0.3
    assert after["toxicity"] < 0.25 * before["toxicity"]
    assert after["score"] > before["score"] + 1
    # and not by saying nothing
    assert after["rougeL"] > before["rougeL"] - 0.02
    assert after["length"] > 0.8 * before["length"]
    assert after["eos_rate"] > 0.9
    assert 0 < after["kl"] < 6


@pytest.mark.slow
@pytest.mark.usefixtures("fitted")
def test_before_is_the_untouched_policy(folder: Path) -> None:
    trained = demo("test", folder, *FEW, "--ckpt_path=last")
    untouched = demo("test", folder, *FEW)
    before = metrics(trained, "test/before/")
    assert before == metrics(untouched, "test/before/")
    after = metrics(untouched, "test/after/")
    assert after.pop("kl") == pytest.approx(0, abs=float32(100))
    assert before == after
    after = metrics(trained, "test/after/")
    assert after["toxicity"] < 0.5 * before["toxicity"]
    improvement = 1 - after["toxicity"] / before["toxicity"]
    logged = metrics(trained, "test/improvement/")["toxicity"]
    assert logged == pytest.approx(improvement, abs=1e-5)


@pytest.mark.usefixtures("fitted")
def test_predictions_keep_the_prompts_order(folder: Path) -> None:
    file = folder / "predictions.jsonl"
    both = "--model.evaluation.predict_before=true"
    demo("predict", folder, *FEW, both, "--ckpt_path=last", f"--predictions.file={file}")
    rows = [json.loads(line) for line in file.read_text(encoding="utf8").splitlines()]
    source = datasets.load_dataset("json", data_files=str(ASSETS / "dialogues" / "test.jsonl.gz"))
    wanted = source["train"].select(range(40))
    figures = {f"{name}_{side}" for name in ("score", "toxicity") for side in ("before", "after")}
    assert [set(row) - figures for row in rows] == [{"prompt", "before", "after", "reference"}] * 40
    assert [row["reference"] for row in rows] == wanted["clean_summary"]
    template = "Summarize the following conversation.\n\n{}\n\nSummary:\n"
    assert [row["prompt"] for row in rows] == [template.format(d) for d in wanted["dialogue"]]
    assert sum(row["before"] != row["after"] for row in rows) > 10
    means = {name: sum(row[name] for row in rows) / 40 for name in figures}
    assert means["toxicity_after"] < 0.5 * means["toxicity_before"]
    assert means["score_after"] > means["score_before"]


@pytest.mark.usefixtures("fitted")
def test_prompts_from_a_file(folder: Path) -> None:
    source = folder / "mine.txt"
    source.write_text("Mia: You are a dumb dunce. I am furious.\nHal: The party is at noon.\n")
    file = folder / "mine.jsonl"
    flags = (f"--data.predict_source={source}", f"--predictions.file={file}")
    demo("predict", folder, *flags, "--ckpt_path=last")
    rows = [json.loads(line) for line in file.read_text(encoding="utf8").splitlines()]
    assert ["Mia" in rows[0]["prompt"], "noon" in rows[1]["prompt"]] == [True, True]
    assert [set(row) for row in rows] == [{"prompt", "response", "score", "toxicity"}] * 2
    for row in rows:  # the classifier has two labels; the score is the logit of the other one
        assert (row["score"] < 0) == (row["toxicity"] > 0.5)


@pytest.mark.slow
def test_a_run_that_was_broken_off_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--data.batch_size=4", "--trainer.limit_train_batches=3", "--trainer.max_epochs=2"]
    flags += ["--trainer.limit_val_batches=0", "--model.sampling.max_new_tokens=16"]
    flags += ["--model.ppo_epochs=1", "--checkpoint.every_n_train_steps=2"]  # a rollout's
    demo("fit", tmp_path, *flags, "--trainer.logger.name=whole")

    respond_to = Actor.respond_to

    def broken_off(self: Actor, prompts: Any, number: int) -> Any:
        if number == 2:  # in the middle of an epoch
            raise KeyboardInterrupt
        return respond_to(self, prompts, number)

    with monkeypatch.context() as patch:
        patch.setattr(Actor, "respond_to", broken_off)
        with pytest.raises(SystemExit):
            demo("fit", tmp_path, *flags, "--trainer.logger.name=broken")

    def last(run: str) -> dict[str, Any]:
        file = tmp_path / run / "version_0" / "checkpoints" / "last.ckpt"
        return torch.load(file, weights_only=True)

    half = last("broken")
    demo("fit", tmp_path, *flags, "--trainer.logger.name=broken", "--ckpt_path=last")
    assert [x.name for x in (tmp_path / "broken").iterdir()] == ["version_0"]
    whole, resumed = last("whole"), last("broken")
    assert [c["detox_lightning"]["rollouts"] for c in (whole, half, resumed)] == [6, 2, 6]
    assert resumed["detox_lightning"] == whole["detox_lightning"]
    assert resumed["lr_schedulers"] == whole["lr_schedulers"]
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    weights = whole["state_dict"]
    assert any(not torch.equal(half["state_dict"][name], weights[name]) for name in weights)


ELSEWHERE = """
import json, sys
from peft import AutoPeftModelForSeq2SeqLM
from transformers import AutoTokenizer
folder, prompts = sys.argv[1], json.load(sys.stdin)
model = AutoPeftModelForSeq2SeqLM.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = tokenizer(prompts, padding=True, return_tensors="pt")
said = model.generate(**inputs, max_new_tokens=48, do_sample=False)
json.dump(tokenizer.batch_decode(said, skip_special_tokens=True), sys.stdout)
assert not any(name.startswith("detox_lightning") for name in sys.modules)
"""


@pytest.mark.slow  # test_export_verb.py does it with a model that is merged, too
def test_peft_alone_says_the_same(fitted: DetoxCLI, adapter: Path) -> None:
    batch = next(iter(fitted.datamodule.val_dataloader()))
    prompts = batch.prompts[:20]
    words = [sys.executable, "-c", ELSEWHERE, str(adapter)]
    done = subprocess.run(
        words, input=json.dumps(prompts), capture_output=True, text=True, cwd=adapter, timeout=120
    )
    assert done.returncode == 0, done.stderr
    policy, tokenizer = fitted.model.policy, fitted.model.tokenizer
    rows = batch.prompt_ids[:20], batch.prompt_mask[:20]
    said = policy.generate(policy.encode_prompts(*rows), greedy, 48).ids
    here = tokenizer.batch_decode(said, skip_special_tokens=True)
    assert json.loads(done.stdout) == here
    with policy.reference():
        untouched = policy.generate(policy.encode_prompts(*rows), greedy, 48).ids
    assert tokenizer.batch_decode(untouched, skip_special_tokens=True) != here


def test_the_adapter_is_where_the_next_run_begins(
    adapter: Path, folder: Path, tmp_path: Path
) -> None:
    one = ("--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0")
    demo("fit", tmp_path, *one, f"--model.policy={adapter}")
    onwards, anew = (place / "demo" / "version_0" for place in (tmp_path, folder))
    # 48 log-probabilities, each of 10 sublayers of at most 256 terms, and a sum over 1,000 words
    bound = rounding(48 * (10 * 256 + 1000), size=10)
    for run_folder in (onwards, anew):
        assert curve(run_folder, "objective/kl")[0] == pytest.approx(0, abs=bound)
    # the same prompts, a better policy
    tokens = "tokens/queries_len_mean"
    assert curve(onwards, tokens)[0] == curve(anew, tokens)[0]
    scores = "objective/scores_mean"
    assert curve(onwards, scores)[0] > curve(anew, scores)[0] + 1
