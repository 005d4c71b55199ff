"""Where the parts of a model are, and whether what is asked for goes together, before a weight is read."""

from dataclasses import replace
from pathlib import Path

from ..errors import ModelError, SettingError
from ..settings import ModelConfig
from .addons import check_files
from .families import family_of, refuse_other_tasks
from .sources import Source, check_name, find_checkpoint
from .vae import find_vae


def source_of(config: ModelConfig) -> Source:
    return find_checkpoint(
        config.model,
        revision=config.revision,
        variant=config.variant,
        offline=config.offline,
        needs="unet" if config.text_encoder else "all",
    )


def sources_of_texts(config: ModelConfig) -> list[Source]:
    return [
        find_checkpoint(name, revision=None, variant=None, offline=config.offline, needs="rest")
        for name in config.text_encoder
    ]


def given_apart(config: ModelConfig) -> list[Source]:
    """Where the parts are that do not come from the checkpoint."""
    vae = own_vae(config)
    return [*([] if vae is None else [Source(vae)]), *sources_of_texts(config)]


def check_flow(config: ModelConfig, source: Source) -> bool:
    """Whether this is a flow-matching model. SettingError for a setting that such models do not have."""
    is_whole = family_of(config.model, source.path) is not None
    of_texts = flow_of_texts(config)
    is_flow = is_whole or of_texts is not None
    if of_texts is not None and (family := family_of(config.text_encoder[0], of_texts.path)) is not None:
        refuse_other_tasks(config.model, family)
    given = {
        "OpenVINO": config.backend == "openvino",
        "--dtype int8": config.dtype == "int8",
        "--embedding": bool(config.embedding),
        "--text-encoder": bool(config.text_encoder) and is_whole,
        "--vae": config.vae is not None,
    }
    if is_flow and (flag := next((flag for flag, is_given in given.items() if is_given), "")):
        raise SettingError(
            f"{flag} cannot be used with the flow-matching model {config.model}.",
            "It is made for Stable Diffusion 1.x, 2.x and XL; leave it out.",
        )
    return is_flow


def flow_of_texts(config: ModelConfig) -> Source | None:
    """Where --text-encoder names a checkpoint of a flow-matching model."""
    for name, one in zip(config.text_encoder, sources_of_texts(config), strict=True):
        if family_of(name, one.path) is not None:
            return one
    return None


def own_vae(config: ModelConfig) -> Path | None:
    return None if config.vae is None else find_vae(config.vae, offline=config.offline)


def check(config: ModelConfig) -> bool | None:
    """Whether this is a flow-matching model; None: that is not known, since it has not been fetched.

    ModelError: a file is missing, or no checkpoint can have such a name. SettingError: see `check_flow`.
    """
    check_files(config.lora, config.embedding)
    for name in (config.model, *config.text_encoder):
        check_name(name)
    here = replace(config, offline=True)
    try:
        source, _ = source_of(here), sources_of_texts(here)
    except ModelError:
        return None
    return check_flow(here, source)
