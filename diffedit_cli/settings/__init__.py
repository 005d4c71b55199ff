"""The settings: how one is declared (fields.py), and which there are (groups.py, schema.py)."""
# pyright: reportUnusedImport=false

from .fields import build, check_setting, flatten, keys, option_name, read_lists, unknown_setting
from .filled import filled_in
from .groups import GuidanceConfig, GuidanceSchedule, MaskConfig
from .idle import idle_film, idle_settings, without_idle
from .model import ModelConfig, public_name
from .needs import (
    queries_of,
    require_difference,
    require_flow,
    require_own_levels,
    require_query,
    require_way_back,
    same_texts,
)
from .presets import FAST, PAPER, PRESETS, keeps_steps
from .remove import RemoveConfig, require_object
from .sampling import MAX_SEED, Solver, TimestepSpacing
from .schema import (
    SCHEMAS,
    Easing,
    EditConfig,
    FilmConfig,
    GenerateConfig,
    InterpolateConfig,
    Inversion,
    MergeConfig,
    TalkConfig,
)
