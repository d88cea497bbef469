"""Converts a merged model to CTranslate2, and checks that it still writes the same texts.

    pip install "ctranslate2>=4.8,<5"
    python scripts/to_ctranslate2.py runs/demo/version_0/merged models/demo-ct2 \
        --prompts runs/demo/version_0/test/comparison.jsonl

CTranslate2 runs a model on CPUs and GPUs without PyTorch. The script reads a folder that
`--export.merged true` wrote, an encoder-decoder's or a decoder-only model's. It lets transformers
and CTranslate2 answer the same prompts greedily, and prints on how many texts they agree, how far
the texts' log-probabilities differ, both sizes and both speeds. With --quantization int8 the folder
is about a quarter as large, and some texts differ. The exit code is 1 if a text differs without
quantization.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

BATCH_SIZE = 16


class Answers(NamedTuple):
    """Greedy answers to all prompts.

    Attributes:
        ids: Their token ids, without the one that ends a text.
        logprobs: The log-probability of each text, its end included.
        seconds: How long it took.
    """

    ids: list[list[int]]
    logprobs: list[float]
    seconds: float


def main() -> None:
    """Converts, and prints what the check found."""
    args = read_arguments()
    file = args.prompts.open(encoding="utf8")
    prompts = list(dict.fromkeys(json.loads(line)["prompt"] for line in file))[: args.rows]
    convert(args.merged, args.folder, args.quantization)

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.merged, padding_side="left")
    rows = tokenizer(prompts).input_ids
    ours = ask_transformers(args.merged, tokenizer, rows, args.max_new_tokens)
    theirs = ask_ctranslate2(args.merged, args.folder, tokenizer, rows, args.max_new_tokens)

    pairs = list(zip(ours.ids, theirs.ids, strict=True))
    same = [one == other for one, other in pairs]
    print(f"{sum(same)} of {len(same)} greedy texts are the same")
    logprobs = zip(ours.logprobs, theirs.logprobs, same, strict=True)
    largest = max((abs(one - other) for one, other, is_same in logprobs if is_same), default=0)
    print(f"their log-probabilities differ by at most {largest:.1e}")
    for name, folder, answers in (
        ("transformers", args.merged, ours),
        ("CTranslate2", args.folder, theirs),
    ):
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        speed = sum(map(len, answers.ids)) / answers.seconds
        print(f"{name}: {size:.1f} MB, {speed:,.0f} tokens per second")
    if not all(same):
        for name, ids in zip(
            ("transformers", "CTranslate2"), pairs[same.index(False)], strict=True
        ):
            print(f"{name}: {tokenizer.decode(ids)}")
        raise SystemExit(args.quantization is None)


def read_arguments() -> argparse.Namespace:
    """Reads the command line; refuses what can't work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("merged", type=Path, help="folder of the merged model")
    parser.add_argument("folder", type=Path, help="the new folder")
    parser.add_argument(
        "--prompts", type=Path, required=True, help="JSONL file with a column prompt"
    )
    parser.add_argument("--quantization", choices=["int8", "int8_float16", "float16", "bfloat16"])
    parser.add_argument("--max_new_tokens", type=int, default=60)
    parser.add_argument("--rows", type=int, default=200, help="how many prompts are tried")
    args = parser.parse_args()
    if args.folder.exists():
        parser.error(f"{args.folder} is there already; remove it, or name another")
    if not (args.merged / "config.json").is_file():
        parser.error(f"{args.merged} has no config.json: give a folder of --export.merged true")
    try:
        import ctranslate2  # noqa: F401
    except ImportError:
        parser.error('the package is missing: pip install "ctranslate2>=4.8,<5"')
    return args


