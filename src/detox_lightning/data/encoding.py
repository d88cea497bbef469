"""Turns texts into token ids, in the cache of ``datasets``, and ids into padded batches."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detox_lightning.data.conversations import Prompt, as_text
from detox_lightning.errors import InputError
from detox_lightning.models.loading import load_config, load_tokenizer
from detox_lightning.protocols import Stage

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = 3  # part of every cache key: raise it when the encoded columns change


class Encoding:
    """A tokenizer, used as the stage's model expects; the model's own if ``name`` is None.

    Raises:
        InputError: If there is no such tokenizer, it has neither a padding token nor EOS, or it has
            more tokens than the model embeds.
    """

    def __init__(self, name: str | None, stage: Stage | None) -> None:
        source = stage.source if stage else None
        own, options = (source.base, source.tokenizer_options) if source else (None, {})
        family = stage.family if stage else None  # a classifier has none
        self.padding_side = family.padding_side if family else "right"
        self._ends_prompts_with_eos = family is None or family.ends_prompts_with_eos
        self._adds_special_tokens = family is None or family.adds_special_tokens_to_answers
        self._start = None  # a decoder is given this one, and must not learn to write it once more
        if source and self._adds_special_tokens:
            self._start = getattr(source.config, "decoder_start_token_id", None)
        self.name = name or own
        if self.name is None:
            raise InputError("--data.tokenizer: the model names none; give a hub id or a folder")
        self.tokenizer: Any = load_tokenizer(self.name, **({} if name else options))
        if name and own and name != own:
            config = load_config(own, **options).get_text_config()
            embedded, tokens = getattr(config, "vocab_size", None), len(self.tokenizer)
            if embedded is not None and tokens > embedded:
                raise InputError(
                    f"--data.tokenizer={name}: it has {tokens} tokens, and the model {own} embeds "
                    f"{embedded}; leave this out, and the model's own is used"
                )
        pad = self.tokenizer.pad_token_id
        self.pad_id: int = self.eos_id if pad is None else pad
        # read before first use, as truncation changes the tokenizer
        self._content = _content(self.tokenizer)

    @property
    def eos_id(self) -> int:
        """Id of the end-of-sequence token; InputError if the tokenizer has none."""
        eos: int | None = self.tokenizer.eos_token_id
        if eos is None:
            raise InputError(
                f"--data.tokenizer={self.name}: it has no end-of-sequence token; set one"
            )
        return eos

    def ids(self, texts: list[str], **options: Any) -> list[list[int]]:
        """Returns token ids with special tokens; ``options`` go to the tokenizer."""
        encoded: list[list[int]] = self.tokenizer(texts, verbose=False, **options)["input_ids"]
        return encoded

    def prompt_ids(self, prompts: Sequence[Prompt], chat: bool = False) -> list[list[int]]:
        """Returns token ids of prompts, without EOS unless the family wants it.

        With ``chat``, each is put into the tokenizer's chat template; a text is the user's message.
        InputError if there is no such template, or if it refuses a prompt.
        """
        if chat:
            return [self._chat_ids(prompt) for prompt in prompts]
        ids = self.ids([*map(str, prompts)])
        if self._ends_prompts_with_eos:
            return ids
        eos = self.tokenizer.eos_token_id
        return [row[:-1] if row and row[-1] == eos else row for row in ids]

    def _chat_ids(self, prompt: Prompt) -> list[int]:
        from jinja2 import TemplateError

        if self.tokenizer.chat_template is None:
            raise InputError(
                f"--data.tokenizer={self.name}: it has no chat template, which lists of messages "
                "and --data.chat_template=true need; name one that has, or give prompts as text"
            )
        chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        options = {"add_generation_prompt": True, "return_dict": False}
        try:
            ids: list[int] = self.tokenizer.apply_chat_template(chat, **options)
        except TemplateError as error:
            raise InputError(
                f"--data.source: the chat template of {self.name} refuses the prompt "
                f"{as_text(prompt)[:80]!r} ({error}); change its messages"
            ) from error
        return ids

    def answer_ids(self, texts: list[str], limit: int) -> list[list[int]]:
        """Returns token ids of answers, cut to ``limit`` tokens; the last one is EOS.

        The token that a decoder begins with is left out, as BERT's tokenizer adds it.
        """
        ids = self.ids(texts, add_special_tokens=self._adds_special_tokens)
        ids = [row[1:] if row[:1] == [self._start] else row for row in ids]
        bodies = (row[:-1] if row[-1:] == [self.eos_id] else row for row in ids)
        return [[*body[: limit - 1], self.eos_id] for body in bodies]

    def encode(
        self, rows: "Dataset", function: Callable[..., dict[str, list[Any]]], *settings: Any
    ) -> "Dataset":
        """Encodes rows, or finds them in the cache; they stay on the disk.

        ``function`` gets a batch of columns and the rows' numbers, and returns new columns. The
        cache key is all that the result depends on: ``rows``, this encoding and ``settings``. A key
        made by ``datasets`` would change when a tokenizer is used.
        """
        from datasets.fingerprint import Hasher

        family = (self._ends_prompts_with_eos, self._adds_special_tokens, self._start)
        parts = [FORMAT, rows._fingerprint, self._content, family, *settings]
        return rows.map(
            function,
            with_indices=True,
            batched=True,
            remove_columns=rows.column_names,
            new_fingerprint=Hasher.hash(parts),
            desc="Tokenizing",
        )


def count_cut(encoded: "Dataset") -> int:
    """Counts the encoded rows that were cut, without reading a column into Python."""
    import pyarrow.compute

    return int(pyarrow.compute.sum(encoded.data.column("cut")).as_py() or 0)


def count_blank(encoded: "Dataset", column: str) -> int:
    """Counts the rows that hold only white space in a column, without reading it into Python."""
    import pyarrow.compute as compute

    texts = compute.utf8_trim_whitespace(encoded.data.column(column))
    return int(compute.sum(compute.equal(texts, "")).as_py() or 0)


def pad(rows: list[list[int]], pad_id: int, side: str = "right") -> tuple[Tensor, Tensor]:
    """Pads ``b`` lists of token ids, the longest of length ``s``, on one side.

    Returns:
        Ids ``[b, s]``, and a mask ``[b, s]`` that is True where they come from ``rows``.
    """
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    real = [torch.ones(len(row), dtype=torch.bool) for row in rows]
    return pad_sequence(ids, True, pad_id, side), pad_sequence(real, True, False, side)


def _content(tokenizer: Any) -> str:
    """Returns a tokenizer's content; its name doesn't identify it, as a folder can change."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else _files(tokenizer)
    special, side = tokenizer.special_tokens_map, tokenizer.truncation_side
    return repr((type(tokenizer).__name__, vocabulary, special, side, tokenizer.chat_template))


def _files(tokenizer: Any) -> list[tuple[str, bytes]]:
    """Returns the files that a tokenizer saves, for one that is written in Python."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return [(file.name, file.read_bytes()) for file in sorted(Path(folder).iterdir())]
