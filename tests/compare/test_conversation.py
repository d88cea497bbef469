"""What the page of ``compare`` answers: the same as ``predict``, or a line that says why not."""

import json
import re
import signal
from collections.abc import Iterator
from html import unescape
from http.client import HTTPConnection
from pathlib import Path
from threading import get_ident
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from command import DEMO, run
from detox_lightning.compare.conversation import Conversation
from detox_lightning.compare.page_server import PageServer

TYPED = (
    "Mia: Where is my black jacket? Laura: I washed it, and it was too hot. Mia: Nobody likes a "
    "dumb dunce. I am furious. Laura: Okay. I will take it to the cleaner on Sunday."
)
HOSTILE = "Mia: </script><b>I am furious</b> & sorry. Laura: {{ 1 + 1 }}"
FEW = ("--trainer.enable_progress_bar=false", "--data.num_eval_samples=3", "--threads=1")
TRAINED = ("--trainer.max_epochs=1", "--data.num_samples=8", "--model.optimizer.lr=0.03")
HELD = ("--port=0", "--open_browser=false")


def question(text: str, row: int = 0, samples: int = 0, seed: int = 42) -> bytes:
    return json.dumps({"text": text, "row": row, "samples": samples, "seed": seed}).encode()


class Held(NamedTuple):
    page: str
    conversation: Conversation
    replies: dict[str, dict[str, str]]

    def pairs(self, name: str) -> list[tuple[str, ...]]:
        """The texts before and after of each answer to a question."""
        found = [re.sub("</?mark>", "", text) for text in texts_of(self.replies[name]["html"])]
        assert len(found) % 3 == 0  # with the prompt
        return list(zip(found[::3], found[1::3], strict=True))


def texts_of(html: str) -> list[str]:
    texts = re.findall(r'<p class="text" dir="auto">(.*?)</p>', html, re.DOTALL)
    return [unescape(text) for text in texts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the demo has learned from one batch, much too fast."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fitted = run("fit", "--config", DEMO, *FEW, *TRAINED, "--model.ppo_epochs=1")
        assert fitted.code == 0, fitted.err
        yield folder


def hold(questions: dict[str, bytes], *words: str) -> Held:
    """Starts ``compare``, and asks as soon as its page is there."""
    held: dict[str, Any] = {}

    def serve(self: PageServer, page: str, answer: Any) -> None:
        replies = {name: answer(asked) for name, asked in questions.items()}
        held.update(page=page, conversation=answer.__self__, replies=replies)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PageServer, "serve", serve)
        outcome = run("compare", "--ckpt_path=last", *FEW, *HELD, *words)
    assert outcome.code == 0, outcome.err
    return Held(**held)


@pytest.fixture(scope="module")
def held(folder: Path) -> Held:
    rows = predictions("rows")
    text = rows[1]["prompt"].partition("\n\n")[2].removesuffix("\n\nSummary:\n")
    questions = {
        "row": question(text, row=2, samples=1),
        "typed": question(TYPED),
        "typed again": question(TYPED, samples=2),
        "other seed": question(TYPED, samples=2, seed=7),
        "hostile": question(HOSTILE),
        "long": question("Mia is kind. " * 500),
        "empty": question(" \n"),
    }
    return hold(questions)


def predictions(name: str, *words: str) -> list[dict[str, Any]]:
    flags = (f"--predictions.file={name}.jsonl", "--model.evaluation.predict_before=true")
    outcome = run("predict", "--ckpt_path=last", *FEW, *flags, *words)
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in Path(f"{name}.jsonl").read_text("utf8").splitlines()]


def test_a_row_is_answered_as_by_predict(held: Held) -> None:
    greedy = json.loads(Path("rows.jsonl").read_text("utf8").splitlines()[1])
    sampled = predictions("sampled", "--model.evaluation.greedy=false")[1]
    expected = [(row["before"], row["after"]) for row in (greedy, sampled)]
    assert held.pairs("row") == expected
    assert greedy["before"] != greedy["after"]
    html = held.replies["row"]["html"]
    assert f"Reference: {greedy['reference']}" in unescape(html)
    for value in (greedy["toxicity_before"], greedy["score_after"]):
        assert f">{value:.3f}<".replace("-", "−") in html
    assert re.findall(r"sample 1 of seed 42, KL −?\d+\.\d+ nats", html) == re.findall(
        r"sample.*?nats", html
    )


def test_a_typed_text_is_answered_as_by_predict(held: Held) -> None:
    Path("typed.txt").write_text(TYPED, encoding="utf8")
    (row,) = predictions("typed", "--data.predict_source=typed.txt")
    assert held.pairs("typed") == [(row["before"], row["after"])]
    assert "Reference" not in held.replies["typed"]["html"]


def test_samples_are_a_function_of_the_seed(held: Held) -> None:
    first, other = held.pairs("typed again"), held.pairs("other seed")
    assert first[0] == other[0] == held.pairs("typed")[0]  # greedy
    assert len(first) == len(other) == 3
    assert first[1] != first[2]
    assert first[1:] != other[1:]


