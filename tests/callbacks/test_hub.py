"""What is sent to the hub, what is known of it before training, and what it doesn't tell."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from detox_lightning.callbacks.export import ExportCallback
from detox_lightning.callbacks.hub import check_push, upload, without_folders
from detox_lightning.errors import InputError
from detox_lightning.models.lora import LoRA
from detox_lightning.modules.supervised import SupervisedModule
from toys import make_trainer, pairs_loader

ME = {"name": "me", "orgs": [{"name": "ours"}]}
Sent = dict[str, Path]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What folder each repository got, of a hub that knows me; all are private."""
    folders: Sent = {}
    made: list[str] = []

    def create_repo(self: HfApi, name: str, **options: Any) -> None:
        assert options == {"private": True, "exist_ok": True}
        made.append(name)

    def upload_folder(self: HfApi, repo_id: str, folder_path: Path) -> None:
        assert repo_id in made
        folders[repo_id] = folder_path

    monkeypatch.setattr(HfApi, "whoami", lambda self: ME)
    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return folders


def fit(folder: Path, model: str, lora: LoRA | None, **options: Any) -> ExportCallback:
    export = ExportCallback(push_to_hub="me/mild", **options)
    trainer = make_trainer(folder, max_epochs=1, callbacks=[export])
    trainer.fit(SupervisedModule(model, lora), pairs_loader())
    return export


def test_what_is_trained_whole_is_sent(
    tiny_t5: str, tmp_path: Path, sent: Sent, recwarn: pytest.WarningsRecorder
) -> None:
    export = fit(tmp_path, tiny_t5, None, merged=True)
    assert sent == {"me/mild": export.written}
    nothing = "export.merged: nothing is merged, as the model is trained whole"
    assert [str(w.message) for w in recwarn if "export" in str(w.message)] == [nothing]


def test_an_adapter_on_a_folder_of_this_machine_goes_merged(
    tiny_t5: str, tmp_path: Path, sent: Sent
) -> None:
    export = fit(tmp_path, tiny_t5, LoRA(r=2), merged=True)
    (folder,) = sent.values()
    assert sent == {"me/mild-merged": export.written.with_name("merged")}
    card = (folder / "README.md").read_text(encoding="utf8")
    assert f"Trained with detox_lightning on `…/{Path(tiny_t5).name}`" in card
    for file in folder.iterdir():  # nothing tells where this machine keeps its files
        for secret in (Path(tiny_t5).parent, tmp_path):
            assert str(secret).encode() not in file.read_bytes(), file


def test_an_adapter_on_the_hubs_base_is_sent_with_what_it_becomes(
    tiny_t5: str, tmp_path: Path, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("export", "hub"):
        monkeypatch.setattr(f"detox_lightning.callbacks.{name}.is_local", lambda name: False)
    export = fit(tmp_path, tiny_t5, LoRA(r=2), merged=True)
    merged = export.written.with_name("merged")
    assert sent == {"me/mild": export.written, "me/mild-merged": merged}


def test_what_would_be_of_no_use_is_refused_before_training(
    tiny_t5: str, tmp_path: Path, sent: Sent
) -> None:
    with pytest.raises(InputError) as caught:
        fit(tmp_path, tiny_t5, LoRA(r=2))
    assert str(caught.value) == (
        "export.push_to_hub=me/mild: an adapter is nothing without its base, which is the folder "
        f"{tiny_t5} of this machine; give export.merged=true, which sends both as one model"
    )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="the folder demo:policy of this machine"):
        check_push("me/mild", "demo:policy", merged=False)


def test_names_and_tokens_are_looked_at_before(
    sent: Sent, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    for name in ("me/mild", "ours/mild", "mild"):
        check_push(name, "google/flan-t5-base", merged=False)
    assert not recwarn
    with pytest.warns(UserWarning, match="the hub knows you as me, ours; it may refuse mild under"):
        check_push("theirs/mild", None, merged=False)
    with pytest.raises(InputError, match=r"export.push_to_hub=a/b/c: can't be sent there \("):
        check_push("a/b/c", None, merged=False)

    def unknown(self: HfApi) -> None:
        raise OSError("401 Unauthorized\nand more")

    monkeypatch.setattr(HfApi, "whoami", unknown)
    with pytest.raises(InputError) as caught:
        check_push("me/mild", None, merged=False)
    assert str(caught.value) == (
        "export.push_to_hub=me/mild: can't be sent there (401 Unauthorized). Name user/name and "
        "log in with `hf auth login`, or leave it null and send the folder later: hf upload"
    )


def test_a_refusal_afterwards_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: HfApi, *args: Any, **options: Any) -> None:
        raise OSError("401 Unauthorized")

    monkeypatch.setattr(HfApi, "create_repo", refused)
    with pytest.raises(InputError) as caught:
        upload(tmp_path, "me/mild")
    assert str(caught.value) == (
        f"export.push_to_hub=me/mild: not uploaded (401 Unauthorized). The folder {tmp_path} is "
        f"whole; later: hf upload me/mild {tmp_path}"
    )


def test_paths_keep_their_last_part() -> None:
    for text, expected in (
        ("--config /home/me/a.yaml --data.source=/data/x/", "--config …/a.yaml --data.source=…/"),
        ("| base | /tmp/base |", "| base | …/base |"),
        ("'~/mine/it' and \"/a/b\"", "'…/it' and \"…/b\""),
        ("https://hub.co/a/b google/flan-t5 runs/a/b 1/2", None),
    ):
        assert without_folders(text) == (expected or text)
