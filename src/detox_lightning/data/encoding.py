"""Text into token ids, done once and kept in the cache of ``datasets``; ids into padded batches."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detox_lightning.errors import InputError
from detox_lightning.models.loading import load_config, load_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from lightning.pytorch import Trainer

# part of every cache key: raise it when the encoded columns change
FORMAT = 2


class Encoding:
    """A tokenizer with what its owner needs to know of it.

    Args:
        name: Hub id, local folder or ``demo:NAME``; None: the one of the trainer's model.
        trainer: Whose model is asked.

    Attributes:
        tokenizer: From ``transformers``.
        pad_id: What batches are padded with; masks tell it from text, so EOS serves if need be.
        padding_side: Where the trainer's model wants prompts padded; ``right`` if it doesn't say.

    Raises:
        InputError: If there is no such tokenizer, it has neither padding nor EOS, or it has more
            tokens than the trainer's model embeds.
    """

    def __init__(self, name: str | None, trainer: "Trainer | None") -> None:
        model = getattr(trainer, "lightning_module", None)
        family = getattr(model, "family", None)  # a classifier has none
        self.padding_side: str = "right" if family is None else family.padding_side
        self.ends_prompts_with_eos: bool = family is None or family.ends_prompts_with_eos
        self._adds_special_tokens: bool = family is None or family.adds_special_tokens_to_answers
        own: str | None = getattr(model, "tokenizer_name", None)
        options: dict[str, Any] = getattr(model, "tokenizer_options", {})
        self.name = name or own
        if self.name is None:
            raise InputError("--data.tokenizer: the model names none; give a hub id or a folder")
        self.tokenizer: Any = load_tokenizer(self.name, **({} if name else options))
        if name and own and name != own:
            self._check_fits(own, options)
        pad = self.tokenizer.pad_token_id
        self.pad_id: int = self.eos_id if pad is None else pad
        # read before use: truncation leaves its traces in the tokenizer
        self._content = _content(self.tokenizer)

    def _check_fits(self, model: str, options: dict[str, Any]) -> None:
        """Makes sure that the model embeds all tokens of a tokenizer that isn't its own."""
        embedded = getattr(load_config(model, **options).get_text_config(), "vocab_size", None)
        if embedded is not None and len(self.tokenizer) > embedded:
            raise InputError(
                f"--data.tokenizer={self.name}: it has {len(self.tokenizer)} tokens, and the model "
                f"{model} embeds {embedded}; leave this out, and the model's own is used"
            )

    @property
    def eos_id(self) -> int:
        """What ends a text that a model is to write.

        Raises:
            InputError: If the tokenizer has no such token, as those of classifiers may.
        """
        eos: int | None = self.tokenizer.eos_token_id
        if eos is None:
            raise InputError(
                f"--data.tokenizer={self.name}: it has no end-of-sequence token; set one"
            )
        return eos

    def ids(self, texts: list[str], limit: int | None = None) -> list[list[int]]:
        """Token ids with the tokenizer's special tokens, cut to ``limit`` tokens (None: whole)."""
        options = {} if limit is None else {"truncation": True, "max_length": limit}
        encoded: list[list[int]] = self.tokenizer(texts, verbose=False, **options)["input_ids"]
        return encoded

    def prompt_ids(self, texts: list[str], chat: bool = False) -> list[list[int]]:
        """Token ids of prompts; no EOS follows them where a decoder alone is to go on.

        Args:
            texts: The prompts.
            chat: Whether they are what a user says, in the tokenizer's chat template.

        Raises:
            InputError: If there is to be a chat template and the tokenizer has none.
        """
        if chat:
            return self._chat_ids(texts)
        ids = self.ids(texts)
        if self.ends_prompts_with_eos:
            return ids
        eos = self.tokenizer.eos_token_id
        return [row[:-1] if row and row[-1] == eos else row for row in ids]

    def answer_ids(self, texts: list[str], limit: int) -> list[list[int]]:
        """Token ids of answers, EOS last whether or not the tokenizer puts it there.

        Args:
            texts: The answers.
            limit: Tokens an answer may have, EOS included; it is cut if it has more.
        """
        special = self._adds_special_tokens
        ids = self.tokenizer(texts, verbose=False, add_special_tokens=special)["input_ids"]
        bodies = (row[:-1] if row[-1:] == [self.eos_id] else row for row in ids)
        return [[*body[: limit - 1], self.eos_id] for body in bodies]

    def _chat_ids(self, texts: list[str]) -> list[list[int]]:
        said = [[{"role": "user", "content": text}] for text in texts]
        encoded: list[list[int]] = self.tokenizer.apply_chat_template(
            said, chat_template=self.chat_template, add_generation_prompt=True, return_dict=False
        )
        return encoded

    @property
    def chat_template(self) -> Any:
        """The tokenizer's chat template.

        Raises:
            InputError: If it has none.
        """
        if self.tokenizer.chat_template is None:
            raise InputError(
                f"--data.chat_template=true: the tokenizer {self.name} has no chat template; leave "
                "this out, or name a tokenizer that has one in --data.tokenizer"
            )
        return self.tokenizer.chat_template

    def encode(
        self, rows: "Dataset", function: Callable[..., dict[str, list[Any]]], *terms: Any
    ) -> "Dataset":
        """Encodes all rows, or finds them in the cache; either way they stay on the disk.

        Args:
            rows: What to encode.
            function: Takes a batch of columns and its rows' places, and gives the columns that
                replace them.
            terms: All that the result depends on, besides ``rows`` and the tokenizer. ``datasets``
                can't tell by itself: a tokenizer hashes differently after use.
        """
        from datasets.fingerprint import Hasher

        key = Hasher.hash([FORMAT, rows._fingerprint, self._content, *terms])
        columns = rows.column_names
        return rows.map(
            function,
            with_indices=True,
            batched=True,
            remove_columns=columns,
            new_fingerprint=key,
            desc="Tokenizing",
        )


