"""Tiny random models with a small tokenizer, as folders that ``from_pretrained`` opens.

Functions import what takes long, as the process that only hands out the tests reads this, too.
"""

import gc
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

if TYPE_CHECKING:
    from transformers import BertConfig, PreTrainedTokenizerFast, T5ForConditionalGeneration

LINES = """\
Ann Bob Eve Dan Kim Lee Max Zoe
angry calm glad sad tired keen shy proud
moron fool idiot stupid lazy rude nice kind good bad late early lunch party dog car
Summarize the following conversation Summary says is to and a you are not . , : ! ?"""
NAMES, FEELINGS, *_ = (line.split() for line in LINES.splitlines())
SPECIAL = ["<pad>", "</s>", "<unk>"]


def word_tokenizer() -> "PreTrainedTokenizerFast":
    """200 words; pad 0, EOS 1, unknown 2; appends EOS, as T5's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = list(dict.fromkeys([*SPECIAL, *LINES.split()]))
    words += [f"w{index}" for index in range(200 - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )


def tiny_t5_model(d_model: int = 32, seed: int = 0) -> "T5ForConditionalGeneration":
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=200,
        d_model=d_model,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    model = T5ForConditionalGeneration(config)
    # transformers ties the head of a model made from a config, whatever the config says.
    model.lm_head.weight = torch.nn.Parameter(torch.randn(200, d_model) * d_model**-0.5)
    model.config.tie_word_embeddings = False
    return model.eval()


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random T5 of 2 + 2 layers of 32 and its tokenizer of 200 words."""
    folder = tmp_path_factory.mktemp("tiny_t5")
    tiny_t5_model().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def smaller_t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with another random T5, of 2 + 2 layers of 16, and the same tokenizer."""
    folder = tmp_path_factory.mktemp("smaller_t5")
    tiny_t5_model(d_model=16, seed=1).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return str(folder)


def tiny_bert_config(**options: object) -> "BertConfig":
    from transformers import BertConfig

    return BertConfig(
        vocab_size=200,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
        **options,
    )


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random BERT of 2 layers of 32 without a head, and the same tokenizer."""
    import torch
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("tiny_encoder")
    torch.manual_seed(0)
    BertModel(tiny_bert_config()).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return str(folder)


def save_classifier(folder: Path, labels: list[str]) -> str:
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    config = tiny_bert_config(
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)}
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random BERT classifier of ``nothate`` and ``hate``, and its tokenizer."""
    return save_classifier(tmp_path_factory.mktemp("tiny_classifier"), ["nothate", "hate"])


@pytest.fixture(scope="session")
def shared() -> Path:
    """Data too large for the repository; tests that want it skip where it isn't."""
    beside = Path(__file__).resolve().parents[1].parent / "shared"
    return Path(os.environ.get("DETOX_SHARED", beside))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of whole runs come first: at the end no process waits long for another.

    Also marks the cases of a test beyond its ``quick`` ones as slow.
    """
    items.sort(key=lambda item: len(item.path.parts))
    marked = (
        item
        for item in items
        if item.get_closest_marker("quick") and not item.get_closest_marker("slow")
    )
    for _, group in groupby(marked, lambda item: item.nodeid.partition("[")[0]):
        cases = list(group)
        (count,) = cases[0].get_closest_marker("quick").args
        quick = {len(cases) * number // count for number in range(count)}
        for number, case in enumerate(cases):
            if number not in quick:
                case.add_marker(pytest.mark.slow)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Python need not look for garbage in what was imported, again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def steady() -> None:
    """What depends on the machine and the moment no longer does."""
    import torch
    from tensorboard.summary.writer import event_file_writer

    # tiny models are faster so, and other programs on the machine don't hold them up
    torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))
    # TensorBoard reads a folder's files in the order of their names, which end with the second and
    # a count of the process: with equally many digits, files of one second stay in order, too
    event_file_writer._global_uid = event_file_writer.AtomicCounter(1_000_000)


@pytest.fixture(scope="session", autouse=True)
def datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this session's own, as sessions and their processes run beside each other."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    os.environ["HF_DATASETS_CACHE"] = str(datasets.config.HF_DATASETS_CACHE)
    return datasets.config.HF_DATASETS_CACHE


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As ``trainer.deterministic`` sets it, which Lightning leaves behind."""
    import torch

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def threads_stay(steady: None) -> Iterator[None]:
    """Other libraries, such as CTranslate2, set the number of torch's threads for good."""
    import torch

    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_place_left() -> Iterator[None]:
    """Lightning notes a process's place in the environment: later processes would inherit it."""
    yield
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
