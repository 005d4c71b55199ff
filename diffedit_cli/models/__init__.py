"""Checkpoints: the only package that imports diffusers and transformers.

They come from the package, a folder, a file or the Hub (sources, presets), are checked before a weight is
read (layout, weights), loaded (parts, single_file), and run as a `DiffusersDenoiser` (denoiser). Only
safetensors and GGUF files are read, and no code in a checkpoint is ever run.
"""

from .catalogue import catalogue, describe, few_steps, own_defaults, own_words
from .converted import Converted, converted_networks, remove_converted
from .denoiser import DiffusersDenoiser, sibling_of, words_not_in
from .foreseen import Foreseen, check_parts, foresee
from .given import check
from .load import backend_of, load_model, optimize, pull
from .parts import known_words
from .sources import EMBEDDED, check_name

__all__ = [
    "EMBEDDED",
    "Converted",
    "DiffusersDenoiser",
    "Foreseen",
    "backend_of",
    "catalogue",
    "check",
    "check_name",
    "check_parts",
    "converted_networks",
    "describe",
    "few_steps",
    "foresee",
    "known_words",
    "load_model",
    "optimize",
    "own_defaults",
    "own_words",
    "pull",
    "remove_converted",
    "sibling_of",
    "words_not_in",
]
