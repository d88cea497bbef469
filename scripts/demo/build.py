"""Rebuilds the demo that the package ships: data, a tiny summarizer, a tiny hate classifier.

    python scripts/demo/build.py

writes dialogues and labelled texts with :mod:`demo_world`, learns a tokenizer from each, and trains
the two models with the package's stages: ``fit --config configs/demo/supervised.yaml`` and ``fit
--config configs/demo/reward.yaml``.
"""

import argparse
import gzip
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from demo_world import labeled_texts, scenes

from detox_lightning.__main__ import main as command
from detox_lightning.demo import ASSETS

# The build trains on the first; the package ships the second.
BUILD_SCENES = {"train": 48_000, "validation": 200}
SHIPPED_SCENES = {"train": 4_000, "validation": 200, "test": 400}
BUILD_TEXTS = {"train": 24_000, "test": 1_000}
POLICY_PIECES = 1_000
CLASSIFIER_PIECES = 600


def write_rows(file: Path, rows: Iterable[NamedTuple]) -> None:
    """Writes rows as gzipped JSON lines; equal rows give equal bytes.

    Args:
        file: The new file; its folder is created.
        rows: The rows, one per line.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row._asdict(), ensure_ascii=False) + "\n" for row in rows)
    file.write_bytes(gzip.compress(lines.encode(), mtime=0))


def write_scenes(folder: Path, counts: dict[str, int], world: str) -> None:
    """Writes a dialogue file for each split.

    Args:
        folder: Folder of the files.
        counts: Number of rows by split.
        world: Name of the data set; data sets of different names share no scene.
    """
    for seed, (split, count) in enumerate(counts.items()):
        write_rows(folder / f"{split}.jsonl.gz", scenes(count, seed, f"{world}_{split}"))


def learn_tokenizer(texts: Iterator[str], pieces: int, specials: dict[str, str], form: str) -> Any:
    """Learns a subword tokenizer.

    Args:
        texts: Training texts.
        pieces: Size of the vocabulary.
        specials: Special tokens by their role, in the order of their ids.
        form: Template of a text: ``$A`` and special tokens.

    Returns:
        A ``PreTrainedTokenizerFast``.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=specials["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Split(Regex("[.,:!?']"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace()
    names = list(specials.values())
    trainer = trainers.BpeTrainer(vocab_size=pieces, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(name, tokenizer.token_to_id(name)) for name in names]
    tokenizer.post_processor = processors.TemplateProcessing(single=form, special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        **specials,
    )


def start_policy(folder: Path, texts: Iterator[str]) -> None:
    """Writes an untrained T5 with a tokenizer of its own.

    Args:
        folder: The new folder.
        texts: Training texts of the tokenizer.
    """
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    specials = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = learn_tokenizer(texts, POLICY_PIECES, specials, "$A </s>")
    torch.manual_seed(0)
    config: Any = T5Config(  # type: ignore[call-arg]  # its stub lacks the common options
        vocab_size=len(tokenizer),
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        relative_attention_max_distance=64,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
        scale_decoder_outputs=False,
    )
    model = T5ForConditionalGeneration(config)
    # the constructor ties the output head, whatever the config says
    model.lm_head.weight = torch.nn.Parameter(0.05 * torch.randn(len(tokenizer), config.d_model))
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def start_classifier(folder: Path, texts: Iterator[str]) -> None:
    """Writes an untrained BERT with a tokenizer of its own.

    Args:
        folder: The new folder.
        texts: Training texts of the tokenizer.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    specials = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    tokenizer = learn_tokenizer(texts, CLASSIFIER_PIECES, specials, "[CLS] $A [SEP]")
    tokenizer.model_max_length = 160  # a pipeline cuts texts to this
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=tokenizer.model_max_length,
        id2label={0: "nothate", 1: "hate"},
        label2id={"nothate": 0, "hate": 1},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def ship(trained: Path, asset: Path, auto_class: str) -> None:
    """Copies a trained model into the package, with weights in half precision.

    Args:
        trained: Folder that a stage exported.
        asset: Folder in the package; an existing one is replaced.
        auto_class: Class of transformers that opens the model.
    """
    import torch

    from detox_lightning.models.loading import load_model, load_tokenizer
    from detox_lightning.models.saving import save_model

    shutil.rmtree(asset, ignore_errors=True)
    save_model(
        load_model(auto_class, str(trained)).to(torch.float16), load_tokenizer(str(trained)), asset
    )


def build(work: Path, assets: Path, configs: Path) -> None:
    """Writes the data, and trains and copies both models.

    Args:
        work: A new folder for files that aren't shipped.
        assets: Folder for files that are shipped.
        configs: Folder with ``supervised.yaml`` and ``reward.yaml``.
    """
    write_scenes(work / "dialogues", BUILD_SCENES, "build")
    write_scenes(assets / "dialogues", SHIPPED_SCENES, "demo")
    for seed, (split, count) in enumerate(BUILD_TEXTS.items()):
        write_rows(work / "texts" / f"{split}.jsonl.gz", labeled_texts(count, seed))

    learned = scenes(4_000, 0, "build_train")
    prompt = "Summarize the following conversation.\n\n{}\n\nSummary:\n"
    texts = (text for s in learned for text in (prompt.format(s.dialogue), s.summary))
    start_policy(work / "start" / "policy", texts)
    start_classifier(work / "start" / "classifier", (t.text for t in labeled_texts(4_000, 0)))
    stages = {
        "policy": ("supervised", "dialogues", "AutoModelForSeq2SeqLM"),
        "classifier": ("reward", "texts", "AutoModelForSequenceClassification"),
    }
    for name, (stage, data, auto_class) in stages.items():
        command(
            [
                "fit",
                f"--config={configs / stage}.yaml",
                f"--model.model={work / 'start' / name}",
                f"--data.source={work / data}",
                f"--export.folder={work / 'trained' / name}",
                f"--trainer.logger.save_dir={work / 'runs'}",
            ]
        )
        ship(work / "trained" / name, assets / name, auto_class)


def main() -> None:
    """Reads the command line and builds."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/demo"),
        help="a new folder for files that aren't shipped",
    )
    parser.add_argument(
        "--assets", type=Path, default=ASSETS, help="folder for files that are shipped"
    )
    parser.add_argument("--configs", type=Path, default=Path("configs/demo"))
    arguments = parser.parse_args()
    if arguments.work.exists():
        parser.error(f"--work {arguments.work} exists: name a new folder, or remove it")
    build(arguments.work, arguments.assets, arguments.configs)


if __name__ == "__main__":
    main()
