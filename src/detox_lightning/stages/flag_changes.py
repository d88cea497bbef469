"""Compares a run's flags with those of the run whose checkpoint it loads."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.errors import InputError
from detox_lightning.protocols import data_of
from detox_lightning.redaction import without_secrets
from detox_lightning.runs.provenance import to_plain

# flags with messages of their own, and flags that change no number
_NOT_COMPARED = {
    *("model.policy", "model.model", "model.adapter", "model.labels", "model.weights.revision"),
    *("model.micro_batch_size", "model.max_faults", "model.gradient_checkpointing"),
    *("data.source", "data.batch_size", "data.eval_batch_size", "data.num_workers"),
    *("data.predict_source", "model.evaluation.batch_size", "model.reward.batch_size"),
    *("model.lora.r", "model.lora.alpha", "model.lora.target_modules", "model.lora.options"),
    *("model.lora.modules_to_save",),
}
# the flags that tests and predictions depend on, and exceptions among them
_MEASURED = ("model.sampling", "model.reward", "data.")
_EVALUATED = ("tox", "second_tox", "similarity", "top_p", "max_new_tokens")
_JUDGES = ("model.seed", *(f"model.evaluation.{name}" for name in _EVALUATED))
_NOT_MEASURED = ("data.num_samples", "data.num_eval_samples")
_MAX_SHOWN = 60  # characters of a value
# peft's options that don't change what the weights mean, or have messages of their own
_NO_MISFIT = {
    *("peft_type", "peft_version", "auto_mapping", "task_type", "inference_mode"),
    *("base_model_name_or_path", "revision", "lora_dropout", "init_lora_weights"),
}
# peft's options that are named first, and have flags of their own beside model.lora.options
_LORA_FLAGS = ("r", "lora_alpha", "target_modules", "modules_to_save")


def warn_of_changed_flags(module: Any, checkpoint: Mapping[str, Any]) -> None:
    """Tells a stage's flags that have other values than when the checkpoint was written."""
    trainer = module._trainer
    verb = None if trainer is None else trainer.state.fn
    if verb is None:
        return
    refuse_trained_rows(trainer, checkpoint)
    changes = list(_changed_flags(module, checkpoint))
    if verb != "fit":
        changes = [x for x in changes if x[0].startswith(_MEASURED) and x[0] not in _NOT_MEASURED]
    if changes:
        shown = ", ".join(f"{flag}: {old} → {new}" for flag, old, new in changes)
        effect = "they win" if verb == "fit" else "what is measured depends on them"
        rank_zero_warn(f"flags differ from those of the checkpoint's run, and {effect}: {shown}")


def measures_alike(module: Any, checkpoint: Mapping[str, Any]) -> bool:
    """Whether a stage's validation compares with its checkpoint's: same data, measured alike."""
    changed = {flag for flag, *_ in _changed_flags(module, checkpoint)} - {"data.num_samples"}
    data: Any = data_of(module._trainer)
    if data is not None and (old := checkpoint.get(data.CHECKPOINT_HYPER_PARAMS_KEY)):
        names = old.get("source"), data.hparams.get("source")
        changed |= {flag for flag, *_ in differences("data.", *names)}
    return not any(flag.startswith((*_MEASURED, *_JUDGES)) for flag in changed)


