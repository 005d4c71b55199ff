"""A CLIP tokenizer in Stable Diffusion's layout whose merges make one token of each caption word."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

TOKENS = 24  # length of a prompt in tokens


def write_tokenizer(words: list[str], folder: Path) -> None:
    """Write vocab.json and merges.txt for `words`; any other word falls back to shorter pieces.

    This is plain byte-pair training: merge the commonest pair until each word is one token. Merging each
    word from the left alone would split words that share a beginning.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = byte_alphabet()
    tokens = alphabet + [character + "</w>" for character in alphabet]
    known = set(tokens)
    merges: list[tuple[str, str]] = []
    split = [[*word[:-1], word[-1] + "</w>"] for word in sorted(words)]
    while any(len(pieces) > 1 for pieces in split):
        pairs = Counter(pair for pieces in split for pair in pairwise(pieces))
        best = max(sorted(pairs), key=lambda pair: pairs[pair])
        merges.append(best)
        if (joined := "".join(best)) not in known:
            known.add(joined)
            tokens.append(joined)
        split = [merge_pair(pieces, best) for pieces in split]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    save_fast_tokenizer(folder)


def merge_pair(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """Join every occurrence of `pair`, from the left."""
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def byte_alphabet() -> list[str]:
    """CLIP's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + index for index in range(256 - len(printable))]
    return [chr(code) for code in printable + others]


def save_fast_tokenizer(folder: Path) -> None:
    """Add tokenizer.json and tokenizer_config.json next to vocab.json and merges.txt."""
    files = {"vocab": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}
    CLIPTokenizer(**files, model_max_length=TOKENS).save_pretrained(folder)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer in `folder`."""
    return CLIPTokenizer.from_pretrained(folder)
