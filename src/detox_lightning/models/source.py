"""Where a policy begins: a base model, an adapter on it, or a checkpoint of an earlier stage."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from detox_lightning.demo import locate
from detox_lightning.errors import InputError
from detox_lightning.models.adapter_config import check_adapter_kind
from detox_lightning.models.bases import adapter_base
from detox_lightning.models.loading import Weights, load_model
from detox_lightning.models.lora import LoRA, add_lora, load_adapter
from detox_lightning.models.opening import open_by_name
from detox_lightning.models.precision import refuse_whole
from detox_lightning.models.weight_files import find_file
from detox_lightning.protocols import CHECKPOINT_KEY

EMBEDDINGS = "brings_embeddings"
PREFIXES = {"supervised": "model.", "ppo": "policy.model."}
VALUE_HEAD, ITS_PREFIX = "value_head.safetensors", "policy.value_head."


class Start(NamedTuple):
    """Where a policy begins.

    Attributes:
        base: Name of the base model, whose tokenizer is used.
        adapter: Name of the adapter that is trained on; None: a fresh one.
        checkpoint: File of this package that holds the adapter; None: it is not from one.
        base_revision: Branch, tag or commit of the base.
        adapter_revision: Of the adapter.
    """

    base: str
    adapter: str | None = None
    checkpoint: str | None = None
    base_revision: str | None = None
    adapter_revision: str | None = None

    @property
    def has_adapter(self) -> bool:
        """Whether there is an adapter to train on already."""
        return self.adapter is not None or self.checkpoint is not None


def find_start(policy: str, adapter: str | None = None, revision: str | None = None) -> Start:
    """Finds out what a name stands for, before anything is opened.

    Args:
        policy: A base model, an adapter, or a file ``*.ckpt`` of the supervised or PPO stage.
        adapter: An adapter, whose base ``policy`` then is.
        revision: Branch, tag or commit of ``policy``; of a checkpoint its base's, which else is
            the one that it was made with.

    Raises:
        InputError: If the checkpoint isn't there or holds no adapter, or if two adapters are given.
    """
    if policy.endswith(".ckpt"):
        if adapter is not None:
            raise InputError(
                f"model.adapter={adapter}: the checkpoint {policy} brings an adapter of its own; "
                "give one of the two"
            )
        facts = read_checkpoint(policy)[CHECKPOINT_KEY]
        base_revision = revision or facts.get("base_revision")
        return Start(facts["base"], checkpoint=policy, base_revision=base_revision)
    base = adapter_base(policy, revision)
    if base is not None and adapter is not None:
        raise InputError(
            f"model.adapter={adapter}: model.policy={policy} is an adapter itself; give its base "
            f"there ({base.name})"
        )
    if base is not None:
        return Start(base.name, policy, base_revision=base.revision, adapter_revision=revision)
    return Start(policy, adapter, base_revision=revision)


def open_start(
    start: Start,
    lora: LoRA | None,
    weights: Weights,
    auto_class: str,
    task_type: str,
    device: torch.device | None = None,
) -> Any:
    """Opens a model to train.

    Args:
        start: Where it begins. An adapter there is trained on.
        lora: The fresh adapter of a start that has none; None: all weights are trained.
        weights: How the base's are opened.
        auto_class: ``AutoModelForSeq2SeqLM``, …
        task_type: peft's name of the task.
        device: Where a quantized base goes, which can't move later; None: a GPU if there is one.

    Returns:
        A ``PeftModel`` whose adapter ``default`` learns, or a plain model that learns.

    Raises:
        InputError: If there is no such model or adapter, or a base that is quantized, or held in
            another precision than float32, is to be trained whole.
    """
    if lora is None and not start.has_adapter:
        refuse_whole(weights)
    if start.adapter is not None:
        check_adapter_kind(start.adapter, start.adapter_revision)
    options = {**weights.options, "revision": start.base_revision, "device": device}
    base = load_model(auto_class, start.base, **options)
    if start.checkpoint is not None:
        model = restore_adapter(base, start.checkpoint)
    elif start.adapter is not None:
        model = load_adapter(base, start.adapter, revision=start.adapter_revision)
    elif lora is not None:
        model = add_lora(base, lora, task_type)
    else:
        return base.requires_grad_(True)
    config = model.peft_config["default"]  # the base it is on now, for those who open it later
    config.base_model_name_or_path = locate(start.base)
    config.revision = start.base_revision
    return model


def read_checkpoint(file: str) -> dict[str, Any]:
    """Reads a checkpoint that holds an adapter; its tensors stay on disk until they are used.

    Args:
        file: Its path.

    Raises:
        InputError: If there is no such file, or it isn't one.
    """
    if not Path(file).is_file():
        raise InputError(f"{file}: there is no such checkpoint")
    try:
        checkpoint: dict[str, Any] = torch.load(
            file, map_location="cpu", weights_only=True, mmap=True
        )
        facts = checkpoint[CHECKPOINT_KEY]
        names = [facts["stage"], facts["base"], *checkpoint["state_dict"]]
        if not all(isinstance(name, str) for name in names):
            raise TypeError("names are texts")
    except Exception as error:  # a torn file fails in many ways
        raise InputError(f"{file}: not a checkpoint of detox_lightning, or a torn one") from error
    if facts["stage"] not in PREFIXES:
        raise InputError(
            f"{file}: a checkpoint of the {facts['stage']} stage is no policy to begin from"
        )
    if facts.get("adapter") is None:
        raise InputError(f"{file}: it holds a whole model and no adapter. {_exported(file)}")
    return checkpoint


def _exported(file: str) -> str:
    """How a folder is made of a checkpoint."""
    return (
        f"Make a folder of it with `python -m detox_lightning export --config CONFIG --ckpt_path "
        f"{file}`, where CONFIG is its run's config.yaml, and give that"
    )


def adapter_facts(model: Any) -> dict[str, Any] | None:
    """A model's adapter config as plain values, for checkpoints; None without adapter."""
    configs = getattr(model, "peft_config", None)
    if configs is None:
        return None
    facts = {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in configs["default"].to_dict().items()
        if isinstance(value, bool | int | float | str | set | list | dict) or value is None
    }
    return facts | {EMBEDDINGS: True} if getattr(model, EMBEDDINGS, False) else facts


