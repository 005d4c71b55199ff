"""A tokenizer without transformers, whose import takes longer than an edit of a small picture."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch


class PlainTokenizer:
    """CLIP's tokenizer from a file of the package tokenizers, called as that of transformers is.

    model_max_length: the window, in tokens. pad: the token that fills it.
    """

    def __init__(self, file: Path, model_max_length: int, pad: int) -> None:
        from tokenizers import Tokenizer

        self.tokenizer: Any = Tokenizer.from_file(str(file))
        self.model_max_length, self.pad = model_max_length, pad

    def __call__(self, texts: str | Sequence[str], *, max_length: int | None = None, **_: Any) -> Any:
        """input_ids: the tokens of one text, or those of several (b max_length), cut or filled up."""
        if isinstance(texts, str):
            return SimpleNamespace(input_ids=self.tokenizer.encode(texts).ids)
        window = max_length or self.model_max_length
        found = [line.ids for line in self.tokenizer.encode_batch(list(texts))]
        cut = [ids if len(ids) <= window else [*ids[: window - 1], ids[-1]] for ids in found]
        return SimpleNamespace(
            input_ids=torch.tensor([ids + [self.pad] * (window - len(ids)) for ids in cut])
        )
