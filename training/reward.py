"""Fine-tune the UNet on the two things that an edit asks of it: to find the thing, and to draw another.

The loss of stage `unet` asks for the noise of one step. But a mask is the difference of predictions under two
texts, and outside the thing these need not agree for that loss to be small. So stage `heat` searches for the
mask as an edit does, and asks that what it finds is the thing.

And an edit is many steps, from latents that no training saw, each built on the one before, and may end as
half a lion. So stage `reward` runs it, and the loss of a classifier of photos, the critic, on how it ends
goes back through its last networks (ReFL: Xu et al. 2023, arXiv 2304.05977), together with the
loss of stage `heat`.

The loss of stage `unet` goes on in both, so that the UNet forgets nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffedit_cli.core.ddim import decode, invert, renoise
from diffedit_cli.core.diffedit import Texts, find_heat
from diffedit_cli.core.guidance import Guidance
from diffedit_cli.core.mask import widen
from diffedit_cli.core.schedules import make_steps
from diffedit_cli.core.types import Latents, Pixels, PromptEmbeds, Schedule, Steps, Timesteps, Trajectory
from diffedit_cli.settings import EditConfig, GuidanceConfig, MaskConfig
from training.classifier import Classifier, random_shift, train_classifier, views_of
from training.scenes import World, draw_scenes, latent_mask
from training.train import (
    Settings,
    TextToImage,
    Worker,
    autocast,
    debiased_weights,
    fresh_seeds,
    latent_pool,
    made_ready,
    run_training,
    unet_loss,
)
from training.words import NOTHING, THINGS, caption, named, parse, with_article

STEPS = (9, 13)  # of an edit, the least and the most; what it shows is decided in few as in many
SCALE = (3.5, 6.0)  # of the guidance
ROOM = (0.08, 0.25)  # round the true mask
INVERTED = 0.6  # the share of edits that start from DDIM inversion; the others from plain noise
BESIDE = ("dog", "cow", "horse", "fox")  # one of them stands in a quarter of the scenes
SLOPE = 0.1  # of heat: how near the threshold a cell must be to be pushed
HEAT = 0.08  # the weight of its loss, so that its gradient is about as long as the others
LENGTH = 0.15  # of the critic's gradient at most; that of the other loss is about as long
CRITIC = "critic.pt"  # in the folder of the sources


# ---------------------------------------------------------------- the critic


def critic_words() -> list[str]:
    """All things, and all in each of their colours."""
    return [
        named(index, colour)
        for index, thing in enumerate(THINGS)
        for colour in [NOTHING, *(parse(f"{name} {thing.word}")[1] for name in thing.colours)]
    ]


def train_critic(data: Path, world: World, vae: nn.Module, minutes: float) -> Path:
    """Train the critic and keep it in the folder of the sources."""
    critic = Classifier(critic_words(), "lite1")
    train_classifier(critic, world, vae, minutes)
    torch.save({"words": critic.words, "model": critic.state_dict()}, data / CRITIC)
    return data / CRITIC


def load_critic(data: Path) -> Classifier:
    content = torch.load(data / CRITIC, weights_only=True)
    critic = Classifier(content["words"], "lite1").eval().requires_grad_(False)
    critic.load_state_dict(content["model"])
    return critic.to(memory_format=torch.channels_last)


# ---------------------------------------------------------------- edits with gradients


class Student:
    """The parts in training as the core's Denoiser, with gradients where torch records them."""

    def __init__(self, model: TextToImage):
        self.model = model
        self.schedule = Schedule(
            model.alphas_cumprod.double(), float(model.alphas_cumprod[0]), steps_offset=1
        )

    def encode(self, pixels: Pixels) -> Latents:
        with autocast(pixels.device):
            latents = self.model.vae.encode(pixels * 2 - 1).latent_dist.mean
        return latents.float() * self.model.vae.config.scaling_factor

    def decode(self, latents: Latents) -> Pixels:
        with autocast(latents.device):
            pixels = self.model.vae.decode(latents / self.model.vae.config.scaling_factor).sample
        return pixels.float() / 2 + 0.5

    def embed(self, prompts: Sequence[str]) -> PromptEmbeds:
        with autocast(self.model.unet.device):
            return PromptEmbeds(self.model.embed(list(prompts)))

    def predict(self, latents: Latents, timesteps: Timesteps, embeds: PromptEmbeds) -> Latents:
        noisy = latents.contiguous(memory_format=torch.channels_last)
        with autocast(latents.device):
            return self.model.unet(noisy, timesteps, embeds.tokens).sample.float()