def convert(merged: Path, folder: Path, quantization: str | None) -> None:
    """Writes a model in CTranslate2's format, with two details of T5 that its converter misses."""
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoConfig

    class Converter(TransformersConverter):
        def load_model(self, *args: Any, **kwargs: Any) -> Any:
            """Opens the model, and says whether T5 scales its logits.

            The converter takes that from ``tie_word_embeddings``, which transformers 5 sets for
            every T5. FLAN-T5 would sample as if the temperature were √d_model.
            """
            model = super().load_model(*args, **kwargs)
            if hasattr(model.config, "scale_decoder_outputs"):
                model.config.tie_word_embeddings = model.config.scale_decoder_outputs
            return model

    Converter(str(merged)).convert(str(folder), quantization=quantization)
    file = folder / "config.json"
    config = json.loads(file.read_text("utf8"))
    if config.get("layer_norm_epsilon") is None:  # CTranslate2 would take 1e-5; T5 has 1e-6
        model_config = AutoConfig.from_pretrained(merged)
        config["layer_norm_epsilon"] = getattr(model_config, "layer_norm_epsilon", None)
        file.write_text(json.dumps(config, indent=2), "utf8")


def ask_transformers(folder: Path, tokenizer: Any, rows: list[list[int]], limit: int) -> Answers:
    """Answers prompts, given as token ids, by ``generate``."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    is_seq2seq = AutoConfig.from_pretrained(folder).is_encoder_decoder
    opened_by = AutoModelForSeq2SeqLM if is_seq2seq else AutoModelForCausalLM
    model = opened_by.from_pretrained(folder, dtype=torch.float32).eval()
    ends = end_tokens(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    options = {"max_new_tokens": limit, "do_sample": False, "num_beams": 1}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    ids, logprobs, began = [], [], time.perf_counter()
    for i in range(0, len(rows), BATCH_SIZE):
        batch = tokenizer.pad({"input_ids": rows[i : i + BATCH_SIZE]}, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**batch, **options)
            scores = model.compute_transition_scores(
                output.sequences, output.logits, normalize_logits=True
            )
        for answer, score in zip(output.sequences[:, -scores.shape[1] :], scores, strict=True):
            ids.append(before_end(answer.tolist(), ends))
            logprobs.append(float(score[: len(ids[-1]) + 1].sum()))
    return Answers(ids, logprobs, time.perf_counter() - began)


def ask_ctranslate2(
    merged: Path, folder: Path, tokenizer: Any, rows: list[list[int]], limit: int
) -> Answers:
    """Answers prompts, given as token ids, by CTranslate2."""
    import ctranslate2

    prompts = [tokenizer.convert_ids_to_tokens(row) for row in rows]
    options = {"max_batch_size": BATCH_SIZE, "beam_size": 1, "return_scores": True}
    options |= {"length_penalty": 0}  # the score is the log-probability, not its mean
    is_seq2seq = json.loads((merged / "config.json").read_text("utf8")).get("is_encoder_decoder")
    began = time.perf_counter()
    if is_seq2seq:
        translator = ctranslate2.Translator(str(folder))
        results = translator.translate_batch(
            prompts, min_decoding_length=0, max_decoding_length=limit, **options
        )
        answers = [result.hypotheses[0] for result in results]
    else:
        generator = ctranslate2.Generator(str(folder))
        options["include_prompt_in_result"] = False
        results = generator.generate_batch(prompts, min_length=0, max_length=limit, **options)
        answers = [result.sequences[0] for result in results]
    seconds, ends = time.perf_counter() - began, end_tokens(merged)
    ids = [before_end(tokenizer.convert_tokens_to_ids(answer), ends) for answer in answers]
    return Answers(ids, [result.scores[0] for result in results], seconds)


def end_tokens(folder: Path) -> set[int]:
    """Returns the tokens that end a model's texts."""
    from transformers import GenerationConfig

    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    return set(ends) if isinstance(ends, list) else {ends}


def before_end(answer: list[int], ends: set[int]) -> list[int]:
    """Returns the tokens before the first one that ends the text."""
    return answer[: next((i for i, token in enumerate(answer) if token in ends), len(answer))]


if __name__ == "__main__":
    main()
