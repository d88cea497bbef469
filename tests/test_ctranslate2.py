"""The script that converts a merged model to CTranslate2, on an encoder-decoder and on a Llama."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from architectures import save_random
from command import ROOT, module_of
from conftest import FEELINGS, NAMES, word_tokenizer
from numerics import float32

pytest.importorskip("ctranslate2")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return module_of(ROOT / "scripts" / "to_ctranslate2.py")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    texts = [f"{name} is {feeling} ." for name in NAMES for feeling in FEELINGS[:3]]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return file


def random_llama(folder: Path) -> str:
    """A random Llama, with the BOS token without which CTranslate2 opens no decoder."""
    save_random("Llama", folder)
    tokenizer = word_tokenizer()
    tokenizer.bos_token = "<unk>"
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder-only"])
def test_texts_and_their_probabilities_stay(
    kind: str,
    script: ModuleType,
    prompts: Path,
    tiny_t5: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tiny_t5 if kind == "encoder-decoder" else random_llama(tmp_path / "llama")
    words = [model, str(tmp_path / "converted"), "--prompts", str(prompts), "--max_new_tokens", "8"]
    monkeypatch.setattr(sys, "argv", ["to_ctranslate2.py", *words])
    script.main()
    same, differ, *_ = capsys.readouterr().out.splitlines()
    number = same.split()[0]
    assert same == f"{number} of {number} greedy texts are the same"
    assert int(number) > 10
    assert float(differ.split()[-1]) < float32(8)


def test_a_folder_that_exists_stays(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(tmp_path), str(tmp_path), "--prompts", "none.jsonl"]
    monkeypatch.setattr(sys, "argv", ["to_ctranslate2.py", *words])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 2
    assert not list(tmp_path.iterdir())
