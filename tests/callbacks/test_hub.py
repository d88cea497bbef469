"""What is sent to the hub, what is known of it before training, and what it doesn't tell."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from huggingface_hub import HfApi, ModelInfo
from huggingface_hub.errors import RepositoryNotFoundError

from detox_lightning.callbacks.export import ExportCallback
from detox_lightning.callbacks.hub import check_push, upload, without_folders
from detox_lightning.errors import InputError
from detox_lightning.models.lora import LoRA
from detox_lightning.stages.supervised import SupervisedModule
from toys import make_trainer, pairs_loader

ME = {"name": "me", "orgs": [{"name": "ours"}]}
Sent = dict[str, Path]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What folder each repository got, of a hub that knows me; it has public ones: …open."""
    folders: Sent = {}
    made: list[str] = []

    def create_repo(self: HfApi, name: str, **options: Any) -> None:
        assert options == {"private": True, "exist_ok": True}
        made.append(name)

    def upload_folder(self: HfApi, repo_id: str, folder_path: Path) -> None:
        assert repo_id in made
        folders[repo_id] = folder_path

    def repo_info(self: HfApi, name: str) -> ModelInfo:
        if not name.endswith(("open", "open-merged", "closed")):
            raise RepositoryNotFoundError("404", response=Mock())
        return ModelInfo(id=name, private=name.endswith("closed"))

    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    monkeypatch.setattr(HfApi, "whoami", lambda self: ME)
    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return folders


def fit(folder: Path, model: str, lora: LoRA | None, **options: Any) -> ExportCallback:
    options.setdefault("push_to_hub", "me/mild")
    export = ExportCallback(**options)
    trainer = make_trainer(folder, max_epochs=1, callbacks=[export])
    trainer.fit(SupervisedModule(model, lora), pairs_loader())
    return export


def test_what_is_trained_whole_is_sent(
    tiny_t5: str, tmp_path: Path, sent: Sent, recwarn: pytest.WarningsRecorder
) -> None:
    export = fit(tmp_path, tiny_t5, None, merged=True, push_to_hub="mild")  # of one's own
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
        "export.push_to_hub=me/mild: an adapter is useless without its base, which is the folder "
        f"{tiny_t5} of this machine; give export.merged=true, which sends both as one model"
    )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="the folder demo:policy of this machine"):
        check_push("me/mild", "demo:policy", merged=False)


def test_names_and_tokens_are_looked_at_before(
    sent: Sent, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    for name in ("me/mild", "ours/mild", "me/closed"):
        assert check_push(name, "google/flan-t5-base", merged=False) == name
    assert check_push("mild", "google/flan-t5-base", merged=True) == "me/mild"
    assert not recwarn
    long = f"me/{'x' * 90}"  # of 93 characters; 96 may be
    assert check_push(long, "google/flan-t5-base", merged=False) == long
    with pytest.raises(InputError, match=r"can't be sent there \(.*x-merged"):
        check_push(long, "google/flan-t5-base", merged=True)
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


def test_what_all_can_see_gets_nothing(sent: Sent) -> None:
    for base, merged, name in (
        (None, False, "me/open"),
        (None, True, "me/open"),
        ("google/flan-t5-base", True, "me/open"),
        ("demo:policy", True, "me/open-merged"),  # which alone would be sent
    ):
        with pytest.raises(InputError) as caught:
            check_push("open", base, merged)
        assert str(caught.value) == (
            f"export.push_to_hub=open: {name} exists and is public: everyone would see what is "
            "sent. Give another name, or make it private in its settings on the hub"
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
        f"complete; to send it later: hf upload me/mild {tmp_path}"
    )


def test_paths_keep_their_last_part() -> None:
    for text, expected in (
        ("--config /srv/me/a.yaml --data.source=/data/x/", "--config …/a.yaml --data.source=…/"),
        ("| base | /srv/base |", "| base | …/base |"),
        ("'~/mine/it' and \"/a/b\"", "'…/it' and \"…/b\""),
        ("--data '/srv/John Smith/my data/x.csv' a/b", "--data '…/x.csv' a/b"),
        ("'--data=/srv/John Smith/my data/x.csv' a/b", "'--data=…/x.csv' a/b"),
        ("| data | /mnt/J S/a b/x.csv, google/ds |", "| data | …/x.csv, google/ds |"),
        ("['/mnt/J S/x y/a', '/mnt/b c/d']", "['…/a', '…/d']"),
        ("[/srv/me/a.csv,/srv/me/b.csv]", "[…/a.csv,…/b.csv]"),
        ("file:///srv/me/x.csv 'file:///srv/J S/y'", "…/x.csv '…/y'"),
        ("json:/srv/me/x.json", "json:…/x.json"),
        ("~bob/models/x ../../alice/private/x.csv", "…/x …/x.csv"),
        (r"C:\Users\me\x.csv 'D:\J S\y' \\server\share\z", "…/x.csv '…/y' …/z"),
        ("//server/share/x (/srv/me/q.csv)", "…/x (…/q.csv)"),
        ("a /home/alice /Users/bob", "a … …"),  # a home's last part is a name
    ):
        assert without_folders(text) == expected
        assert without_folders(expected) == expected


def test_addresses_and_names_of_the_hub_stay() -> None:
    text = (
        "https://hub.co/a/b google/flan-t5-base 'a/b' runs/a/b 1/2 and/or / s3://it/me/k "
        "'https://hub.co/a/b' https://x.org/a,https://y.org/b the model's blind spots: a/b 'c d/e'"
    )
    assert without_folders(text) == text


def test_places_that_are_known_go_however_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home" / "John Smith", tmp_path / "the work"
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    known = [here / "my models" / "b+1", "google/flan-t5-base", ""]
    for text, expected in (
        (f"says {home}/x and {here}", "says …/x and …/the work"),
        (f"m={known[0]} n=my models/b+1 o=my models/b+10", "m=…/b+1 n=…/b+1 o=my models/b+10"),
        ("of google/flan-t5-base", "of google/flan-t5-base"),
    ):
        assert without_folders(text, known) == expected
