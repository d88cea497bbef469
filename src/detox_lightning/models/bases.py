"""The base model that an adapter was made on."""

from pathlib import Path
from typing import Any, NamedTuple

from detox_lightning.models.opening import Unusable, open_by_name, read_object


class Base(NamedTuple):
    """The base model of an adapter.

    Attributes:
        name: Hub id or local folder.
        revision: Branch, tag or commit of a hub id; None: the newest.
    """

    name: str
    revision: str | None = None


def adapter_base(name: str, revision: str | None = None) -> Base | None:
    """The base model that an adapter folder or hub id names, or None if ``name`` is no adapter.

    Args:
        name: Hub id, local folder or ``demo:NAME``.
        revision: Branch, tag or commit of a hub id.

    Raises:
        InputError: If there is no such folder, and a hub id can't be called so.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    def read(located: str, **given: Any) -> Base | None:
        file = find_adapter_config_file(located, **given)
        if file is None:
            return None
        facts = read_object(Path(file))
        base, its_revision = facts.get("base_model_name_or_path"), facts.get("revision")
        if not isinstance(base, str) or not base:
            raise Unusable(
                f"its adapter_config.json names no base (base_model_name_or_path: {base!r}). Write "
                "the base's folder or hub id there, or give the base and --model.adapter"
            )
        if not isinstance(its_revision, str | None):
            raise Unusable(
                f"its adapter_config.json has a revision that is no text ({its_revision!r}); give "
                "a branch, tag or commit there, or null"
            )
        return Base(base, its_revision)

    return open_by_name("model", name, read, revision=revision)
