"""What a model must be for the reward stage to make a classifier of it."""

from typing import Any

from detox_lightning.errors import InputError
from detox_lightning.models.batching import count_positions
from detox_lightning.models.classifier_heads import labels_of
from detox_lightning.models.loading import load_config
from detox_lightning.models.text_padding import padding_id


def check_labels(name: str, labels: list[str], **options: Any) -> None:
    """Refuses to rename, swap or throw away the classes of a model that is a classifier already.

    Args:
        name: Hub id, local folder or ``demo:NAME``.
        labels: Names of the classes, by index.
        options: For :func:`load_config`.

    Raises:
        InputError: If the model's own classes are others, or contradict each other; unnamed
            ones (``LABEL_0``) may be named.
    """
    config = load_config(name, **options)
    if not any("SequenceClassification" in kind for kind in config.architectures or []):
        return
    own = labels_of(config, name)
    unnamed = all(label.startswith("LABEL_") for label in own)
    if own != labels and not (unnamed and len(own) == len(labels)):
        raise InputError(
            f"labels={labels}: {name!r} is a classifier of {own}, in this order. Give these "
            "labels, or begin from an encoder without a head."
        )


def check_positions(name: str, model: Any, longest: int) -> None:
    """Refuses texts that a model has no positions for.

    Args:
        name: Of the model, for the message.
        model: From transformers.
        longest: Tokens that a text may have.

    Raises:
        InputError: If they are more than it reads.
    """
    positions = count_positions(model)
    if positions is not None and longest > positions:
        raise InputError(
            f"--data.max_tokens={longest}: {name!r} reads {positions} tokens at most; lower it to "
            "that"
        )


def name_padding(model: Any, tokenizer: Any) -> None:
    """Gives a model that knows no padding its tokenizer's, which may be EOS.

    A decoder alone takes what comes before the padding for a text's last token, by its config.

    Args:
        model: A sequence classifier from transformers.
        tokenizer: Its own.
    """
    if padding_id(model) is None:
        pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
        model.config.get_text_config().pad_token_id = eos if pad is None else pad
