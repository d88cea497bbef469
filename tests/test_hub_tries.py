"""A hub that can't be reached is asked twice, and then left alone; one that is slow, as ever."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils import _http

from command import run, tiny_recipe
from detox_lightning.cli.process import few_tries

Client = _http.get_session().__class__
http: Any = sys.modules[Client.__module__.partition(".")[0]]  # httpx or its successor
CONTENT = b"{}"
HEADERS = {"x-repo-commit": "0" * 40, "etag": "1" * 40, "content-length": str(len(CONTENT))}
CACHE_ALONE = "HF_HUB_OFFLINE=1 reads the cache alone, without waiting for the hub"


class Hub:
    """Answers requests for files, except those whose number is given; notes what is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.silent: Callable[[int], bool] = lambda number: True
        self.timeouts: set[float] = set()
        self.slept: list[float] = []

    def respond(self, request: Any) -> Any:
        self.timeouts.add(request.extensions["timeout"]["connect"])
        if request.method == "HEAD":
            self.asked.append(request.url.path)
        if self.silent(len(self.asked)):
            raise http.ConnectTimeout("timed out", request=request)
        return http.Response(200, headers=HEADERS, content=CONTENT)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub, former = Hub(), _http._GLOBAL_CLIENT_FACTORY
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=hub.slept.append))
    _http.set_client_factory(lambda: Client(transport=http.MockTransport(hub.respond)))
    yield hub
    _http.set_client_factory(former)


@pytest.mark.parametrize(
    ("flag", "file", "message"),
    [
        (
            "--model.policy=some/model",
            "/some/model/resolve/main/adapter_config.json",
            "can't open the config of 'some/model': there is no such folder here, nor a copy in "
            "the cache, and the hub can't be reached. Where it can be: hf download some/model "
            f"--local-dir FOLDER; then give that folder here. {CACHE_ALONE}",
        ),
        (
            "--data.source=some/texts",
            "/datasets/some/texts/resolve/main/README.md",
            "some/texts: there is no such file or folder here, and the hub can't be reached "
            "(Couldn't reach 'some/texts' on the Hub (LocalEntryNotFoundError)); download it "
            "elsewhere and give the local folder with train.jsonl, validation.jsonl, … instead. "
            f"{CACHE_ALONE}",
        ),
    ],
)
def test_a_hub_out_of_reach_is_asked_twice(
    flag: str,
    file: str,
    message: str,
    hub: Hub,
    tmp_path: Path,
    tiny_t5: str,
    tiny_classifier: str,
    recwarn: pytest.WarningsRecorder,
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_t5, tiny_classifier)
    factory = _http._GLOBAL_CLIENT_FACTORY
    outcome = run("fit", "--config", recipe, flag)
    assert (outcome.errors, outcome.code) == ([f"error: {message}"], 2)
    assert hub.asked == [file] * 2
    assert hub.slept == [1]
    assert hub.timeouts == {5}
    said = [str(one.message) for one in recwarn]
    assert said.count("the hub can't be reached: from here on, only its cache is read") == 1
    assert not constants.HF_HUB_OFFLINE
    assert _http._GLOBAL_CLIENT_FACTORY is factory


def test_a_slow_hub_may_answer_at_the_second_try(hub: Hub, tmp_path: Path) -> None:
    """Once it has, each file may take as many tries as ``huggingface_hub`` gives it."""
    hub.silent = lambda number: number in (1, 3, 4, 5)
    with few_tries():
        for name in ("config.json", "other.json"):
            assert Path(hf_hub_download("some/model", name)).read_bytes() == CONTENT
    assert [Path(path).name for path in hub.asked] == ["config.json"] * 2 + ["other.json"] * 4
