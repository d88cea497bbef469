"""Random models and prompts of a given shape, which both sides open."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

PROMPT_TOKENS = 100, 300  # fewest and most, including EOS
POSITIONS = 512  # longest text of a model, in tokens
SPECIALS = ["<pad>", "</s>", "<unk>", "<s>"]


class Shape(NamedTuple):
    """Sizes of a T5 and of the classifier that scores its texts.

    Attributes:
        vocabulary: Number of tokens, including special ones.
        policy: Fields of ``T5Config``.
        classifier: Fields of ``RobertaConfig``.
    """

    vocabulary: int
    policy: dict[str, int]
    classifier: dict[str, int]


def _t5(d_model: int, d_ff: int, layers: int, heads: int, d_kv: int) -> dict[str, int]:
    return {
        "d_model": d_model,
        "d_ff": d_ff,
        "num_layers": layers,
        "num_decoder_layers": layers,
        "num_heads": heads,
        "d_kv": d_kv,
    }


def _roberta(hidden: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


ROBERTA_BASE = _roberta(768, 12, 12)
SHAPES = {
    "tiny": Shape(1000, _t5(64, 128, 2, 4, 16), _roberta(128, 4, 4)),
    "small": Shape(32128, _t5(512, 1024, 8, 6, 64), ROBERTA_BASE),
    "base": Shape(32128, _t5(768, 2048, 12, 12, 64), ROBERTA_BASE),
}


def build(
    folder: Path,
    shape: Shape,
    prompts: int,
    lengths: tuple[int, int] = PROMPT_TOKENS,
    positions: int = POSITIONS,
    make_policy: Callable[[Path, Shape, int], None] | None = None,
) -> None:
    """Writes ``policy/``, ``classifier/`` and ``prompts.jsonl``.

    Args:
        folder: Folder to write into.
        shape: Sizes of the models.
        prompts: Number of prompts.
        lengths: Fewest and most tokens of a prompt, including EOS.
        positions: Longest text of the models, in tokens.
        make_policy: Writes another policy than a T5 into a folder, as :func:`build_policy` does.
    """
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    (make_policy or build_policy)(folder / "policy", shape, positions)
    build_classifier(folder / "classifier", shape, positions)
    draw = random.Random(0)
    with (folder / "prompts.jsonl").open("w") as file:
        for _ in range(prompts):
            dialogue = prompt(draw, shape.vocabulary, lengths)
            row = {"dialogue": dialogue, "summary": word(len(SPECIALS))}
            file.write(json.dumps(row) + "\n")


def word(index: int) -> str:
    """Returns the word of the token ``index``."""
    return f"w{index}"


def prompt(draw: random.Random, vocabulary: int, lengths: tuple[int, int]) -> str:
    """Draws a prompt whose number of tokens, including EOS, lies within ``lengths``."""
    count = draw.randint(*lengths) - 1
    return " ".join(word(draw.randrange(len(SPECIALS), vocabulary)) for _ in range(count))


def build_policy(folder: Path, shape: Shape, positions: int) -> None:
    """Saves a T5 with an untied output head, as in FLAN-T5."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=shape.vocabulary,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
        **shape.policy,
    )
    model = T5ForConditionalGeneration(config)
    # transformers ties the head of a model made from a config, whatever the config says
    size = shape.vocabulary, config.d_model
    model.lm_head.weight = torch.nn.Parameter(torch.randn(size) * config.d_model**-0.5)
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    save_tokenizer(folder, shape.vocabulary, positions, "$A </s>", eos_token="</s>")


def build_classifier(folder: Path, shape: Shape, positions: int) -> None:
    """Saves a random RoBERTa with the labels ``nothate`` and ``hate``."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(
        vocab_size=shape.vocabulary,
        max_position_embeddings=positions + 2,
        type_vocab_size=1,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=3,
        id2label={0: "nothate", 1: "hate"},
        label2id={"nothate": 0, "hate": 1},
        **shape.classifier,
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    form = "<s> $A </s>"
    save_tokenizer(folder, shape.vocabulary, positions, form, bos_token="<s>", eos_token="</s>")


def save_tokenizer(
    folder: Path, vocabulary: int, positions: int, form: str, **specials: str
) -> None:
    """Saves a tokenizer that knows the words ``w4``, ``w5`` and so on.

    Args:
        folder: Folder to write into.
        vocabulary: Number of tokens, including special ones.
        positions: Longest text, in tokens.
        form: Template of a text with its special tokens.
        specials: Names of special tokens.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIALS, *(word(index) for index in range(len(SPECIALS), vocabulary))]
    places = {text: index for index, text in enumerate(words)}
    tokenizer: Any = Tokenizer(models.WordLevel(places, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=form, special_tokens=[("</s>", 1), ("<s>", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
        **specials,
    ).save_pretrained(folder)
    # the peer's transformers knows the class only by this name
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"}))
