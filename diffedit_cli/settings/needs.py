"""What an edit needs before it can begin."""

from ..errors import SettingError
from .fields import shown
from .schema import EditConfig


def queries_of(config: EditConfig, count: int) -> list[str]:
    """What replaces each of `count` objects, the largest first: the last query applies to all that remain."""
    queries = config.query, *config.next_queries
    return [queries[min(number, len(queries) - 1)] for number in range(count)]


def require_query(config: EditConfig) -> None:
    """SettingError if there is no query to search for the mask with, or if it equals the reference."""
    if not config.query.strip():
        raise SettingError(
            "There is no query.", "Say with --query what to put there, for example --query zebra."
        )
    require_difference(config)


def require_difference(config: EditConfig) -> None:
    """SettingError if the reference and the query are the same."""
    if config.ref == config.query:
        raise same_texts(config)


def same_texts(config: EditConfig) -> SettingError:
    text = shown(config.ref, bare=True) or "both empty"
    return SettingError(
        f"The reference and the query are the same ({text}), so nothing would change.",
        "Say with --ref what is there now and with --query what to put there instead.",
    )


def require_flow(inversion: str, *, is_flow: bool) -> None:
    """SettingError if the inversion needs a flow-matching model and this is not one."""
    if inversion == "flowedit" and not is_flow:
        raise SettingError(
            "--inversion flowedit needs a flow-matching model.",
            "Use Stable Diffusion 3, FLUX.1, FLUX.2 klein, Chroma, Qwen-Image or Z-Image with it.",
        )


def require_own_levels(spacing: str) -> None:
    """SettingError for timesteps that a flow-matching model does not have."""
    if spacing != "scheduler":
        raise SettingError(
            f"--timestep-spacing {spacing} cannot be used with a flow-matching model.",
            "Its noise levels come from its own scheduler; leave that flag out.",
        )


def require_way_back(config: EditConfig) -> None:
    """SettingError if no film can lead to the edit, which takes the inversion of a single edit."""
    if config.per_object:
        raise SettingError(
            "A film cannot be made with --per-object.",
            "It shows one edit; edit one object at a time, with a --mask of it.",
        )
    if config.encoding == "flowedit":
        raise SettingError(
            "A film cannot be made with --inversion flowedit.",
            "It has no way back to the picture; use ddim or negative-prompt.",
        )
    if config.encoding == "noise":
        raise SettingError(
            "A film cannot be made with --inversion noise.",
            "Plain noise does not lead back to the picture; use --inversion ddim and --solver ddim."
            if config.solver == "lcm"
            else "Plain noise does not lead back to the picture; use ddim or negative-prompt.",
        )
