"""Pickled weights: tensors alone are opened, from folders and from the hub, and told of once."""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import modeling_utils

from conftest import FEELINGS
from detox_lightning.errors import InputError
from detox_lightning.models import model_files
from detox_lightning.models.classifier import TextClassifier
from detox_lightning.models.loading import load_model
from detox_lightning.models.lora import LoRA, add_lora, load_adapter
from detox_lightning.models.saving import save_model
from detox_lightning.models.source import ModelSource

SEQ2SEQ, CLASSIFIER = "AutoModelForSeq2SeqLM", "AutoModelForSequenceClassification"
HUB_ID, COMMIT = "somebody/it", "0" * 40
TEXTS = [f"{feeling} and late" for feeling in FEELINGS[:3]]


def pickle_weights(folder: Path, shards: int = 1, zipped: bool = True) -> Path:
    """Turns a folder's safetensors into what torch.save writes."""
    (safe,) = folder.glob("*model.safetensors")
    tensors = list(load_file(safe).items())
    safe.unlink()
    name = (
        safe.name.replace("model.", "pytorch_model.") if "adapter" not in safe.name else safe.name
    )
    names = [name.replace(".safetensors", ".bin")]
    if shards > 1:
        names = [f"pytorch_model-{i + 1:05}-of-{shards:05}.bin" for i in range(shards)]
        places = {key: names[i % shards] for i, (key, _) in enumerate(tensors)}
        index = {"metadata": {"total_size": 1}, "weight_map": places}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for i, one in enumerate(names):
        part = dict(tensors[i::shards])
        torch.save(part, folder / one, _use_new_zipfile_serialization=zipped)
    return folder


