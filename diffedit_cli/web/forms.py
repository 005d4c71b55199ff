"""The settings as the page's forms are made from: the schema in plain values. Imports nothing heavy."""

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from ..settings import (
    FAST,
    EditConfig,
    FilmConfig,
    GenerateConfig,
    InterpolateConfig,
    RemoveConfig,
    keys,
    option_name,
)

FORMS: Mapping[str, type] = {
    "edit": EditConfig,
    "remove": RemoveConfig,
    "generate": GenerateConfig,
    "film": FilmConfig,
    "interpolate": InterpolateConfig,
}


def forms(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Every form, a list of fields each, and the settings of --fast. kept: what the user has configured."""
    fields = {name: [form_field(*item, kept) for item in keys(schema)] for name, schema in FORMS.items()}
    return {"fields": fields, "fast": dict(FAST)}


def form_field(
    key: str, kind: Any, metadata: Mapping[str, Any], default: Any, kept: Mapping[str, Any]
) -> dict[str, Any]:
    """One setting. type: text, number, integer, switch or choice; is_list and may_be_empty qualify it."""
    types = get_args(kind) or (kind,)
    is_choice = get_origin(kind) is Literal
    own = kept.get(key, default)
    return {
        "key": key,
        "flag": option_name(key),
        "type": "choice" if is_choice else type_of(types),
        "choices": list(types) if is_choice else [],
        "is_list": get_origin(kind) is tuple,
        "may_be_empty": type(None) in types,
        "low": metadata["low"],
        "high": metadata["high"],
        "default": list(own) if isinstance(own, tuple) else own,
        "help": metadata["help"],
        "panel": metadata["panel"],
    }


def type_of(types: tuple[Any, ...]) -> str:
    names = {bool: "switch", int: "integer", float: "number"}
    return next((name for kind, name in names.items() if kind in types), "text")