def reward_loss(
    model: TextToImage, critic: Classifier, world: World, seed: int, batch: int, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The critic's cross entropy on `batch` edits of fresh scenes; numbers for the log.

    An edit runs without gradients up to a random level, then goes to the clean picture in two long steps
    with them. Its mask is the true one, with room.
    """
    student, pairs = Student(model), [draw_pair(rng, critic.words) for _ in range(batch)]
    beside = str(rng.choice(BESIDE)) if rng.random() < 0.25 else None
    scenes = draw_scenes(world, batch, seed, things=[ref for ref, _ in pairs], beside=beside)
    few = int(rng.integers(STEPS[0], STEPS[1] + 1))
    usual = make_steps(student.schedule, EditConfig().step_count)
    steps = thinned(usual, [i * len(usual) // few for i in range(few + 1)])
    guided = GuidanceConfig(scale=float(rng.uniform(*SCALE)))
    first = int(rng.integers(few - 1))
    rest = [first, (first + few) // 2, few]
    with torch.no_grad():
        x0, empty = student.encode(scenes.pixels), student.embed([""])
        queries = student.embed([spoken(rng, query) for _, query in pairs])
        mask = widen((latent_mask(scenes.mask) > 0.4).float(), float(rng.uniform(*ROOM)))
        if rng.random() < INVERTED:
            source = Trajectory(torch.stack([x0, *invert(student, x0, steps, empty)][::-1]))
        else:
            source = renoise(x0, torch.randn_like(x0), steps)
        latents, before = source.latents[0], thinned(steps, list(range(first + 1)))
        run = decode(student, latents, before, queries, empty, Guidance(guided, before), mask, source)
        *_, latents = latents, *run
    last, levels = thinned(steps, rest), Trajectory(source.latents[rest])
    *_, end = decode(student, latents, last, queries, empty, Guidance(guided, last), mask, levels)
    pixels, device = student.decode(end).clamp(-0.05, 1.05), world.device
    views = views_of(pixels, scenes.mask, random_shift(batch).to(device))
    truth = torch.tensor([critic.words.index(query) for _, query in pairs], device=device)
    told = critic(views + 0.02 * torch.randn_like(views))
    loss = F.cross_entropy(told, truth)
    return loss, {"critic": loss.item(), "right": (told.argmax(1) == truth).float().mean().item()}


def heat_loss(
    model: TextToImage, words: Sequence[str], world: World, seed: int, batch: int, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """1 - Dice of what a search for the mask finds in `batch` fresh scenes and the true mask; numbers for the
    log.

    It is the search of an edit, of two maps, with gradients; a steep slope takes the place of the threshold.
    Half of the time another thing stands in all scenes, that none of the texts names.
    """
    pairs = [draw_pair(rng, words) for _ in range(batch)]
    meant = {parse(word)[0] for pair in pairs for word in pair}
    others = [thing.word for i, thing in enumerate(THINGS) if i not in meant and not thing.in_bowl]
    beside = str(rng.choice(others)) if rng.random() < 0.5 else None
    scenes = draw_scenes(world, batch, seed, things=[ref for ref, _ in pairs], beside=beside)
    # The config names one pair for all: the search asks it only whether there are two texts, and other ones.
    student, config = Student(model), EditConfig(*pairs[0], mask=MaskConfig(samples=2))
    with torch.no_grad():
        x0, empty = student.encode(scenes.pixels), student.embed([""])
        sides = zip(*pairs, strict=True)
        ref, query = (student.embed([spoken(rng, word) for word in side]) for side in sides)
    texts = Texts(ref, query, negative=empty, source=empty, empty=empty)
    seeds = rng.integers(2**31, size=batch).tolist()
    heat = find_heat(student, scenes.pixels, x0, texts, config, seeds)
    truth, inside = latent_mask(scenes.mask), torch.sigmoid((heat - config.mask.threshold) / SLOPE)
    dice = 2 * (inside * truth).sum((1, 2, 3)) / (inside + truth).sum((1, 2, 3))
    return 1 - dice.mean(), {"dice": dice.mean().item()}


def thinned(steps: Steps, levels: list[int]) -> Steps:
    """The run that stops at these of the levels 0 to len(steps) alone, noisiest first."""
    few = steps.timesteps[levels[:-1]]
    return replace(steps, timesteps=few, alphas=steps.alphas[levels], sigmas=steps.sigmas[levels])


def draw_pair(rng: np.random.Generator, words: Sequence[str]) -> tuple[str, str]:
    """Two words of one kind: an animal becomes an animal, a bowl a bowl. What training shows often comes
    often, as often without a colour as in all its colours; half of what takes a colour had another before."""
    things = [THINGS[parse(word)[0]] for word in words]
    weights = np.array(
        [
            thing.share / (len(thing.colours) if word != thing.word else 1)
            for word, thing in zip(words, things, strict=True)
        ]
    )
    query = str(rng.choice(words, p=weights / weights.sum()))
    fits = np.array(
        [kind_of(word) == kind_of(query) and not f" {query}".endswith(f" {word}") for word in words]
    )
    if parse(query)[1] != NOTHING and rng.random() < 0.5:
        fits &= np.array([parse(word)[0] == parse(query)[0] for word in words])
    return str(rng.choice(words, p=weights * fits / (weights * fits).sum())), query


def kind_of(word: str) -> str:
    """animals, vehicles, bowl, or things: what is held in a hand."""
    thing = THINGS[parse(word)[0]]
    folder = thing.photos[0].split("/")[0]
    return "bowl" if thing.in_bowl else folder if folder in ("animals", "vehicles") else "things"


def spoken(rng: np.random.Generator, word: str) -> str:
    """As users write it."""
    return str(rng.choice([word, word, with_article(word), f"a photo of {with_article(word)}"]))


# ---------------------------------------------------------------- the stages


def train_edits(
    world: World,
    model: TextToImage,
    critic: Classifier | None,
    settings: Settings,
    out: Path,
    worker: Worker,
) -> int:
    """Train the UNet on `settings.batch` masks a step, or with a critic on as many edits and half the masks.

    The loss of stage `unet` is added, on twice as many scenes. Saves EMA weights. Returns the masks or edits
    made.
    """
    made_ready(model, world.device, settings.compile)
    model.text_encoder.requires_grad_(False)
    weights = debiased_weights(model.alphas_cumprod)
    seed = settings.seed * 1000 + worker.rank
    seeds, rng = fresh_seeds(seed), np.random.default_rng([seed, 1])
    torch.manual_seed(int(rng.integers(2**31)))
    named_places = (world.place_of != NOTHING).nonzero()[:, 0].tolist()  # captions need a name
    pool = latent_pool(world.at(named_places), model, settings, seeds, seed)
    words, searches = critic_words(), settings.batch
    if critic is not None:
        critic.to(world.device)
        searches = max(1, settings.batch // 2)

    def compute_loss(_: float) -> tuple[Tensor, dict[str, float]]:
        told: dict[str, float] = {}
        if critic is not None:
            loss, told = reward_loss(model, critic, world, next(seeds), settings.batch, rng)
            loss.backward()
            nn.utils.clip_grad_norm_(model.unet.parameters(), LENGTH)
        loss, found = heat_loss(model, words, world, next(seeds), searches, rng)
        (HEAT * loss).backward()
        latents, mask, rows = pool.take(2 * settings.batch)
        captions = [caption(rng, *row) for row in rows.tolist()]
        loss, numbers = unet_loss(model, latents, mask, captions, weights)
        return loss, numbers | told | found

    name = "heat" if critic is None else "reward"
    files = out / f"{name}.pt", out / f"{name}.log"
    return run_training([model.unet], compute_loss, settings, *files, partial(model.save, out), worker)
