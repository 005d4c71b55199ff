"""The three steps of DiffEdit (Couairon et al. 2022, arXiv 2210.11427): mask, encode, decode.

Pixels and a Denoiser come in, pixels and a mask go out. `session.py` puts pictures around it.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DiffeditError
from ..settings import EditConfig, MaskConfig, require_flow, same_texts
from .ddim import decode, finish, invert, renoise, require_finite
from .detail import Detail, kept_at, recover
from .flowedit import flow_edit
from .guidance import Guidance
from .mask import MICRO_BATCH, binarise, combine, difference_maps, normalise, refine, weigh, widen
from .schedules import level_noise, make_steps, round_half_up
from .types import Denoiser, Heat, Latents, Pixels, PromptEmbeds, Report, Steps, Trajectory, silent


@dataclass(frozen=True)
class Texts:
    """The embedded prompts of an edit; each is a batch of one."""

    ref: PromptEmbeds
    query: PromptEmbeds
    negative: PromptEmbeds
    source: PromptEmbeds
    empty: PromptEmbeds

    @staticmethod
    def embed(denoiser: Denoiser, config: EditConfig) -> "Texts":
        """The source prompt, which the inversion uses, is empty as in the paper, or the reference
        (negative-prompt inversion, Miyake et al. 2023, arXiv 2305.16807), which then is the negative prompt
        too."""
        is_negative = config.encoding == "negative-prompt"
        negative = config.ref if is_negative else config.negative_prompt
        rows = denoiser.embed([config.ref, config.query, negative, config.ref if is_negative else "", ""])
        return Texts(*(rows.row(i) for i in range(5)))

    def compared(self, config: EditConfig) -> list[PromptEmbeds]:
        """Those that the search for the mask compares (see mask.difference_maps)."""
        return [self.ref, self.query, self.empty][: texts_compared(config)]


@dataclass(frozen=True)
class Areas:
    """What a user specifies of the mask, each (b 1 h w) in [0, 1]: a mask to use in place of a search, and
    areas to add to it and to keep out of it. is_grey: whether they have shades of grey (see
    MaskConfig.grey)."""

    mask: Heat | None = None
    add: Heat | None = None
    subtract: Heat | None = None
    is_grey: bool = False


NOTHING_SAID = Areas()


def texts_compared(config: EditConfig) -> int:
    """How many texts the search for the mask compares: the empty one too, if it says anything new."""
    return 3 if config.mask.evidence and config.ref and config.query else 2


def pictures_together(height: int, width: int) -> int:
    """How many pictures with this many latent rows and columns are edited at once.

    A single small one leaves most of a processor idle; from 64x64 cells on, several at once only take more
    memory.
    """
    return max(1, min(MICRO_BATCH // 2, 64 * 64 // (height * width)))


def search(
    denoiser: Denoiser,
    x0: Latents,
    texts: Texts,
    config: EditConfig,
    seeds: list[int],
    report: Report = silent,
) -> Float[Tensor, "b 3 h w"]:
    """What the noise maps of step 1 show on average: gap, gain and reach (see mask.difference_maps).

    Raises SettingError if ref and query are the same text to the model.
    """
    # horse and Horse are one text; each token by its own measure, since the first of some models is huge
    size, gap = (x.abs().amax(-1) for x in (texts.ref.tokens, texts.ref.tokens - texts.query.tokens))
    if config.ref == config.query or bool((gap <= 1e-3 * size).all()):
        raise same_texts(config)
    maps: list[torch.Tensor] = []
    report("mask", 0, config.mask.samples)
    for part in difference_maps(denoiser, x0, texts.compared(config), config.mask, seeds):
        maps.extend(part)
        report("mask", len(maps), config.mask.samples)
    shown = torch.stack(maps).mean(0)
    require_finite(shown, "the difference map")
    return shown


def find_heat(
    denoiser: Denoiser,
    pixels: Pixels,
    x0: Latents,
    texts: Texts,
    config: EditConfig,
    seeds: list[int],
    report: Report = silent,
) -> Heat:
    """Step 1: where ref and query differ and ref describes the picture, (b 1 h w) in [0, 1]. DiffeditError if
    they differ nowhere.

    x0: the pixels, encoded.
    """
    return heat_of(search(denoiser, x0, texts, config, seeds, report), pixels, config).to(x0)


def heat_of(shown: Float[Tensor, "b 3 h w"], pixels: Pixels, config: EditConfig) -> Heat:
    """The heat that a search has found: weighted by the evidence, scaled to [0, 1], aligned to the edges."""
    heat = shown[:, :1]
    if config.mask.evidence and config.ref:  # the empty text is true of every place
        heat = weigh(*shown.split(1, dim=1))
    if bool((heat.amax((1, 2, 3)) == 0).any()):
        raise DiffeditError(
            "The model sees no difference between the reference and the query, so there is no mask.",
            "Choose other words, or give a mask of your own with --mask.",
        )
    heat = normalise(heat, config.mask.clip)
    return refine(heat, pixels, round_half_up(config.mask.refine * min(heat.shape[-2:])))


def recognition(shown: Float[Tensor, "b 3 h w"], mask: Heat) -> Float[Tensor, " b"]:
    """How clearly the model sees the reference in a mask: gain / reach, each summed over the mask; at most 1.

    About 1 where the picture shows what the reference names, 0 where no text predicts the noise better, and
    negative where another one does (Li et al. 2023, arXiv 2303.16203). It costs no extra forward pass.
    """
    gain, reach = ((shown[:, [i]] * mask).sum((1, 2, 3)) for i in (1, 2))
    return (gain / reach.clamp(min=torch.finfo(torch.float32).tiny)).clamp(max=1)


def with_room(found: Heat, config: EditConfig) -> Heat:
    """A found mask with the room around it that is redrawn too; an inverted mask gets none."""
    return found if config.mask.invert else widen(found, config.room)


def encode_source(
    denoiser: Denoiser,
    x0: Latents,
    steps: Steps,
    texts: Texts,
    config: EditConfig,
    seeds: list[int],
    report: Report = silent,
) -> Trajectory:
    """Step 2: the source at every noise level, by DDIM inversion or by plain noise; FlowEdit needs none."""
    if config.encoding == "flowedit":
        return Trajectory(x0[None])
    if config.encoding == "noise":
        return renoise(x0, noise_like(x0, seeds, steps), steps)
    levels = [x0]
    report("invert", 0, len(steps))
    for latents in invert(denoiser, x0, steps, texts.source, config.reuse, config.inversion_rounds):
        levels.append(latents)
        report("invert", len(levels) - 1, len(steps))
    return Trajectory(torch.stack(levels[::-1]))


def noise_like(x0: Latents, seeds: list[int], steps: Steps) -> Float[Tensor, "n b c h w"]:
    """The noise of a run (see level_noise) for these latents."""
    _, channels, rows, columns = x0.shape
    return level_noise((channels, rows, columns), seeds, steps).to(x0)


@dataclass(frozen=True)
class Plan:
    """All that drawing an edit needs: the outcome of steps 1 and 2, and one seed per picture.

    found: the mask as it was found or given; area: found, with room around it; mask: the area with a user's
    areas added and subtracted, which is what is redrawn; heat, if the mask was searched for. All are (b 1 h
    w). recognised: how clearly the model sees the reference in a found mask (see recognition); None without
    one. by_strength: whether grey in the mask sets the strength at each place (see ddim.begun).
    """

    config: EditConfig
    seeds: list[int]
    texts: Texts
    steps: Steps
    source: Trajectory
    found: Heat
    area: Heat
    mask: Heat
    heat: Heat | None
    recognised: Float[Tensor, " b"] | None = None
    by_strength: bool = False


@dataclass(frozen=True)
class Edited:
    """An edit: the plan that it was drawn from, pixels (b 3 H W), and the detail to restore."""

    plan: Plan
    pixels: Pixels
    detail: Detail | None = None


def redraw(denoiser: Denoiser, plan: Plan, report: Report = silent) -> Pixels:
    """Step 3: decode from the noisiest level with the query, restoring the source outside the mask."""
    texts, guidance, x0 = plan.texts, plan.config.guidance, plan.source.latents[-1]
    if plan.config.encoding == "flowedit":
        pair = texts.ref, texts.query, texts.negative
        where = plan.mask, plan.seeds
        run = flow_edit(denoiser, x0, plan.steps, *pair, guidance, *where, by_strength=plan.by_strength)
    else:
        run = decode(
            denoiser,
            plan.source.latents[0],
            plan.steps,
            texts.query,
            texts.negative,
            Guidance(guidance, plan.steps, plan.config.reuse),
            plan.mask,
            plan.source,
            fresh=noise_like(x0, plan.seeds, plan.steps),
            by_strength=plan.by_strength,
        )
    return finish(denoiser, run, "decode", len(plan.steps), report)


class DiffEdit:
    """A batch of pictures, edited with any number of settings; what these share is computed once.

    The pictures are encoded once. A heat map and a trajectory are kept for all settings that need them.
    """

    def __init__(self, denoiser: Denoiser, pixels: Pixels) -> None:
        self.denoiser = denoiser
        self.pixels = pixels
        self.x0 = denoiser.encode(pixels)
        require_finite(self.x0, "the encoded picture")
        self.searches: dict[object, tuple[Float[Tensor, "b 3 h w"], Heat]] = {}
        self.sources: dict[object, Trajectory] = {}
        self.base: Pixels | None = None

    def look(
        self, config: EditConfig, texts: Texts, seeds: list[int], report: Report = silent
    ) -> tuple[Float[Tensor, "b 3 h w"], Heat]:
        """What the search of step 1 finds (see search), and its heat."""
        key = heat_key(config), *seeds
        if key not in self.searches:
            shown = search(self.denoiser, self.x0, texts, config, seeds, report)
            self.searches[key] = shown, heat_of(shown, self.pixels, config).to(self.x0)
        return self.searches[key]

    def plan(
        self, config: EditConfig, seeds: list[int], areas: Areas = NOTHING_SAID, report: Report = silent
    ) -> Plan:
        """Steps 1 and 2 for all b pictures, one seed each."""
        denoiser, heat, recognised = self.denoiser, None, None
        how = config.step_solver, config.step_spacing, (self.x0.shape[2], self.x0.shape[3])
        steps = make_steps(denoiser.schedule, config.step_count, config.ratio, *how)
        require_flow(config.encoding, is_flow=steps.target == "flow")
        texts = Texts.embed(denoiser, config)
        if areas.mask is None:
            shown, heat = self.look(config, texts, seeds, report)
            found = binarise(heat, config.mask)
            if config.ref and not config.mask.invert:
                recognised = recognition(shown, found)
            area = with_room(found, config)
        else:
            found = area = areas.mask
        key = source_key(config), *(seeds if config.encoding == "noise" else ())
        if key not in self.sources:
            self.sources[key] = encode_source(denoiser, self.x0, steps, texts, config, seeds, report)
        where = combine(area, areas.add, areas.subtract)
        source, by_strength = self.sources[key], areas.is_grey and config.mask.grey == "strength"
        return Plan(config, seeds, texts, steps, source, found, area, where, heat, recognised, by_strength)

    def edit(
        self, config: EditConfig, seeds: list[int], areas: Areas = NOTHING_SAID, report: Report = silent
    ) -> Edited:
        """Change `ref` into `query` in all b pictures, one seed each."""
        plan = self.plan(config, seeds, areas, report)
        drawn = redraw(self.denoiser, plan, report)
        if not config.keep_detail or config.mask.invert:  # the rest of a picture is redrawn as a whole
            return Edited(plan, drawn)
        if self.base is None:
            self.base = self.denoiser.decode(self.x0)
        factor = drawn.shape[-1] // plan.mask.shape[-1]
        kept = kept_at(plan.found, plan.area, factor)
        return Edited(plan, drawn, recover(drawn, self.pixels, self.base, plan.mask, kept, factor))


LATER = {  # settings of what follows the search and the source's way to noise
    key: getattr(EditConfig(), key)
    for key in (
        "negative_prompt", "zoom", "keep_detail", "per_object", "next_queries", "room", "guidance",
    )
}  # fmt: skip
OF_STEPS = {
    key: getattr(EditConfig(), key)
    for key in (
        "steps", "solver", "timestep_spacing", "strength", "inversion", "reuse", "inversion_rounds",
    )
}  # fmt: skip


def heat_key(config: EditConfig) -> EditConfig:
    """The settings, with everything that the heat map does not depend on set to a fixed value."""
    mask = MaskConfig()
    found = replace(
        config.mask,
        threshold=mask.threshold,
        grow=mask.grow,
        feather=mask.feather,
        fill_holes=mask.fill_holes,
        invert=mask.invert,
        grey=mask.grey,
    )
    return replace(config, **LATER, **OF_STEPS, mask=found)


def source_key(config: EditConfig) -> EditConfig:
    """The settings, with everything that the source's trajectory does not depend on set to a fixed value."""
    return replace(
        config,
        **LATER,
        ref=config.ref if config.encoding == "negative-prompt" else "",
        query="",
        seed=config.seed if config.encoding == "noise" else None,
        solver="lcm" if config.solver == "lcm" else "ddim",
        mask=MaskConfig(),
    )
