"""settings.py: defaults and layers, then properties over every field, then what is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_cli.errors import SettingError
from diffedit_cli.settings import (
    MAX_SEED,
    EditConfig,
    FilmConfig,
    GenerateConfig,
    GuidanceConfig,
    InterpolateConfig,
    Inversion,
    MaskConfig,
    ModelConfig,
    TalkConfig,
    build,
    filled_in,
    flatten,
    keys,
    option_name,
)

SCHEMAS = [EditConfig, FilmConfig, GenerateConfig, InterpolateConfig, ModelConfig, TalkConfig]
RANGED = [
    (schema, key, get_args(kind)[-1:] == (...,), meta["low"], meta["high"])
    for schema in (EditConfig, GenerateConfig, InterpolateConfig)
    for key, kind, meta, _ in keys(schema)
    if meta["low"] is not None
]
NEEDED = {InterpolateConfig: {"prompts": ("a", "b")}}
LOOSE = {"guidance_scale", "guidance_end"}  # their limits depend on others as well


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        (GuidanceConfig(), 7.5),
        (GuidanceConfig(norm="pred"), 7.5),
        (GuidanceConfig(norm="cond"), 7.5),
        (GuidanceConfig(norm="diff"), 0.15),
        (GuidanceConfig(norm="both"), 0.15),
        (GuidanceConfig(method="apg"), 7.5),
        (GuidanceConfig(method="cfg++"), 0.6),
        (GuidanceConfig(norm="diff", scale=0.3), 0.3),
        (GuidanceConfig(scale=0), 0),
    ],
)
def test_the_scale_is_the_usual_one_unless_given(config: GuidanceConfig, scale: float) -> None:
    assert config.base_scale == scale


def test_the_interval_is_two_fractions() -> None:
    assert GuidanceConfig(interval="0.2:0.8").bounds() == (0.2, 0.8)


def test_groups_are_flattened_with_their_name() -> None:
    flat = flatten(EditConfig(query="zebra", mask=MaskConfig(strength=(0.3, 0.5))))
    assert flat["query"] == "zebra"
    assert flat["mask_strength"] == [0.3, 0.5]
    assert flat["guidance_scale"] is None
    assert list(flat) == [key for key, *_ in keys(EditConfig)]


def test_later_layers_go_before_earlier_ones() -> None:
    config = build(EditConfig, {"steps": 10, "mask_grow": 3}, {"steps": 20}, {"ref": "horse"})
    assert config == EditConfig(steps=20, ref="horse", mask=MaskConfig(grow=3))


def test_option_name() -> None:
    assert option_name("mask_fill_holes") == "--mask-fill-holes"


def test_settings_need_no_torch() -> None:
    code = "import sys, diffedit_cli.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_setting_has_help_and_a_default_in_its_range(schema: type) -> None:
    for key, _, meta, default in keys(schema):
        assert meta["help"].endswith("."), key
        values = default if isinstance(default, tuple) else (default,)
        if meta["low"] is not None:
            assert all(value is None or meta["low"] <= value <= meta["high"] for value in values), key


@pytest.mark.parametrize("schema", [EditConfig, GenerateConfig, InterpolateConfig])
def test_no_flag_is_used_twice(schema: type) -> None:
    flags = [
        flag
        for part in (schema, ModelConfig, TalkConfig)
        for key, _, meta, _ in keys(part)
        for flag in {option_name(key), *meta["flags"]}
    ]
    assert len(flags) == len(set(flags))


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
guidances = st.builds(
    GuidanceConfig,
    scale=st.none() | st.floats(0, 100),
    schedule=st.sampled_from(["constant", "linear-down", "cosine-down", "linear-up"]),
    end=st.floats(0, 100),
    interval=st.sampled_from(["0:1", "0.2:0.8"]),
    norm=st.sampled_from(["none", "pred", "cond"]),
    rescale=st.floats(0, 1),
)
masks = st.builds(
    MaskConfig,
    threshold=st.floats(0, 1),
    strength=st.lists(st.floats(0.02, 1), min_size=1, max_size=3).map(tuple),
    samples=st.integers(1, 1000),
    grow=st.integers(-64, 64),
    feather=st.floats(0, 256),
    fill_holes=st.booleans(),
    evidence=st.booleans(),
    invert=st.booleans(),
)
edits = st.builds(
    EditConfig,
    ref=words,
    query=words,
    steps=st.integers(1, 1000),
    strength=st.floats(0.01, 1),
    seed=st.none() | st.integers(0, MAX_SEED),
    inversion=st.sampled_from([one for one in get_args(Inversion) if one != "flowedit"]),
    size=st.none() | st.integers(32, 4096),
    guidance=guidances,
    mask=masks,
)
interpolations = st.builds(
    InterpolateConfig,
    prompts=st.lists(words, min_size=2, max_size=4).map(tuple),
    seed=st.lists(st.integers(0, MAX_SEED), max_size=1).map(tuple),
    chain=st.none() | st.floats(0.01, 1),
    guidance=guidances,
)


@given(edits | interpolations)
def test_a_config_comes_back_from_json(config: Any) -> None:
    assert build(type(config), json.loads(json.dumps(flatten(config)))) == config


@pytest.mark.parametrize(("schema", "key", "is_many", "low", "high"), RANGED)
def test_ranges_are_closed(schema: type, key: str, is_many: bool, low: float, high: float) -> None:
    def config(value: Any) -> Any:
        return build(schema, NEEDED.get(schema, {}), {key: [value] if is_many else value})

    for value in (low, high):
        assert flatten(config(value))[key] == ([value] if is_many else value)
    for value in (low - 1, high + 1, float("nan"), float("inf"), "5", True):
        with pytest.raises(SettingError, match=option_name(key)):
            config(value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"method": "cfg++", "norm": "pred"}, "--guidance-norm pred"),
        ({"method": "apg", "rescale": 0.5}, "--guidance-rescale"),
        ({"method": "cfg++", "rescale": 0.5}, "--guidance-rescale"),
        ({"norm": "diff", "scale": 7.5}, "0.15 is usual"),
        ({"norm": "both", "scale": 1.01}, "too large"),
        ({"norm": "diff", "schedule": "linear-down"}, "--guidance-end 1 is above"),
        ({"method": "cfg++", "scale": 7.5}, "between 0 and 1"),
        ({"method": "cfg++", "schedule": "linear-down"}, "--guidance-schedule"),
        ({"method": "magic"}, "Choose auto, cfg, apg, cfg"),
        *(({"interval": text}, "not an interval") for text in ("", "0", "a:b", "0.8:0.2", "0:1.1", "-1:1")),
        *(({"interval": text}, "not an interval") for text in ("nan:1", "0:0", "0:0.5:1")),
    ],
)
def test_guidance_that_makes_no_sense_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        GuidanceConfig(**values)
    assert caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("schema", "values", "words"),
    [
        (EditConfig, {"strength": 0}, "--strength 0 is out of range"),  # diffusers: an IndexError
        (EditConfig, {"inversion": "negative-prompt", "negative_prompt": "blur"}, "--negative-prompt"),
        (EditConfig, {"mask_strength": []}, "at least one"),
        (EditConfig, {"mask_strength": 0.5}, "--mask-strength"),
        (EditConfig, {"mask_strenght": 0.5}, "Did you mean mask_strength"),
        (EditConfig, {"xyz": 1}, "The settings are: ref, query"),
        (EditConfig, {"ref": 5}, "It takes text"),
        (EditConfig, {"steps": 2.5}, "It takes a whole number"),
        (EditConfig, {"mask_fill_holes": 1}, "It takes true or false"),
        (EditConfig, {"steps": [1, 2]}, "It takes one value"),
        (EditConfig, {"query": "caf\udce9"}, "is not valid text"),
        (EditConfig, {"query": "a\0b"}, "is not valid text"),
        (EditConfig, {"steps": 10**5000}, "a huge int is out of range"),
        (EditConfig, {"solver": "x" * 5000}, r"--solver cannot be x{60}\.\.\."),
        (InterpolateConfig, {"prompts": ["one"]}, "at least two prompts"),
        (InterpolateConfig, {"prompts": "one"}, "--prompts"),
        (InterpolateConfig, {"prompts": ["a", "b", "c"], "seed": [1, 2]}, "2 seeds do not match 3 prompts"),
        (InterpolateConfig, {"prompts": ["a", "b"], "loop": True, "chain": 0.5}, "--loop"),
    ],
)
def test_other_settings_that_are_refused(schema: type, values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        build(schema, values)


@pytest.mark.parametrize("strength", [0.5, [0.5]])
def test_many_values_are_a_tuple_in_the_python_api(strength: Any) -> None:
    with pytest.raises(SettingError, match="--mask-strength"):
        MaskConfig(strength=strength)


def test_a_changed_copy_is_checked_too() -> None:
    with pytest.raises(SettingError):
        replace(EditConfig(), steps=0)


def test_a_models_own_defaults_stand_where_no_setting_is_given() -> None:
    own = {"strength": 1.0, "guidance_scale": 3.0}
    config = filled_in(EditConfig(query="zebra"), own)
    assert (config.strength, config.guidance.scale) == (1.0, 3.0)
    assert filled_in(config, {}) == config
    given = EditConfig(strength=0.5, guidance=GuidanceConfig(scale=2.0))
    kept = filled_in(given, own)
    assert (kept.strength, kept.guidance.scale, kept.guidance.norm) == (0.5, 2.0, "none")
    usual, empty = filled_in(EditConfig(), {}), EditConfig()
    assert usual.guidance.norm == "none"
    steps = usual.steps, usual.solver, usual.timestep_spacing, usual.inversion
    assert steps == (empty.step_count, empty.step_solver, empty.step_spacing, empty.encoding)
    assert steps == (25, "ddim", "scheduler", "ddim")
    assert (usual.strength, usual.guidance.scale) == (empty.ratio, empty.guidance.base_scale) == (0.8, 7.5)
    assert filled_in(GenerateConfig(), own).guidance.scale == 3.0
    tokens = {"guidance_norm": "token"}
    assert filled_in(EditConfig(), tokens).guidance.norm == "token"
    for norm, more in (("none", {}), ("pred", {}), ("auto", {"method": "apg"})):
        filled = filled_in(EditConfig(guidance=GuidanceConfig(norm=norm, **more)), tokens)
        assert filled.guidance.norm == ("pred" if norm == "pred" else "none")
    assert filled_in(EditConfig(inversion="flowedit"), tokens).guidance.norm == "none"
    for other in (GuidanceConfig(norm="diff"), GuidanceConfig(norm="both"), GuidanceConfig(method="cfg++")):
        assert filled_in(EditConfig(guidance=other), own).guidance.scale == other.base_scale < 1
