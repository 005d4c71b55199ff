"""The three steps of DiffEdit (Couairon et al. 2022, arXiv 2210.11427): mask, encode, decode.

Pure torch: pixels and a Denoiser come in, pixels and a mask go out. `editing.py` puts pictures round it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float

from .ddim import decode, finish, invert, renoise, require_finite
from .errors import DiffeditError
from .guidance import Guidance, forwards_per_run
from .mask import MICRO_BATCH, binarise, combine, difference_maps, normalise, refine, weigh, widen
from .schedules import add_noise, draw_noise, make_steps, round_half_up, thinned
from .settings import EditConfig, GuidanceConfig, MaskConfig, same_texts
from .types import Denoiser, Heat, Latents, Pixels, PromptEmbeds, Report, Steps, Trajectory, silent


@dataclass(frozen=True)
class Texts:
    """The prompts of an edit, embedded; each a batch of one."""

    ref: PromptEmbeds
    query: PromptEmbeds
    negative: PromptEmbeds
    source: PromptEmbeds
    empty: PromptEmbeds

    @staticmethod
    def embed(denoiser: Denoiser, config: EditConfig) -> "Texts":
        """The source prompt, that the inversion runs under, is empty as in the paper, or the reference
        (negative-prompt inversion, Miyake et al. 2023, arXiv 2305.16807), which then is the negative too."""
        is_negative = config.inversion == "negative-prompt"
        negative = config.ref if is_negative else config.negative_prompt
        rows = denoiser.embed([config.ref, config.query, negative, config.ref if is_negative else "", ""])
        return Texts(*(rows.row(i) for i in range(5)))

    def compared(self, config: EditConfig) -> list[PromptEmbeds]:
        """Those that the search for the mask compares (see mask.difference_maps)."""
        return [self.ref, self.query, self.empty][: texts_compared(config)]


@dataclass(frozen=True)
class Areas:
    """What a user says of the mask, each (b 1 h w) in [0, 1]: a mask to use in place of a search, and areas
    to add to it and to keep out of it."""

    mask: Heat | None = None
    add: Heat | None = None
    subtract: Heat | None = None


NOTHING_SAID = Areas()
SKETCH_STEPS = 8  # of a sketch, at most
# How likeness compares texts: at so much noise that whole shapes count, and not scraps.
LIKENESS = MaskConfig(strength=(0.7, 0.8), samples=6)
TRY_NOISE = 2000  # the noise of try k has this index plus k: beyond those of all maps


@dataclass(frozen=True)
class Edited:
    """What an edit gives: pixels (b 3 H W); found, the mask as it was found or given; area, what was redrawn:
    found with room round it, before a user's areas are added and taken away; heat, if the mask was searched
    for. The last three are (b 1 h w)."""

    pixels: Pixels
    found: Heat
    area: Heat
    heat: Heat | None

    def row(self, row: int) -> "Edited":
        """One picture's part, as a batch of one."""
        one = slice(row, row + 1)
        heat = None if self.heat is None else self.heat[one]
        return Edited(self.pixels[one], self.found[one], self.area[one], heat)


def texts_compared(config: EditConfig) -> int:
    """How many texts the search for the mask compares: the empty one too, if it says anything new."""
    return 3 if config.mask.evidence and config.ref and config.query else 2


def tries_of(config: EditConfig) -> int:
    """How many tries an edit takes: one where no text could tell which is the best."""
    return 1 if config.ref == config.query else config.tries


def count_forwards(config: EditConfig, *, search: bool = True) -> dict[str, int]:
    """UNet sample-forwards of each stage of an edit of one picture, the most that it can take.

    The looks of a zoom are not in it.
    """
    steps = max(1, round_half_up(config.ratio * config.steps))
    tries = tries_of(config)
    sketch = forwards_per_run(config.guidance, min(SKETCH_STEPS, steps)) + 2 * LIKENESS.samples
    return {
        "mask": texts_compared(config) * config.mask.samples if search else 0,
        "invert": 0 if config.inversion == "noise" else steps,
        "sketch": sketch * tries if tries > 1 else 0,
        "decode": forwards_per_run(config.guidance, steps),
    }