def _changed_flags(module: Any, checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yields the flags of a stage and its data that differ from a checkpoint's, and both values."""
    for flag, owner in (("model", module), ("data", getattr(module._trainer, "datamodule", None))):
        if owner is not None and (key := owner.CHECKPOINT_HYPER_PARAMS_KEY) in checkpoint:
            yield from differences(flag, dict(checkpoint[key]), dict(owner.hparams))


def refuse_trained_rows(trainer: Any, checkpoint: Mapping[str, Any]) -> None:
    """Refuses to measure on a share of the training rows that the checkpoint's run didn't cut off.

    Raises:
        InputError: If other values of flags decide which rows of the same split are in the share.
    """
    data: Any = data_of(trainer)
    if data is None or not data.share_read or trainer.state.fn not in ("validate", "test"):
        return
    here, saved = dict(data.hparams), dict(checkpoint.get(data.CHECKPOINT_HYPER_PARAMS_KEY, {}))
    former = saved.get("source", [])
    pairs = product([former] if isinstance(former, str) else former, data.sources)
    is_same = any(old == new or _are_alike(old, new) for old, new in pairs)
    if not is_same or saved.get("train_split") != here["train_split"]:
        return
    changes = [
        f"--data.{name}={_short(here[name])} (the checkpoint's: {_short(saved[name])})"
        for name in data.shared_by
        if name in saved
        and here[name] != saved[name]
        # a smaller share is a part of the larger one; test rows are cut off before validation rows
        and not (name.endswith("_fraction") and (here[name] or 0) <= (saved[name] or 0))
        and not (name.startswith("validation") and data.share_read == "test")
    ]
    if changes:
        raise InputError(
            f"{', '.join(changes)}: the checkpoint's run may have trained on the rows that this "
            "would measure. Give the checkpoint's values; or train with these, too; or name rows "
            f"of their own (--data.{data.share_read}_split, --data.source)"
        )


def differences(flag: str, old: Any, new: Any) -> Iterator[tuple[str, str, str]]:
    """Yields the flags whose values differ, and both values as text.

    Args:
        flag: The flag that has the values.
        old: The checkpoint's plain values; of a class, ``class_path`` and ``init_args``.
        new: This run's values.
    """
    if flag in _NOT_COMPARED:
        return
    old, new = without_secrets(to_plain(old)), without_secrets(to_plain(new))
    if _class(old) == _class(new) and isinstance(old, dict) and isinstance(new, dict):
        if _class(old):
            old, new = old.get("init_args") or {}, new.get("init_args") or {}
        for key in old:  # another version may know more
            if key in new and not key.startswith("_"):
                yield from differences(f"{flag}.{key}", old[key], new[key])
    elif _class(old) != _class(new) or (old != new and not _are_alike(old, new)):
        yield flag, _short(old), _short(new)


def _class(value: Any) -> str | None:
    return value.get("class_path") if isinstance(value, dict) else None


def _are_alike(old: Any, new: Any) -> bool:
    """Whether two values name an address in memory, or the same file, which may have moved."""
    if any(isinstance(value, str) and " at 0x" in value for value in (old, new)):
        return True
    if not (isinstance(old, str) and isinstance(new, str) and Path(new).exists()):
        return False
    if Path(old).exists():
        return Path(old).resolve() == Path(new).resolve()
    return "/" in old and Path(old).name == Path(new).name


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if kind := _class(value):
        return kind.rpartition(".")[2]
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(_text(value).split())
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def misfits(
    here: Mapping[str, Any],
    saved: Mapping[str, Any],
    names_here: Iterable[str],
    names_saved: Iterable[str],
) -> Iterator[str]:
    """Yields the differences between a run and a checkpoint's weights, as one clause each.

    Args:
        here: Facts that this run would save: ``base_revision``, ``adapter``. Only facts that both
            have are compared.
        saved: Facts in the checkpoint.
        names_here: Names of the trainable parameters.
        names_saved: Names of the parameters in the checkpoint.
    """
    both = here.keys() & saved.keys()
    if "base_revision" in both and here["base_revision"] != saved["base_revision"]:
        yield differs("the base's revision", here["base_revision"], saved["base_revision"])
    if "adapter" in both:
        yield from _adapter_misfits(here["adapter"], saved["adapter"])
    both_names = {*names_here}, {*names_saved}
    needed, held = (any("value_head." in name for name in names) for names in both_names)
    if needed and not held:
        yield "model.advantage needs a value head here, and the checkpoint has none"
    if held and not needed:
        yield "model.advantage needs no value head here, and the checkpoint has one"
    ours, its = ({x for x in names if x.startswith("policy.critic.")} for names in both_names)
    if needed and held and ours != its:
        yield "model.critic is another one here"


def _adapter_misfits(
    here: Mapping[str, Any] | None, saved: Mapping[str, Any] | None
) -> Iterator[str]:
    if here is None and saved is not None:
        yield "model.lora is null here, and the checkpoint holds an adapter"
    elif here is not None and saved is None:
        yield "model.lora is given here, and the checkpoint holds a whole model (model.lora=null)"
    elif here is not None and saved is not None:
        both = (here.keys() & saved.keys()) - _NO_MISFIT
        for name in [*(x for x in _LORA_FLAGS if x in both), *sorted(both.difference(_LORA_FLAGS))]:
            if _comparable(here[name]) != _comparable(saved[name]):
                option = name.removeprefix("lora_") if name in _LORA_FLAGS else f"options.{name}"
                yield differs(f"model.lora.{option}", here[name], saved[name])


def differs(flag: str, here: Any, saved: Any) -> str:
    """Returns a clause that tells a flag's values in this run and in the checkpoint."""
    return f"{flag} is {_text(here)} here, {_text(saved)} in the checkpoint"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple | set):
        return f"[{', '.join(map(str, value))}]"
    return "null" if value is None else str(value)


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, list | tuple | set) else value or None