def test_words_that_the_classifier_minds_are_marked(held: Held) -> None:
    before = texts_of(held.replies["typed"]["html"])[0]
    assert re.findall("<mark>(.*?)</mark>", before) == ["dumb dunce"]


def test_all_texts_are_escaped(held: Held) -> None:
    html = held.replies["hostile"]["html"]
    assert "&lt;/script&gt;&lt;b&gt;I am furious&lt;/b&gt; &amp; sorry. Laura: {{ 1 + 1 }}" in html
    assert "<b>I" not in html


def test_a_text_of_blanks_is_refused(held: Held) -> None:
    assert held.replies["empty"] == {"error": "there is no text to answer; give a dialogue"}


def test_a_text_that_is_cut_says_so(held: Held) -> None:
    said = "The dialogue was too long and was cut: a prompt may have\n256 tokens."
    assert said in held.replies["long"]["html"]
    assert "was cut" not in held.replies["typed"]["html"]


def test_the_page_has_the_rows_and_its_own_script_alone(held: Held) -> None:
    assert held.page.count("<option value=") == 4
    (texts,) = re.findall(r'<script id="texts" type="application/json">(.*?)</script>', held.page)
    assert len(json.loads(texts)) == 3
    assert re.findall(r'<script nonce="[\w-]{40,}">', held.page)
    assert held.page.count("<script") == 2
    assert "http://" not in held.page
    assert "https://" not in held.page


def test_rows_of_a_file_are_escaped_too(folder: Path) -> None:
    Path("hostile.txt").write_text(HOSTILE, encoding="utf8")
    chosen = ("--model.evaluation.samples=2", "--model.evaluation.best_of=2")  # of predict only
    held = hold({"row": question(HOSTILE, row=1)}, "--data.predict_source=hostile.txt", *chosen)
    (texts,) = re.findall(r'<script id="texts" type="application/json">(.*?)</script>', held.page)
    assert json.loads(texts) == [HOSTILE]
    assert "1. Mia: &lt;/script&gt;&lt;b&gt;" in held.page
    assert "html" in held.replies["row"]


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (MemoryError(), "out of memory: shorten the text, or ask for fewer samples"),
        (
            RuntimeError("CUDA out of memory. Tried to allocate"),
            "out of memory: shorten the text, or ask for fewer samples",
        ),
        (KeyError("weights"), "KeyError: the terminal shows where it comes from"),
    ],
)
def test_a_failure_is_told_and_the_next_question_answered(
    held: Held, failure: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise failure

    judge = held.conversation.stage.evaluator.judge
    with monkeypatch.context() as patch:
        patch.setattr(judge, "figures", fail)
        assert held.conversation.reply(question(TYPED)) == {"error": said}
    assert held.conversation.reply(question(TYPED)) == held.replies["typed"]


def test_the_whole_command_until_ctrl_c(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser opens the page, sends a question with the page's token, and Ctrl-C ends it all."""
    heard: list[tuple[int, str]] = []
    main = get_ident()

    def browse(url: str) -> None:
        address = urlsplit(url)
        try:
            for verb, path in (("GET", "/"), ("POST", "/answers")):
                connection = HTTPConnection(str(address.hostname), address.port, timeout=60)
                token = re.findall(r'nonce="(.*?)"', heard[0][1])[0] if heard else ""
                headers = {"X-Token": token, "Content-Type": "application/json"}
                connection.request(verb, path, question(TYPED) if heard else None, headers)
                response = connection.getresponse()
                heard.append((response.status, response.read().decode("utf8")))
        finally:
            signal.pthread_kill(main, signal.SIGINT)

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("webbrowser.open", browse)
    # a shell has processes in the background ignore Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    outcome = run("compare", "--ckpt_path=last", *FEW, "--port=0")
    signal.signal(signal.SIGINT, before)
    assert outcome.code == 0, outcome.err
    assert [status for status, _ in heard] == [200, 200]
    assert "dumb dunce" in texts_of(json.loads(heard[1][1])["html"])[0]
    assert re.search(r"The page is at http://127\.0\.0\.1:\d+/ – Ctrl-C ends it", outcome.err)
    assert "Traceback" not in outcome.err


def test_without_a_desktop_no_browser_is_looked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(PageServer, "serve", lambda *_: None)
    monkeypatch.setattr("webbrowser.open", pytest.fail)
    with pytest.warns(UserWarning, match=r"everybody who can reach this machine can use http://0"):
        outcome = run("compare", "--ckpt_path=last", *FEW, "--port=0", "--host=0.0.0.0")
    assert outcome.code == 0, outcome.err


def test_what_has_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    outcome = run("compare", "--config", "configs/demo/supervised.yaml", *HELD)
    assert (outcome.code, outcome.errors) == (
        2,
        ["error: compare: SupervisedModule has no reference; give a PPO run"],
    )


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp_spawn")
    outcome = run("compare", "--config", DEMO, *words, *HELD)
    assert (outcome.code, outcome.errors) == (
        2,
        [
            "error: compare: one process answers, not 2; give --trainer.devices=1 "
            "--trainer.num_nodes=1 --trainer.strategy=auto"
        ],
    )
