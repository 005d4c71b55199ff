"""Where the parts of a model are, and whether what is requested can be combined, before a weight is read."""

from dataclasses import replace
from pathlib import Path

from ..errors import ModelError, SettingError
from ..settings import ModelConfig
from .addons import check_files
from .families import family_of
from .flow_files import LANGUAGES, PREFIXES, FlowFiles, check_whole, find_files, with_rest
from .sources import Source, check_name, find_checkpoint, local_path
from .t5_words import T5_MARK, find_t5_words
from .vae import check_class_here, find_vae, local_vae
from .weights import shapes_in


def source_of(config: ModelConfig) -> Source:
    return find_checkpoint(
        config.model,
        revision=config.revision,
        variant=config.variant,
        offline=config.offline,
        needs="unet" if config.text_encoder else "all",
    )


def sources_of_texts(config: ModelConfig) -> list[Source]:
    needs = "words" if has_own_texts(config) else "rest"
    return [
        find_checkpoint(name, revision=None, variant=None, offline=config.offline, needs=needs)
        for name in config.text_encoder
    ]


def source_if_here(config: ModelConfig) -> Source | None:
    """Where a checkpoint is; None: not all of it is there. config: offline."""
    try:
        source, _ = source_of(config), sources_of_texts(config)
    except ModelError:
        return None
    return source


def has_own_texts(config: ModelConfig) -> bool:
    """Whether text encoders are in files: a checkpoint named too then provides only its small files."""
    if not config.text_encoder:
        return False
    model, *texts = map(local_path, (config.model, *config.text_encoder))
    if any(path is not None and path.is_file() for path in texts):
        return True
    return model is not None and model.is_file() and any(map(is_of_texts, shapes_in(model)))


def is_of_texts(key: str) -> bool:
    """Whether a tensor is one of a text encoder whose tokenizer is elsewhere."""
    own = PREFIXES.sub("", key, 1)
    return own == T5_MARK or any(mark.match(own) for mark in LANGUAGES.values())


def given_apart(config: ModelConfig) -> list[Source]:
    """Where the parts are that do not come from the checkpoint itself."""
    vae = own_vae(config)
    return [*([] if vae is None else [Source(vae)]), *sources_of_texts(config)]


def check_flow(config: ModelConfig, source: Source) -> bool:
    """Whether this is a flow-matching model. SettingError for a setting that such models do not have,
    ModelError for files that do not make up such a model."""
    family, files, of_texts = (
        family_of(config.model, source.path),
        files_of_flow(config, source),
        flow_of_texts(config),
    )
    is_whole = family is not None
    if of_texts is not None and not is_whole:
        refuse_own_parts(config, source)
        family = family_of(config.text_encoder[0], of_texts.path)
    elif files is not None:
        family = files.family
    given = {
        "OpenVINO": config.backend == "openvino",
        "--dtype int8": config.dtype == "int8",
        "--embedding": bool(config.embedding),
        "--text-encoder": bool(config.text_encoder) and is_whole,
    }
    if family is not None and (flag := next((flag for flag, is_given in given.items() if is_given), "")):
        made_for = {"--text-encoder": "a transformer in a file"}.get(flag, "1.x, 2.x and XL")
        raise SettingError(
            f"{flag} cannot be used with the flow-matching model {config.model}.",
            f"It works only with {made_for}; leave it out.",
        )
    if files is not None:
        check_whole(files, has_own_vae=config.vae is None)
        words_for(config, files)
    if family is not None and config.vae is not None:
        check_class_here(config.vae, family.vae)
    return family is not None


def refuse_own_parts(config: ModelConfig, source: Source) -> None:
    """ModelError for more than a transformer in a file, which the networks of a folder would replace."""
    if not source.path.is_file():
        raise ModelError(
            f"{config.text_encoder[0]} is a flow-matching model, and {config.model} is not a "
            "transformer file.",
            "Give a .safetensors or .gguf file with --model.",
        )
    files = find_files(config.model, source.path)
    if files is not None and (files.encoders or files.vae is not None):
        raise ModelError(
            f"{config.model} has text encoders or a VAE of its own, which those of the folder would replace.",
            "Leave --text-encoder out, or give the text encoders as files.",
        )


def flow_of_texts(config: ModelConfig) -> Source | None:
    """Where --text-encoder names a checkpoint of a flow-matching model that has all but the transformer."""
    if has_own_texts(config):
        return None
    for name, one in zip(config.text_encoder, sources_of_texts(config), strict=True):
        if family_of(name, one.path) is not None:
            return one
    return None


def places_of_texts(config: ModelConfig) -> list[tuple[str, Path]]:
    """What --text-encoder names, and where it is."""
    return [(name, one.path) for name, one in zip(config.text_encoder, sources_of_texts(config), strict=True)]


def files_of_flow(config: ModelConfig, source: Source) -> FlowFiles | None:
    """The files of a flow-matching model; None: it is of another kind, or all but the transformer is in a
    folder."""
    if not source.path.is_file() or flow_of_texts(config) is not None:
        return None
    texts = places_of_texts(config)
    files = find_files(config.model, source.path, [one for one in texts if one[1].is_file()])
    if files is None or not files.encoders.keys() & LANGUAGES:
        return files
    return with_rest(files, [one for one in texts if one[1].is_dir()])


def words_for(config: ModelConfig, files: FlowFiles) -> Path | None:
    """Where the tokenizer of T5 is, if that is among the files."""
    t5, folders = files.encoders.get("t5"), [one for one in places_of_texts(config) if one[1].is_dir()]
    if files.rest is not None:
        return None
    if len(folders) > (t5 is not None):
        raise ModelError(
            f"{folders[-1][0]} does nothing: next to text encoder files, a folder gives only the tokenizer "
            "of T5.",
            "Give t5xxl too, or leave it out." if t5 is None else "Leave it out.",
        )
    return t5 and find_t5_words(t5.name, t5.path, folders)


def own_vae(config: ModelConfig) -> Path | None:
    return None if config.vae is None else find_vae(config.vae, offline=config.offline)


def check(config: ModelConfig) -> bool | None:
    """Whether this is a flow-matching model; None: that is not known, since it has not been fetched.

    ModelError: a file is missing, or nothing can have such a name. SettingError: see `check_flow`.
    """
    check_files(config.lora, config.embedding)
    if config.vae is not None:
        local_vae(config.vae)
    for name in (config.model, *config.text_encoder):
        check_name(name)
    here = replace(config, offline=True)
    source = source_if_here(here)
    return None if source is None else check_flow(here, source)
