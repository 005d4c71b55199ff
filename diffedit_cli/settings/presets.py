"""Several settings under one flag: what --fast and --paper stand for."""

from collections.abc import Mapping
from typing import Any

FAST: Mapping[str, Any] = {"steps": 12, "mask_samples": 3, "guidance_interval": "0:0.5"}  # see docs/speed.md

# DiffEdit as published (Couairon et al. 2022, arXiv 2210.11427), with the steps, the encoding ratio and the
# guidance scale of diffusers' StableDiffusionDiffEditPipeline; see docs/math.md.
PAPER: Mapping[str, Any] = {
    "steps": 50,
    "solver": "ddim",
    "timestep_spacing": "scheduler",
    "strength": 0.8,
    "inversion": "ddim",
    "inversion_rounds": 0,
    "reuse": 1,
    "zoom": False,
    "keep_detail": False,
    "guidance_scale": 7.5,
    "guidance_schedule": "constant",
    "guidance_interval": "0:1",
    "guidance_norm": "none",
    "guidance_rescale": 0,
    "guidance_method": "auto",
    "mask_threshold": 0.5,
    "mask_strength": [0.5],
    "mask_samples": 10,
    "mask_evidence": False,
    "mask_refine": 0,
    "mask_grow": 0,
    "mask_fill_holes": False,
    "room": 0,
}
PRESETS = {"fast": FAST, "paper": PAPER}


def keeps_steps(own: Mapping[str, Any]) -> bool:
    """Whether a model's own steps (models.own_defaults) are fewer than those of --fast, and are kept."""
    return own.get("steps", FAST["steps"]) < FAST["steps"]