def pictures_together(height: int, width: int) -> int:
    """How many pictures of so many latent rows and columns are worked on at once.

    Small ones leave most of a processor idle when they come alone; from 64x64 cells on, more at once only
    take more memory.
    """
    return max(1, min(MICRO_BATCH // 2, 64 * 64 // (height * width)))


def find_heat(
    denoiser: Denoiser,
    pixels: Pixels,
    x0: Latents,
    texts: Texts,
    config: EditConfig,
    seeds: list[int],
    report: Report = silent,
) -> Heat:
    """Step 1: where ref and query differ and ref is the truth, (b 1 h w) in [0, 1]. DiffeditError where they
    differ nowhere.

    x0: the pixels, encoded.
    """
    gap = (texts.ref.tokens - texts.query.tokens).abs().amax()  # horse and Horse are one text
    if config.ref == config.query or bool(gap <= 1e-3 * texts.ref.tokens.abs().amax()):
        raise same_texts(config)
    maps: list[torch.Tensor] = []
    report("mask", 0, config.mask.samples)
    for part in difference_maps(denoiser, x0, texts.compared(config), config.mask, seeds):
        maps.extend(part)
        report("mask", len(maps), config.mask.samples)
    shown = torch.stack(maps).mean(0)
    require_finite(shown, "the difference map")
    heat = shown[:, :1]
    if config.mask.evidence and config.ref:  # the empty text is true of every place
        heat = weigh(*shown.split(1, dim=1))
    if bool((heat.amax((1, 2, 3)) == 0).any()):
        raise DiffeditError(
            "The model sees no difference between the reference and the query, so there is no mask.",
            "Choose other words, or give a mask of your own with --mask.",
        )
    heat = normalise(heat, config.mask.clip)
    return refine(heat, pixels, round_half_up(config.mask.refine * min(heat.shape[-2:]))).to(x0)


def encode_source(
    denoiser: Denoiser,
    x0: Latents,
    steps: Steps,
    texts: Texts,
    config: EditConfig,
    seeds: list[int],
    report: Report = silent,
) -> Trajectory:
    """Step 2: the source at every noise level, by DDIM inversion or by plain noise."""
    if config.inversion == "noise":
        return renoise(x0, draw_noise((x0.shape[1], x0.shape[2], x0.shape[3]), seeds).to(x0), steps)
    levels = [x0]
    report("invert", 0, len(steps))
    for latents in invert(denoiser, x0, steps, texts.source):
        levels.append(latents)
        report("invert", len(levels) - 1, len(steps))
    return Trajectory(torch.stack(levels[::-1]))


@dataclass(frozen=True)
class Plan:
    """All that the drawing of an edit needs: the outcome of steps 1 and 2, and one seed a picture.

    found, area: as in Edited; mask: the area with a user's areas added and taken away; heat, if the mask was
    searched for.
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

    @property
    def region(self) -> Heat | None:
        """Where the norms of the guidance are taken; None: everywhere."""
        return self.mask if self.config.guidance.norm_region == "mask" else None

    def repeat(self, times: int) -> "Plan":
        """The plan of all pictures, then of all again, `times` times."""
        found, area, mask = (torch.cat([part] * times) for part in (self.found, self.area, self.mask))
        levels = torch.stack([torch.cat([level] * times) for level in self.source.latents])
        source, seeds = Trajectory(levels), self.seeds * times
        return replace(self, seeds=seeds, source=source, found=found, area=area, mask=mask, heat=None)


@dataclass(frozen=True)
class Drawn:
    """A drawn edit: pixels (b 3 H W), and start, the latents (b c h w) that it began with."""

    pixels: Pixels
    start: Latents


def redraw(denoiser: Denoiser, plan: Plan, report: Report = silent) -> Drawn:
    """Step 3: decode from the noisiest level under the query, with the source put back outside the mask."""
    start = choose_start(denoiser, plan, report)
    return Drawn(finish(denoiser, draw(denoiser, plan, start), "decode", len(plan.steps), report), start)


def draw(denoiser: Denoiser, plan: Plan, start: Latents) -> Iterator[Latents]:
    """Step 3 from any noisiest latents (b c h w): those after each step."""
    return decode(
        denoiser,
        start,
        plan.steps,
        plan.texts.query,
        plan.texts.negative,
        Guidance(plan.config.guidance, plan.steps),
        plan.mask,
        plan.source,
        plan.region,
    )


def choose_start(denoiser: Denoiser, plan: Plan, report: Report = silent) -> Latents:
    """The noisiest latents (b c h w) to draw from: those whose sketch is most like the query.

    A sketch is the edit in few steps. What it shows is decided by the noise that it begins with, in many
    steps as in few (Song et al. 2020, arXiv 2010.02502, section 5.2), so a try costs a part of an edit.
    """
    tries, batch = tries_of(plan.config), len(plan.mask)
    if tries == 1:
        return plan.source.latents[0]
    rough = sketch_of(plan)
    starts = torch.stack([start_of(plan, number) for number in range(tries)])
    scores: list[torch.Tensor] = []
    report("sketch", 0, tries)
    for group in starts.split(max(1, pictures_together(*plan.mask.shape[-2:]) // batch)):
        several = rough.repeat(len(group))
        *_, ends = draw(denoiser, several, group.flatten(0, 1))
        scores += likeness(denoiser, ends, several).split(batch)
        report("sketch", len(scores), tries)
    best = torch.stack(scores).nan_to_num(nan=-torch.inf).argmax(0)
    return starts[best, torch.arange(batch, device=best.device)]


def sketch_of(plan: Plan) -> Plan:
    """The same plan in few of its steps, evenly spread."""
    total = len(plan.steps)
    few = min(SKETCH_STEPS, total)
    levels = [i * total // few for i in range(few + 1)]
    source = Trajectory(plan.source.latents[levels])
    return replace(plan, steps=thinned(plan.steps, levels), source=source)


def start_of(plan: Plan, number: int) -> Latents:
    """The noisiest latents (b c h w) of a try: of the first, number 0, the source's own; of any other, where
    the mask is 1, the source under noise of its own."""
    own, x0 = plan.source.latents[0], plan.source.latents[-1]
    if number == 0:
        return own
    noise = draw_noise((own.shape[1], own.shape[2], own.shape[3]), plan.seeds, TRY_NOISE + number).to(own)
    return torch.where(plan.mask == 1, add_noise(x0, noise, float(plan.steps.alphas[0])), own)


def likeness(denoiser: Denoiser, latents: Latents, plan: Plan) -> Float[torch.Tensor, " b"]:
    """How much more clean latents (b c h w) look like the query than like the reference inside the mask.

    The model as a classifier (Li et al. 2023, arXiv 2303.16203): how much better the query tells noise that
    was added than the reference does, or, without one, than the empty text.
    """
    pair = [plan.texts.query, plan.texts.ref]
    maps = difference_maps(denoiser, latents, pair, LIKENESS, plan.seeds)
    gain = torch.cat([part[:, :, 1] for part in maps]).mean(0)
    return (gain * plan.mask[:, 0]).sum((1, 2))


class Editor:
    """A batch of pictures, edited under any number of settings: what two of them share is computed once.

    The pictures are encoded once. A heat map and a trajectory are kept for all settings that ask for them.
    """

    def __init__(self, denoiser: Denoiser, pixels: Pixels) -> None:
        self.denoiser = denoiser
        self.pixels = pixels
        self.x0 = denoiser.encode(pixels)
        require_finite(self.x0, "the encoded picture")
        self.heats: dict[object, Heat] = {}
        self.sources: dict[object, Trajectory] = {}
        self.latest: tuple[Plan, Drawn] | None = None

    def find(self, config: EditConfig, texts: Texts, seeds: list[int], report: Report = silent) -> Heat:
        """Step 1 for all b pictures, one seed each: (b 1 h w) in [0, 1] (see find_heat)."""
        key = heat_key(config), *seeds
        if key not in self.heats:
            self.heats[key] = find_heat(self.denoiser, self.pixels, self.x0, texts, config, seeds, report)
        return self.heats[key]

    def plan(
        self, config: EditConfig, seeds: list[int], areas: Areas = NOTHING_SAID, report: Report = silent
    ) -> Plan:
        """Steps 1 and 2 for all b pictures, one seed each."""
        denoiser, heat = self.denoiser, None
        texts = Texts.embed(denoiser, config)
        if areas.mask is None:
            heat = self.find(config, texts, seeds, report)
            found = binarise(heat, config.mask)
            area = found if config.mask.invert else widen(found, config.room)
        else:
            found = area = areas.mask
        steps = make_steps(denoiser.schedule, config.steps, config.ratio, config.solver)
        key = source_key(config), *(seeds if config.inversion == "noise" else ())
        if key not in self.sources:
            self.sources[key] = encode_source(denoiser, self.x0, steps, texts, config, seeds, report)
        where = combine(area, areas.add, areas.subtract)
        return Plan(config, seeds, texts, steps, self.sources[key], found, area, where, heat)

    def edit(
        self, config: EditConfig, seeds: list[int], areas: Areas = NOTHING_SAID, report: Report = silent
    ) -> Edited:
        """Change `ref` into `query` in all b pictures, one seed each; `latest` keeps it for a film."""
        plan = self.plan(config, seeds, areas, report)
        drawn = redraw(self.denoiser, plan, report)
        self.latest = plan, drawn
        return Edited(drawn.pixels, plan.found, plan.area, plan.heat)


def heat_key(config: EditConfig) -> EditConfig:
    """The settings with all that the heat map does not depend on set to one value."""
    found = replace(config.mask, threshold=0.0, grow=0, feather=0.0, fill_holes=True, invert=False)
    usual = EditConfig()
    return replace(
        config,
        negative_prompt="",
        steps=usual.steps,
        solver=usual.solver,
        strength=usual.strength,
        tries=usual.tries,
        inversion=usual.inversion,
        zoom=None,
        room=usual.room,
        guidance=usual.guidance,
        mask=found,
    )


def source_key(config: EditConfig) -> EditConfig:
    """The settings with all that the source's trajectory does not depend on set to one value."""
    return replace(
        config,
        ref=config.ref if config.inversion == "negative-prompt" else "",
        query="",
        negative_prompt="",
        seed=config.seed if config.inversion == "noise" else None,
        tries=1,
        solver="ddim",
        zoom=None,
        room=0.0,
        guidance=GuidanceConfig(),
        mask=MaskConfig(),
    )


def count_shared_forwards(configs: Sequence[EditConfig], *, search: bool = True) -> int:
    """UNet sample-forwards of edits of one picture by one Editor, the most that they can take."""
    stages: dict[object, int] = {}
    for number, config in enumerate(configs):
        counts = count_forwards(config, search=search)
        stages |= {
            ("mask", heat_key(config), config.zoom): counts["mask"],
            ("invert", source_key(config), config.zoom): counts["invert"],
            ("decode", number): counts["sketch"] + counts["decode"],
        }
    return sum(stages.values())
