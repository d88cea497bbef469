"""Ways to spoil models, adapters and tokenizers."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from bad_input.cases import Place
from conftest import tiny_t5_model, word_tokenizer


def other(place: Place, source: str | None = None) -> Path:
    """A copy of a model, to spoil."""
    folder = place.folder / "other"
    shutil.copytree(source or place.policy, folder)
    return folder


def configured(place: Place, source: str | None = None, **options: object) -> None:
    """A copy whose config says something else."""
    file = other(place, source) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **options}))


def without(place: Place, *patterns: str) -> None:
    folder = other(place)
    for pattern in patterns:
        for file in folder.glob(pattern):
            file.unlink()


def torn(place: Place, source: str | None = None) -> None:
    file = other(place, source) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def pickled(place: Place) -> None:
    folder = other(place)
    tensors = load_file(folder / "model.safetensors")
    torch.save({**tensors, "place": Path()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def prefixed(place: Place, prefix: str) -> None:
    file = other(place) / "model.safetensors"
    save_file({prefix + name: tensor for name, tensor in load_file(file).items()}, file)


def adapter(place: Place, base: object, rank: int = 4, width: int = 32, **more: object) -> None:
    folder = place.folder / "adapter"
    folder.mkdir()
    facts = {"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "r": rank, "lora_alpha": 4}
    facts |= {"target_modules": ["q", "v"], "base_model_name_or_path": base, **more}
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    name = "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_{}.weight"
    tensors = {name.format("A"): torch.zeros(rank, width), name.format("B"): torch.zeros(32, rank)}
    save_file(tensors, folder / "adapter_model.safetensors")


def on_another(place: Place) -> None:
    adapter(place, place.policy)
    shutil.move(place.folder / "adapter", place.folder / "first")
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(place.policy, file), place.folder / "first")
    adapter(place, str(place.folder / "first"))


def of_gpt2(place: Place) -> None:
    folder = place.folder / "gpt2"
    config = GPT2Config(
        vocab_size=200, n_embd=16, n_layer=1, n_head=2, eos_token_id=1, pad_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    adapter(place, str(folder))


def small_embedding(place: Place) -> None:
    folder = other(place)
    model = tiny_t5_model()
    model.resize_token_embeddings(100)
    model.save_pretrained(folder)


def mute_tokenizer(place: Place, *names: str) -> None:
    folder = other(place)
    file = folder / "tokenizer_config.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in facts.items() if k not in names}))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)


def mamba(place: Place) -> None:
    config = MambaConfig(vocab_size=200, hidden_size=16, num_hidden_layers=1, state_size=4)
    config.architectures = ["MambaForCausalLM"]
    MambaForCausalLM(config).save_pretrained(place.folder / "other")
    word_tokenizer().save_pretrained(place.folder / "other")


def coded(place: Place) -> None:
    configured(
        place,
        model_type="mine",
        auto_map={
            "AutoConfig": "mine.MineConfig",
            "AutoModelForSeq2SeqLM": "mine.Mine",
        },
    )
    (place.folder / "other" / "mine.py").write_text("raise SystemError('ran')\n")
