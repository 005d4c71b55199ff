"""CLIP's tokenizer, for checkpoints that come without one."""

import gzip
from pathlib import Path
from typing import Any

MERGES = Path(__file__).parent / "configs/clip_merges.txt.gz"
WINDOW = 77  # tokens


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> Any:
    """CLIP's byte pair encoding (Radford et al. 2021) from the merges in the package.

    pad_token: what pads the window; OpenCLIP's encoders (that of 2.x and the second of XL) were trained with
    token 0, which is `!`.
    """
    from transformers import CLIPTokenizer

    merges = [tuple(line.split()) for line in gzip.decompress(MERGES.read_bytes()).decode().splitlines()]
    letters = byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocab = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer: Any = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=WINDOW)  # type: ignore[arg-type]
    tokenizer.pad_token = pad_token  # set here, "!" in a prompt keeps its own token
    return tokenizer


def byte_letters() -> list[str]:
    """A printable letter for each of the 256 bytes, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
