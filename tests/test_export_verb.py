"""What a run becomes for others: folders with cards, merged models, from checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import AutoPeftModelForSeq2SeqLM
from transformers import AutoModelForSeq2SeqLM

from command import run, tiny_recipe
from numerics import FLOAT32
from toys import PAIRS, collate_pairs

QUICK = ("--trainer.max_epochs=1", "--trainer.limit_val_batches=1")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_t5: str, tiny_classifier: str) -> str:
    """Of a run that was fitted, with a merged model, and tested."""
    folder = tmp_path_factory.mktemp("exported")
    recipe = tiny_recipe(folder, tiny_t5, tiny_classifier)
    fitted = run("fit", "--config", recipe, *QUICK, "--export.merged=true")
    assert fitted.code == 0, fitted.err
    assert run("test", "--config", recipe, "--ckpt_path=last").code == 0
    return recipe


@pytest.fixture(scope="module")
def run_folder(recipe: str) -> Path:
    return Path(recipe).parent / "runs" / "tiny" / "version_0"


def logits(model: Any) -> torch.Tensor:
    batch = collate_pairs(PAIRS[:4])
    with torch.no_grad():
        output = model.eval()(
            input_ids=batch.prompt_ids, attention_mask=batch.prompt_mask, labels=batch.target_ids
        )
    return output.logits


def front(folder: Path) -> dict[str, Any]:
    """What the hub reads of a card."""
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf8").split("---")[1])


def test_fit_leaves_an_adapter_and_a_merged_model(run_folder: Path, tiny_t5: str) -> None:
    adapter = logits(AutoPeftModelForSeq2SeqLM.from_pretrained(run_folder / "adapter"))
    merged = logits(AutoModelForSeq2SeqLM.from_pretrained(run_folder / "merged"))
    torch.testing.assert_close(merged, adapter, atol=FLOAT32, rtol=0)
    base = logits(AutoModelForSeq2SeqLM.from_pretrained(tiny_t5))
    assert not torch.allclose(base, adapter, atol=FLOAT32)
    for folder in (run_folder / "adapter", run_folder / "merged"):
        names = {path.name for path in folder.iterdir()}
        assert {"README.md", "generation_config.json", "tokenizer.json"} <= names
    assert not (run_folder / "merged" / "adapter_config.json").exists()


def test_the_cards_tell_how_to_ask_the_models(
    recipe: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = yaml.safe_load((run_folder / "config.yaml").read_text("utf8"))["data"]["init_args"]
    outputs = []
    for name in ("adapter", "merged"):
        monkeypatch.chdir(run_folder / name)
        card = Path("README.md").read_text(encoding="utf8")
        names: dict[str, Any] = {}
        exec(card.partition("```python\n")[2].partition("```")[0], names)
        assert names["prompt"] == template["template"].replace("{dialogue}", names["dialogue"])
        outputs.append(names["output"].tolist())
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 1


def test_export_writes_the_same_from_a_checkpoint(recipe: str, run_folder: Path) -> None:
    outcome = run("export", "--config", recipe, "--ckpt_path=last")
    assert outcome.code == 0, outcome.err
    for name in ("adapter_model.safetensors", "value_head.safetensors"):
        ours = (run_folder / "adapter-last" / name).read_bytes()
        assert ours == (run_folder / "adapter" / name).read_bytes()
    again = run("export", "--config", recipe, "--ckpt_path=last", "--export.merged=true")
    assert again.code == 0
    assert (run_folder / "adapter-last-1").is_dir()  # nothing is written over
    merged = logits(AutoModelForSeq2SeqLM.from_pretrained(run_folder / "merged-last-1"))
    adapter = logits(AutoPeftModelForSeq2SeqLM.from_pretrained(run_folder / "adapter"))
    torch.testing.assert_close(merged, adapter, atol=FLOAT32, rtol=0)


def test_a_card_tells_where_it_comes_from(recipe: str, run_folder: Path) -> None:
    # what the checkpoint was trained with is told, not this
    others = ("--model.kl.coef=0.75", "--data.source=demo:dialogues", "--model.reward.label=hate")
    assert run("export", "--config", recipe, "--ckpt_path=last", *others).code == 0
    folder = max(run_folder.glob("adapter-last*"), key=lambda path: path.stat().st_mtime)
    card = (folder / "README.md").read_text(encoding="utf8")
    assert front(folder)["library_name"] == "peft"
    assert front(folder)["pipeline_tag"] == "summarization"
    assert "base_model" not in front(folder)  # a folder of this machine means nothing elsewhere
    for told in (
        "PPOModule",
        "logit of 'nothate'",
        "python -m detox_lightning",
        "kl.coef",
        "torch",
    ):
        assert told in card
    summary = json.loads((run_folder / "test" / "summary.json").read_text(encoding="utf8"))
    assert "| kl.coef | 0.2 |" in card
    words = f"fit --config {recipe} {' '.join(QUICK)} --export.merged=true"
    assert f"\n```bash\npython -m detox_lightning {words}\n```\n" in card
    assert f"| data | {Path(recipe).parent} |" in card
    assert "datasets" not in front(folder)
    toxicity = summary["figures"]["sampled"]["toxicity"]["after"]["value"]
    assert f"{toxicity:.3f}" in card.partition("## The last test")[2]
    fitted = (run_folder / "adapter" / "README.md").read_text(encoding="utf8")
    assert "## The last test" not in fitted  # it was not tested yet
    untested = next((run_folder / "checkpoints").glob("epoch*.ckpt"))
    assert run("export", "--config", recipe, f"--ckpt_path={untested}").code == 0
    card = (run_folder / f"adapter-{untested.stem}" / "README.md").read_text(encoding="utf8")
    assert "## The last test" not in card
    assert "val/toxicity" in fitted.partition("## The last validation")[2]
    assert front(run_folder / "merged")["library_name"] == "transformers"


def test_what_can_t_be_exported(recipe: str, tmp_path: Path) -> None:
    for path, message in (
        (
            tmp_path / "none.ckpt",
            "there is no such file or folder; give a checkpoint, the folder of a run, or last",
        ),
        (Path(recipe), "this is not a checkpoint, or it is damaged; give a checkpoint, or last"),
    ):
        outcome = run("export", "--config", recipe, f"--ckpt_path={path}")
        assert outcome.errors == [f"error: --ckpt_path {path}: {message}"]
    (tmp_path / "mine.txt").write_text("mine")
    taken = run("export", "--config", recipe, "--ckpt_path=last", f"--export.folder={tmp_path}")
    assert taken.code == 2
    assert taken.errors[0].startswith(f"error: export.folder={tmp_path}: there is something in it")
    nothing = run("export", "--config", recipe)
    assert nothing.errors[0].startswith("error: --ckpt_path=None: there is no such file")


ELSEWHERE = """
import json, sys
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from peft import AutoPeftModelForSeq2SeqLM
adapter, merged = sys.argv[1:]
prompts = json.load(sys.stdin)
said = []
for model in (
    AutoPeftModelForSeq2SeqLM.from_pretrained(adapter),
    AutoModelForSeq2SeqLM.from_pretrained(merged),
):
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    inputs = tokenizer(prompts, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    ids = model.eval().generate(**inputs, max_new_tokens=6, do_sample=False)
    said.append(tokenizer.batch_decode(ids, skip_special_tokens=True))
json.dump(said, sys.stdout)
assert not any(name.startswith("detox_lightning") for name in sys.modules)
"""


@pytest.mark.slow
def test_supervised_then_ppo_then_others(
    tmp_path: Path, tiny_t5: str, tiny_classifier: str
) -> None:
    """The adapter of the first stage is trained on by the second, and others say the same."""
    recipe = tiny_recipe(tmp_path, tiny_t5, tiny_classifier)
    config = yaml.safe_load(Path(recipe).read_text())
    config["model"] = {
        "class_path": "SupervisedModule",
        "init_args": {"model": tiny_t5, "lora": {"r": 4}},
    }
    config["trainer"]["logger"]["init_args"]["name"] = "first"
    first = tmp_path / "first.yaml"
    first.write_text(yaml.safe_dump(config))
    assert run("fit", "--config", str(first), *QUICK).code == 0
    start = tmp_path / "runs" / "first" / "version_0" / "adapter"
    policy = f"--model.policy={start}"
    fitted = run("fit", "--config", recipe, *QUICK, policy, "--export.merged=true")
    assert fitted.code == 0, fitted.err
    folder = tmp_path / "runs" / "tiny" / "version_0"

    file = tmp_path / "ours.jsonl"
    flags = (policy, "--ckpt_path=last", f"--predictions.file={file}")
    assert run("predict", "--config", recipe, *flags).code == 0
    rows = [json.loads(line) for line in file.read_text(encoding="utf8").splitlines()]
    words = [sys.executable, "-c", ELSEWHERE, str(folder / "adapter"), str(folder / "merged")]
    prompts = json.dumps([row["prompt"] for row in rows])
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, input=prompts, capture_output=True, text=True, env=one, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for said in json.loads(done.stdout):
        assert [text.strip() for text in said] == [row["response"] for row in rows]