def restore_adapter(base: Any, file: str) -> Any:
    """Puts a checkpoint's adapter on a base, under the name ``default``, to train on.

    Args:
        base: A model from transformers; it is changed in place.
        file: The checkpoint.

    Raises:
        InputError: If the adapter doesn't fit the base.
    """
    from peft import LoraConfig, get_peft_model

    checkpoint = read_checkpoint(file)
    facts = checkpoint[CHECKPOINT_KEY]
    kind = str(facts["adapter"].get("peft_type", "LORA")).rpartition(".")[2]
    if kind != "LORA" or facts["adapter"].get(EMBEDDINGS):
        also = "embeddings that aren't its base's" if kind == "LORA" else f"its kind, {kind}"
        raise InputError(
            f"{file}: it holds what was trained, which isn't all of its adapter, because of "
            f"{also}. {_exported(file)}"
        )
    options = {k: v for k, v in facts["adapter"].items() if k not in ("peft_type", "auto_mapping")}
    try:
        model = get_peft_model(base, LoraConfig(**options))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{file}: its adapter can't be put on the base {facts['base']!r}: {error}. Give a "
            "checkpoint as it was written"
        ) from error
    prefix = PREFIXES[facts["stage"]]
    saved = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    faults = [f"{name} is not in it" for name in sorted(learns - saved.keys())]
    try:
        faults += model.load_state_dict(saved, strict=False).unexpected_keys
    except RuntimeError as error:
        faults = [str(error).strip().splitlines()[-1].strip()]
    if faults:
        raise InputError(f"{file}: its adapter doesn't fit the base {facts['base']!r}: {faults[0]}")
    return model


def saved_value_head(start: Start) -> dict[str, torch.Tensor] | None:
    """The value head that was trained with what a policy begins from; None: there is none.

    Args:
        start: A checkpoint, an adapter or a model; a folder of them holds it as a file.

    Raises:
        InputError: If that file is torn.
    """
    if start.checkpoint is not None:
        state = read_checkpoint(start.checkpoint)["state_dict"]
        head = {n.removeprefix(ITS_PREFIX): x for n, x in state.items() if n.startswith(ITS_PREFIX)}
        return head or None
    revision = start.base_revision if start.adapter is None else start.adapter_revision
    name = start.adapter or start.base
    return open_by_name("value head of", name, _load_value_head, revision=revision)


def _load_value_head(located: str, revision: str | None = None) -> dict[str, torch.Tensor] | None:
    from safetensors.torch import load_file

    file = find_file(located, VALUE_HEAD, revision)
    return None if file is None else load_file(file)