def count_cut(encoded: "Dataset") -> int:
    """How many encoded rows were cut, counted where they lie: Python never holds the column."""
    import pyarrow.compute

    return int(pyarrow.compute.sum(encoded.data.column("cut")).as_py() or 0)


def count_blank(encoded: "Dataset", column: str) -> int:
    """How many encoded rows have nothing but white space in a column, counted where they lie."""
    import pyarrow.compute as compute

    texts = compute.utf8_trim_whitespace(encoded.data.column(column))
    return int(compute.sum(compute.equal(texts, "")).as_py() or 0)


def pad(rows: list[list[int]], pad_id: int, side: str = "right") -> tuple[Tensor, Tensor]:
    """Pads lists of ids to a common length.

    Args:
        rows: ``b`` lists of token ids, the longest of length ``s``.
        pad_id: What to fill with.
        side: ``right`` or ``left``: where to fill.

    Returns:
        Ids ``[b, s]``, and a mask ``[b, s]`` that is True where they come from ``rows``.
    """
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    real = [torch.ones(len(row), dtype=torch.bool) for row in rows]
    return (
        pad_sequence(ids, batch_first=True, padding_value=pad_id, padding_side=side),
        pad_sequence(real, batch_first=True, padding_value=False, padding_side=side),
    )


def _content(tokenizer: Any) -> str:
    """What tells two tokenizers apart: content rather than name, as a folder can be rebuilt."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else _files(tokenizer)
    cuts = tokenizer.truncation_side
    return repr((type(tokenizer).__name__, words, tokenizer.special_tokens_map, cuts))


def _files(tokenizer: Any) -> list[tuple[str, bytes]]:
    """All that a tokenizer writes of itself, for those whose words don't say how texts are cut."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return [(file.name, file.read_bytes()) for file in sorted(Path(folder).iterdir())]
