"""Two encoders, joined by the script, go through all stages as one model."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import datasets
import pytest
import torch
from peft import AutoPeftModelForSeq2SeqLM
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BertModel

from command import ROOT, module_of, run, tiny_recipe
from conftest import FEELINGS, NAMES, tiny_bert_config, word_tokenizer
from detox_lightning.compare.page_server import PageServer
from detox_lightning.data.encoding import Encoding
from detox_lightning.models.source import ModelSource
from detox_lightning.protocols import Stage
from numerics import FLOAT32

SUPERVISED = str(ROOT / "configs" / "supervised.yaml")
LEARNED = ("--model.lora=null", "--model.optimizer.lr=0.01", "--model.schedule.warmup_steps=0")
QUICK = ("--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--threads=1")


def save_encoder(folder: Path, seed: int, **special: str) -> str:
    """A random BERT whose tokenizer puts texts between two special tokens."""
    torch.manual_seed(seed)
    BertModel(tiny_bert_config()).save_pretrained(folder)
    tokenizer = word_tokenizer()
    frame = TemplateProcessing(single="<unk> $A </s>", special_tokens=[("<unk>", 2), ("</s>", 1)])
    tokenizer.backend_tokenizer.post_processor = frame
    tokenizer.add_special_tokens({"cls_token": "<unk>", "sep_token": "</s>", **special})
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return module_of(ROOT / "scripts" / "encoder_decoder.py")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with two encoders and a cache."""
    folder = tmp_path_factory.mktemp("joined")
    save_encoder(folder / "one", 1)
    save_encoder(folder / "two", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield folder


def joined(script: ModuleType, *words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["encoder_decoder.py", *words])
        script.main()


@pytest.fixture(scope="module")
def folder(script: ModuleType, place: Path) -> str:
    joined(script, "one", "joined", "--decoder=two")
    return str(place / "joined")


def test_what_is_joined(script: ModuleType, folder: str, place: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    for part, name in ((model.encoder, "one"), (model.decoder.bert, "two")):
        theirs = BertModel.from_pretrained(place / name).state_dict()
        ours = part.state_dict()
        same = [key for key in theirs if key in ours and torch.equal(ours[key], theirs[key])]
        assert len(same) >= len(theirs) - 2  # a decoder has no pooler
    assert (
        model.decoder.get_output_embeddings().weight is model.decoder.get_input_embeddings().weight
    )
    config = model.generation_config
    ends = config.decoder_start_token_id, config.eos_token_id, config.pad_token_id
    assert (*ends, config.max_new_tokens) == (2, 1, 0, 64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.eos_token, tokenizer.model_max_length) == ("</s>", 64)

    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        whole = model(input_ids=ids, decoder_input_ids=ids).logits
        begun = model(input_ids=ids, decoder_input_ids=ids[:, :3]).logits
        other = model(input_ids=ids.flip(1), decoder_input_ids=ids).logits
    torch.testing.assert_close(whole[:, :3], begun, atol=FLOAT32, rtol=0)  # nothing comes back
    assert not torch.allclose(whole, other, atol=1e-4)  # it sees what it rewrites

    again = script.join("one", "two")[0].state_dict()
    assert all(torch.equal(x, again[name]) for name, x in model.state_dict().items())


def test_new_weights_come_from_known_ones(script: ModuleType, place: Path) -> None:
    decoder = script.decoder_of("two")
    for layer in decoder.bert.encoder.layer:
        theirs = layer.attention.state_dict()
        assert all(
            torch.equal(x, theirs[name]) for name, x in layer.crossattention.state_dict().items()
        )
    transform = decoder.cls.predictions.transform.dense
    assert torch.equal(transform.weight, torch.eye(len(transform.bias)))
    assert not transform.bias.any()

    torch.nn.init.normal_(transform.weight)
    decoder.save_pretrained(place / "with_head")
    kept = script.decoder_of("with_head").cls.predictions.transform.dense
    assert torch.equal(kept.weight, transform.weight)  # a head that was trained stays


def test_an_answer_doesn_t_repeat_the_start(folder: str, tiny_t5: str) -> None:
    for name in (folder, tiny_t5):
        source = ModelSource.resolve(name)
        stage = cast(Stage, SimpleNamespace(source=source, family=source.family))
        encoding = Encoding(None, stage)
        words = encoding.tokenizer.convert_tokens_to_ids(FEELINGS[:2])
        (ids,) = encoding.answer_ids([" ".join(FEELINGS[:2])], limit=9)
        assert ids == [*words, 1]  # the end is learned, [CLS] (2) is given


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("one", "two"), "two is there already; remove it, or name another"),
        (("tiny", "new"), "the tokenizer of tiny has no [CLS] or [SEP]; give a model like BERT"),
        (
            ("one", "new", "--decoder=more"),
            "one and more have different tokenizers; give two with one",
        ),
    ],
)
def test_what_can_t_be_joined(
    script: ModuleType,
    place: Path,
    tiny_encoder: str,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    if not (place / "tiny").exists():
        (place / "tiny").symlink_to(tiny_encoder)
        save_encoder(place / "more", 1, mask_token="<mask>")
    with pytest.raises(SystemExit) as ended:
        joined(script, *words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def write_pairs(folder: Path) -> Path:
    """Rows of an insult, and two ways to do without it."""
    rows = [
        {
            "toxic": f"{name} you {feeling} fool",
            "neutrals": [f"{name} {feeling}", f"{name} is {feeling}"],
        }
        for name in NAMES
        for feeling in FEELINGS[:2]
    ]
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def asked(*words: str) -> dict[str, Any]:
    """What the page of ``compare`` answers to one question."""
    held: dict[str, Any] = {}

    def serve(self: PageServer, page: str, answer: Any) -> None:
        question = {"text": "Ann you sad fool", "row": 0, "samples": 0, "seed": 42}
        held.update(answer(json.dumps(question).encode()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PageServer, "serve", serve)
        outcome = run("compare", *words, "--port=0", "--open_browser=false")
    assert outcome.code == 0, outcome.err
    return held


@pytest.mark.slow
def test_it_goes_through_all_stages(folder: str, place: Path, tiny_classifier: str) -> None:
    pairs = (
        f"--data.source={write_pairs(place)}",
        "--data.dialogue_column=toxic",
        "--data.summary_column=neutrals",
        "--data.template={dialogue}",
        "--data.test_fraction=0.25",
        "--data.max_prompt_tokens=20",
        "--data.max_target_tokens=20",
    )
    taught = run(
        *("fit", "--config", SUPERVISED, f"--model.model={folder}", *pairs, *QUICK, *LEARNED),
        *("--model.max_new_tokens=8", "--trainer.max_epochs=2", "--export.folder=taught"),
    )
    assert taught.code == 0, taught.err
    assert "24 pairs of a dialogue and a summary" in taught.err
    before, after = (
        AutoModelForSeq2SeqLM.from_pretrained(x).state_dict() for x in (folder, "taught")
    )
    learned = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() - learned == {"encoder.pooler.dense.weight", "encoder.pooler.dense.bias"}

    recipe = tiny_recipe(place, "taught", tiny_classifier)
    ppo = ("--config", recipe, *pairs, "--data.max_chars=1000", "--model.optimizer.lr=0.05")
    fitted = run("fit", *ppo, "--trainer.limit_train_batches=1")
    assert fitted.code == 0, fitted.err
    resumed = run(
        "fit", *ppo, "--trainer.limit_train_batches=1", "--trainer.max_epochs=2", "--ckpt_path=last"
    )
    assert resumed.code == 0, resumed.err
    merged = run("export", "--config", recipe, "--ckpt_path=last", "--export.merged=true")
    assert merged.code == 0, merged.err
    run_folder = place / "runs" / "tiny" / "version_0"
    adapter = AutoPeftModelForSeq2SeqLM.from_pretrained(run_folder / "adapter-last").eval()
    trained = {
        re.sub(r"\d+", "N", name.removeprefix("base_model.model.")).partition(".lora_B")[0]
        for name, weight in adapter.named_parameters()
        if "lora_B" in name and weight.any()
    }
    layers = "encoder.encoder", "decoder.bert.encoder"
    own = {f"{part}.layer.N.attention.self.{x}" for part in layers for x in ("query", "value")}
    crossed = {f"{layers[1]}.layer.N.crossattention.self.{x}" for x in ("query", "value")}
    assert trained == own | crossed
    assert (run_folder / "adapter-last" / "value_head.safetensors").exists()

    plain = AutoModelForSeq2SeqLM.from_pretrained(run_folder / "merged-last").eval()
    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        ours, theirs = (x(input_ids=ids, decoder_input_ids=ids).logits for x in (adapter, plain))
    torch.testing.assert_close(theirs, ours, atol=FLOAT32, rtol=0)
    assert "Ann you sad fool" in asked("--config", recipe, *pairs, "--ckpt_path=last")["html"]
