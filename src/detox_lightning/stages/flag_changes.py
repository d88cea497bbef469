"""What of a run's flags differs from those of the run whose checkpoint it takes, in one line."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from detox_lightning.redaction import without_secrets
from detox_lightning.runs.provenance import to_plain

# what is told or refused otherwise, and what changes no number
ASIDE = {
    *("model.policy", "model.model", "model.adapter", "model.labels", "model.weights.revision"),
    *("model.micro_batch_size", "model.max_faults", "model.gradient_checkpointing"),
    *("data.source", "data.batch_size", "data.eval_batch_size", "data.num_workers"),
    *("data.predict_source", "model.evaluation.batch_size", "model.reward.batch_size"),
    *("model.lora.r", "model.lora.alpha", "model.lora.target_modules", "model.lora.options"),
    *("model.lora.modules_to_save",),
}
MEASURED = ("model.sampling", "model.reward", "data.")  # what tests and predictions depend on
SIZES = ("data.num_samples", "data.num_eval_samples")  # and what they don't
HYPER_PARAMETERS, HYPER_PARAMETERS_OF_DATA = "hyper_parameters", "datamodule_hyper_parameters"
MOST = 60  # characters of a value


def tell_changes(module: Any, checkpoint: Mapping[str, Any]) -> None:
    """Warns of flags that have other values than when the checkpoint was written.

    Args:
        module: With its trainer.
        checkpoint: As Lightning hands it to ``on_load_checkpoint``.
    """
    trainer = module._trainer
    verb = None if trainer is None else trainer.state.fn
    if verb is None:
        return
    found: list[tuple[str, str, str]] = []
    data = getattr(trainer, "datamodule", None)
    for flag, of, key in (
        ("model", module, HYPER_PARAMETERS),
        ("data", data, HYPER_PARAMETERS_OF_DATA),
    ):
        if of is not None and key in checkpoint:
            found += differences(flag, dict(checkpoint[key]), dict(of.hparams))
    if verb != "fit":
        found = [one for one in found if one[0].startswith(MEASURED) and one[0] not in SIZES]
    if found:
        told = ", ".join(f"{flag}: {old} → {new}" for flag, old, new in found)
        wins = "the flags win" if verb == "fit" else "other things are measured than it was for"
        rank_zero_warn(f"this differs from the checkpoint's run, and {wins}: {told}")


def differences(flag: str, old: Any, new: Any) -> Iterator[tuple[str, str, str]]:
    """The flags whose values differ, and both values.

    Args:
        flag: That has the values.
        old: In the checkpoint: plain values; of a class, ``class_path`` and ``init_args``.
        new: In this run.
    """
    yield from _differences(flag, without_secrets(to_plain(old)), without_secrets(to_plain(new)))


def _differences(flag: str, old: Any, new: Any) -> Iterator[tuple[str, str, str]]:
    if flag in ASIDE:
        return
    if _class(old) != _class(new):
        yield flag, _shown(old), _shown(new)
    elif isinstance(old, dict) and isinstance(new, dict):
        if _class(old):
            old, new = old.get("init_args") or {}, new.get("init_args") or {}
        for key in old:  # another version may know more
            if key in new and not key.startswith("_"):
                yield from _differences(f"{flag}.{key}", old[key], new[key])
    elif old != new and _is_told(old) and _is_told(new) and not _has_moved(old, new):
        yield flag, _shown(old), _shown(new)


def _class(value: Any) -> str | None:
    return value.get("class_path") if isinstance(value, dict) else None


def _is_told(value: Any) -> bool:
    """Whether a value's text says what it is, rather than where in memory it lies."""
    return not (isinstance(value, str) and " at 0x" in value)


def _has_moved(old: Any, new: Any) -> bool:
    """Whether both are the same place, or the old one is gone and the new one has its name."""
    if not (isinstance(old, str) and isinstance(new, str) and Path(new).exists()):
        return False
    if Path(old).exists():
        return Path(old).resolve() == Path(new).resolve()
    return "/" in old and Path(old).name == Path(new).name


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if kind := _class(value):
        return kind.rpartition(".")[2]
    text = " ".join(f"{value:.6g}".split() if isinstance(value, float) else str(value).split())
    return text if len(text) <= MOST else f"{text[:MOST]}…"