def copy(source: str, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    model_files.warn_once.cache_clear()


@pytest.fixture
def adapter(tiny_t5: str, tmp_path: Path) -> Path:
    """A folder of an adapter that changes its base."""
    torch.manual_seed(0)
    options = {"init_lora_weights": "gaussian"}
    model = add_lora(load_model(SEQ2SEQ, tiny_t5), LoRA(r=2, options=options), "SEQ_2_SEQ_LM")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    save_model(model, transformers.AutoTokenizer.from_pretrained(tiny_t5), tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """Puts a folder where the cache keeps what came from the hub, and says what it is called.

    Transformers believes to be online, and fails the test where it would convert weights.
    """
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def convert(*_: object, **__: object) -> None:
        raise AssertionError("asked the hub to convert")

    monkeypatch.delenv("DISABLE_SAFETENSORS_CONVERSION", raising=False)
    monkeypatch.setattr(modeling_utils, "is_offline_mode", lambda: False)
    monkeypatch.setattr(modeling_utils, "has_file", lambda *_, **__: False)
    monkeypatch.setattr(modeling_utils, "auto_conversion", convert)
    monkeypatch.setattr(modeling_utils, "Thread", convert)

    def put(folder: Path) -> str:
        place = cache / f"models--{HUB_ID.replace('/', '--')}"
        shutil.copytree(folder, place / "snapshots" / COMMIT)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(COMMIT)
        return HUB_ID

    return put


def local(folder: Path) -> str:
    return str(folder)


@pytest.fixture(params=["local", "hub"])
def named(request: pytest.FixtureRequest, hub: Callable[[Path], str]) -> Callable[[Path], str]:
    """How a folder is named: by its path, or as what the hub has."""
    return local if request.param == "local" else hub


@pytest.mark.parametrize("shards", [1, 2])
def test_a_pickled_policy_is_the_same(
    shards: int, tiny_t5: str, tmp_path: Path, named: Callable[[Path], str]
) -> None:
    name = named(pickle_weights(copy(tiny_t5, tmp_path / "it"), shards))
    assert ModelSource.resolve(name).base == name
    with pytest.warns(UserWarning, match=f"^{name}: its weights are pickled"):
        model = load_model(SEQ2SEQ, name)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*pickled")
        load_model(SEQ2SEQ, name)  # it is told once
    expected = load_model(SEQ2SEQ, tiny_t5).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*its weights are pickled")
def test_a_pickled_classifier_is_the_same(
    tiny_classifier: str, tmp_path: Path, named: Callable[[Path], str]
) -> None:
    pickled = TextClassifier(named(pickle_weights(copy(tiny_classifier, tmp_path / "it"))))
    expected = TextClassifier(tiny_classifier)
    pickled.load()
    expected.load()
    assert torch.equal(pickled(TEXTS), expected(TEXTS))


@pytest.mark.filterwarnings("ignore:.*its weights are pickled")
def test_a_judge_is_known_by_its_revision_and_its_weights(
    tiny_classifier: str, tmp_path: Path, hub: Callable[[Path], str]
) -> None:
    def identity(name: str) -> str:
        classifier = TextClassifier(name)
        classifier.load()
        return classifier.model.identity

    def hashed(*files: Path) -> str:
        return f"weights {sha256(b''.join(map(Path.read_bytes, files))).hexdigest()[:16]}"

    (safe,) = Path(tiny_classifier).glob("*.safetensors")
    assert identity(tiny_classifier) == hashed(safe)
    parts = pickle_weights(copy(tiny_classifier, tmp_path / "it"), shards=2)
    expected = hashed(*sorted(parts.glob("*.bin")))
    assert identity(str(parts)) == expected
    assert identity(hub(parts)) == f"revision {COMMIT[:12]}, {expected}"
    first, second = sorted(parts.glob("*.bin"))
    second.write_bytes(first.read_bytes())  # a file that was changed is read again
    assert model_files.weights_hash([first, second]) == hashed(first, first).split()[1]


@pytest.mark.filterwarnings("ignore:.*its weights are pickled")
def test_a_pickled_adapter_is_the_same(
    tiny_t5: str, adapter: Path, tmp_path: Path, named: Callable[[Path], str]
) -> None:
    expected = load_adapter(load_model(SEQ2SEQ, tiny_t5), str(adapter)).state_dict()
    name = named(pickle_weights(copy(str(adapter), tmp_path / "it")))
    assert ModelSource.resolve(name).base == tiny_t5
    found = load_adapter(load_model(SEQ2SEQ, tiny_t5), name).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


class Bomb:
    """What makes a folder when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


PICKLED = "its weights are pickled ({file}), and they are damaged, or not tensors alone, which "
PICKLED += "could run code when opened. Copy or download them again, or write them as safetensors: "
PICKLED += "from_pretrained, then save_pretrained, of transformers does"
NO_TENSORS = "{file} doesn't hold tensors by name and nothing else. Save a model's state_dict "
NO_TENSORS += "there, or, with save_pretrained, safetensors"
TRAINED = "{file} is a checkpoint of a training, with its weights under 'state_dict'. Put these "
TRAINED += "into a model of transformers (load_state_dict), and save_pretrained writes it"

# what somebody saved under the name of the weights, given the weights and a folder
WRONG: dict[str, tuple[Callable[[dict[str, torch.Tensor], Path], object], str]] = {
    "a payload": (lambda tensors, place: {**tensors, "x": Bomb(place / "ran")}, PICKLED),
    "a payload alone": (lambda _, place: Bomb(place / "ran"), PICKLED),
    "a module": (lambda *_: torch.nn.Linear(2, 2), PICKLED),
    "a checkpoint": (lambda tensors, _: {"epoch": 1, "state_dict": tensors}, TRAINED),
    "a list": (lambda tensors, _: list(tensors.values()), NO_TENSORS),
    "a number among them": (lambda tensors, _: {**tensors, "step": 3}, NO_TENSORS),
    "a dict in a dict": (lambda tensors, _: {"model": tensors}, NO_TENSORS),
    "nothing": (lambda *_: {}, NO_TENSORS),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zipped", "old"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_not_tensors_alone_is_refused(
    wrong: str, zipped: bool, tiny_classifier: str, tmp_path: Path
) -> None:
    folder = pickle_weights(copy(tiny_classifier, tmp_path / "it"))
    file = folder / "pytorch_model.bin"
    make, said = WRONG[wrong]
    content = make(torch.load(file), tmp_path)
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError) as raised:
        TextClassifier(str(folder)).load()
    expected = said.format(file="pytorch_model.bin")
    assert str(raised.value) == f"can't open the model '{folder}': {expected}"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shards", [1, 2])
def test_a_payload_in_a_shard_of_the_hub_does_not_run(
    shards: int, tiny_classifier: str, tmp_path: Path, hub: Callable[[Path], str]
) -> None:
    folder = pickle_weights(copy(tiny_classifier, tmp_path / "it"), shards)
    file = sorted(folder.glob("*.bin"))[-1]
    torch.save(Bomb(tmp_path / "ran"), file)
    with pytest.raises(InputError) as raised:
        load_model(CLASSIFIER, hub(folder))
    expected = PICKLED.format(file=file.name)
    assert str(raised.value) == f"can't open the model '{HUB_ID}': {expected}"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("wrong", ["a payload", "a checkpoint", "nothing"])
def test_an_adapters_pickle_is_looked_at_likewise(
    wrong: str, tiny_t5: str, adapter: Path, tmp_path: Path
) -> None:
    file = pickle_weights(adapter) / "adapter_model.bin"
    make, said = WRONG[wrong]
    torch.save(make(torch.load(file), tmp_path), file)
    with pytest.raises(InputError) as raised:
        load_adapter(load_model(SEQ2SEQ, tiny_t5), str(adapter))
    expected = said.format(file="adapter_model.bin")
    assert str(raised.value) == f"can't open the adapter '{adapter}': {expected}"
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:.*its weights are pickled")
@pytest.mark.parametrize("zipped", [True, False], ids=["zipped", "old"])
def test_old_and_damaged_pickles(zipped: bool, tiny_classifier: str, tmp_path: Path) -> None:
    folder = pickle_weights(copy(tiny_classifier, tmp_path / "it"), zipped=zipped)
    load_model(CLASSIFIER, str(folder))
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(InputError, match=f"^can't open the model '{folder}': .* damaged"):
        load_model(CLASSIFIER, str(folder))


@pytest.mark.filterwarnings("ignore:.*its weights are pickled")
def test_a_damaged_pickle_is_named(tiny_classifier: str, tmp_path: Path) -> None:
    """Damaged where a zip file says what it holds, which fails in many ways."""
    folder = pickle_weights(copy(tiny_classifier, tmp_path / "it"))
    file = folder / "pytorch_model.bin"
    whole = file.read_bytes()
    for place in (*range(-2000, -100, 300), *range(-43, -20, 3)):
        file.write_bytes(whole[:place] + b"\xff\xff\xff" + whole[place + 3 :])
        try:
            load_model(CLASSIFIER, str(folder))
        except InputError as error:
            said = str(error).removeprefix(f"can't open the model '{folder}': ")
            assert said.startswith(("its weights are damaged (", "its weights are pickled ("))


def test_safetensors_are_preferred(tiny_classifier: str, adapter: Path, tmp_path: Path) -> None:
    folder = copy(tiny_classifier, tmp_path / "it")
    torch.save(Bomb(tmp_path / "ran"), folder / "pytorch_model.bin")
    load_model(CLASSIFIER, str(folder))
    torch.save(Bomb(tmp_path / "ran"), adapter / "adapter_model.bin")
    load_adapter(load_model(SEQ2SEQ, ModelSource.resolve(str(adapter)).base), str(adapter))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"a": "../secret.bin"}, "names '../secret.bin', which is no file beside it"),
        ({"a": "gone.bin"}, "names gone.bin, which doesn't exist; copy or download it"),
        (None, "doesn't say which file holds which weights (weight_map)"),
        (["a"], "doesn't say which file holds which weights (weight_map)"),
        ({"a": 3}, "doesn't say which file holds which weights (weight_map)"),
    ],
)
@pytest.mark.parametrize("kind", ["pytorch_model.bin", "model.safetensors"])
def test_an_index_names_files_beside_it(
    kind: str, places: object, said: str, tiny_classifier: str, tmp_path: Path
) -> None:
    folder = copy(tiny_classifier, tmp_path / "it")
    (folder / "model.safetensors").unlink()
    torch.save({}, tmp_path / "secret.bin")
    (folder / f"{kind}.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(InputError) as raised:
        load_model(CLASSIFIER, str(folder))
    assert str(raised.value) == f"can't open the model '{folder}': {kind}.index.json {said}"


@pytest.mark.parametrize(
    ("file", "whose"),
    [
        ("tf_model.h5", "TensorFlow's"),
        ("flax_model.msgpack", "Flax's"),
        ("model.onnx", "ONNX's"),
        ("it-q4.gguf", "llama.cpp's"),
        ("it.pth", "PyTorch's, under a name that transformers doesn't open"),
    ],
)
def test_weights_of_other_libraries_are_named(
    file: str, whose: str, tiny_classifier: str, tmp_path: Path
) -> None:
    folder = copy(tiny_classifier, tmp_path / "it")
    (folder / "model.safetensors").rename(folder / file)
    with pytest.raises(InputError) as raised:
        load_model(CLASSIFIER, str(folder))
    assert str(raised.value) == (
        f"can't open the model '{folder}': its weights are {whose} ({file}). Give the model in "
        "PyTorch's format, with model.safetensors: save_pretrained of transformers writes it"
    )
