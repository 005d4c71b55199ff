"""The settings of `diffedit remove`: those of an edit that apply there, with defaults of their own."""

from dataclasses import dataclass, field, fields, replace

from ..errors import SettingError
from .fields import setting, validate
from .groups import GuidanceConfig, MaskConfig
from .sampling import SEED, SIZE, SOLVER, STEPS, TIMESTEP_SPACING, ZOOM, Sampled, Solver, TimestepSpacing
from .schema import EditConfig


@dataclass(frozen=True)
class RemoveConfig(Sampled):
    """Everything that `diffedit remove` needs besides the picture and the model."""

    ref: str = setting("", "What to remove, for example horse. May be left out with --mask.", panel="Text")
    place: str = setting("", "The place without it, for example meadow. May be left out.", panel="Text")
    steps: int | None = STEPS
    solver: Solver = SOLVER
    timestep_spacing: TimestepSpacing = TIMESTEP_SPACING
    strength: float = setting(
        0.6,
        "How much noise is added to the smooth filling before it is redrawn, as a share of the steps. Higher "
        "values invent more; near 0 the filling stays smooth.",
        low=0.01,
        high=1,
    )
    seed: int | None = SEED
    size: int | None = SIZE
    zoom: bool | None = ZOOM
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    room: float = setting(
        0.08,
        "Room: the width of a margin around the mask that is redrawn too, for the object's outline and "
        "shadow; as a share of the square root of the mask's area. Not used with --mask.",
        low=0,
        high=4,
        panel="Mask",
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.mask.invert:
            raise SettingError(
                "--mask-invert cannot be used to remove an object.",
                "White in a mask is what is removed; invert the mask itself.",
            )
        self.as_edit()

    def as_edit(self) -> EditConfig:
        """The edit that fills the hole: the place in it, from plain noise, and away from what was there.

        The detail of the picture belongs to the object, so none of it is kept.
        """
        shared = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "place"}
        return EditConfig(
            **shared, query=self.place, negative_prompt=self.ref, inversion="noise", keep_detail=False
        )

    def as_search(self, sibling: str) -> EditConfig:
        """The edit whose search finds the object: compared with a similar one (its sibling), or with none."""
        return replace(self.as_edit(), query=sibling)


def require_object(config: RemoveConfig, *, has_mask: bool) -> None:
    """SettingError if it is not clear what to remove, or if the place is the object to remove."""
    if not (config.ref.strip() or has_mask):
        raise SettingError(
            "It is not clear what to remove.",
            "Name it with --ref, for example --ref horse, or give a --mask.",
        )
    if config.ref.strip() and config.ref.strip().lower() == config.place.strip().lower():
        raise SettingError(
            f"--place is {config.place}, which is what is to be removed.",
            "Name what is behind it, for example --place meadow, or leave it out.",
        )
