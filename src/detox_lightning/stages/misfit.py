"""What differs between a run and the checkpoint that it is to go on from, by the flags' names."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# What has no bearing on what the weights mean, or is told otherwise.
ASIDE = {
    *("peft_type", "peft_version", "auto_mapping", "task_type", "inference_mode"),
    *("base_model_name_or_path", "revision", "lora_dropout", "init_lora_weights"),
}
# peft's names that are not in lora.options, and ours, in the order in which one thinks of them
FLAGS = {
    "r": "r",
    "lora_alpha": "alpha",
    "target_modules": "target_modules",
    "modules_to_save": "modules_to_save",
}


def misfits(
    here: Mapping[str, Any],
    saved: Mapping[str, Any],
    names_here: Iterable[str],
    names_saved: Iterable[str],
) -> list[str]:
    """Says what differs, each in a clause.

    Args:
        here: What this run would stamp: ``base_revision``, ``adapter``. What is not in both is not
            compared.
        saved: What is stamped on the checkpoint.
        names_here: Of the parameters that learn.
        names_saved: Of those in the checkpoint.
    """
    found = []
    revisions = here.get("base_revision"), saved.get("base_revision")
    if "base_revision" in here and "base_revision" in saved and revisions[0] != revisions[1]:
        found.append(differs("the base's revision", *revisions))
    if "adapter" in here and "adapter" in saved:
        found += _of_adapters(here["adapter"], saved["adapter"])
    needed, held = (any("value_head." in name for name in xs) for xs in (names_here, names_saved))
    if needed and not held:
        found.append("model.advantage needs a value head here, and the checkpoint has none")
    if held and not needed:
        found.append("model.advantage needs no value head here, and the checkpoint has one")
    return found


def _of_adapters(here: Mapping[str, Any] | None, saved: Mapping[str, Any] | None) -> Iterator[str]:
    if here is None and saved is not None:
        yield "model.lora is null here, and the checkpoint holds an adapter"
    elif here is not None and saved is None:
        yield "model.lora is given here, and the checkpoint holds a whole model (model.lora=null)"
    elif here is not None and saved is not None:
        both = (here.keys() & saved.keys()) - ASIDE
        for name in [*(name for name in FLAGS if name in both), *sorted(both - FLAGS.keys())]:
            if _comparable(here[name]) != _comparable(saved[name]):
                flag = FLAGS.get(name, f"options.{name}")
                yield differs(f"model.lora.{flag}", here[name], saved[name])


def differs(flag: str, here: Any, saved: Any) -> str:
    """That a value is another one.

    Args:
        flag: What it is a value of.
        here: In this run.
        saved: In the checkpoint.
    """
    return f"{flag} is {_shown(here)} here, {_shown(saved)} in the checkpoint"


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple | set):
        return f"[{', '.join(map(str, value))}]"
    return "null" if value is None else str(value)


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, list | tuple | set) else value or None
