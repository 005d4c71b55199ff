"""Compose photo-like scenes: cut-outs with exact alpha, standing in perspective crops of panoramas.

Everything is batched torch on any device. A scene is a pure function of (world, seed).
Picture tensors are (b c h w) in [0, 1], display-referred (sRGB); masks are alpha in [0, 1].
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from training.words import (
    BACKDROPS,
    COLOURS,
    HELD_OUT_PANORAMAS,
    NOTHING,
    NOTHING_SHARE,
    PLACES,
    THINGS,
    parse,
)

EXPOSURES = (-0.4, 0.1, 0.6)  # stops; each panorama is tone-mapped at each of them
WRAP = 64  # columns repeated on both sides of a panorama, so that no crop sees the seam
# The row of the ground's far end in each held-out wallpaper, as a share of its height.
WALLPAPER_HORIZON = {
    "dune": 0.55, "grass": 0.1, "storm": 0.62, "path": 0.5, "deck": 0.45, "boats": 0.52, "leaves": 0.3,
}  # fmt: skip


@dataclass
class World:
    """What scenes are made of. `boxes`: the cut-outs' (width, height). `shares`: the panoramas' in the draw.

    `cutouts`: premultiplied RGBA on square canvases, and in a fifth channel the alpha of what the word
    names: the whole thing, or the fruit in a bowl.
    """

    panoramas: Tensor  # (p exposure 3 h w+2*WRAP)
    place_of: Tensor  # (p) index into PLACES, or NOTHING
    shares: Tensor  # (p)
    cutouts: Tensor  # (k 5 side side)
    boxes: Tensor  # (k 2)
    thing_of: Tensor  # (k) index into THINGS
    wallpapers: dict[str, Tensor] = field(default_factory=dict)  # name -> (3 h w)

    @property
    def device(self) -> torch.device:
        return self.cutouts.device

    def to(self, device: torch.device | str) -> "World":
        """The same world on another device."""
        papers = {name: paper.to(device) for name, paper in self.wallpapers.items()}
        parts = (self.panoramas, self.place_of, self.shares, self.cutouts, self.boxes, self.thing_of)
        return World(*(part.to(device) for part in parts), papers)

    def at(self, panoramas: list[int]) -> "World":
        """The same world with these panoramas only."""
        return replace(
            self,
            panoramas=self.panoramas[panoramas],
            place_of=self.place_of[panoramas],
            shares=self.shares[panoramas],
        )

    def before(self, backgrounds: "World") -> "World":
        """The same things before the backgrounds of another world."""
        return replace(backgrounds, cutouts=self.cutouts, boxes=self.boxes, thing_of=self.thing_of)


@dataclass
class Scenes:
    """A batch of scenes. Index NOTHING: there is no (second) object, no colour word.

    mask: the alpha of what the first object's word names. objects: the alpha of everything in the scene.
    """

    pixels: Tensor  # (b 3 s s) in [0, 1]
    mask: Tensor  # (b 1 s s) in [0, 1]
    objects: Tensor  # (b 1 s s) in [0, 1]
    thing: Tensor  # (b) into THINGS
    second: Tensor  # (b) into THINGS
    place: Tensor  # (b) into PLACES
    colour: Tensor  # (b) into COLOURS: what the first object is painted in


# ---------------------------------------------------------------- sources to tensors


def load_world(data: Path, *, held_out: bool = False, backdrops: bool = False, side: int = 176) -> World:
    """Read the sources under `data`; with `held_out` those that training never sees, where there are any.

    `backdrops`: the panoramas without a name, too. `side` bounds the longer side of a cut-out, in pixels.
    """
    views = [(place.panorama, place.share, index) for index, place in enumerate(PLACES)]
    if backdrops:
        views += [(name, share, NOTHING) for name, share in BACKDROPS.items()]
    if held_out:
        views = [(name, 1.0, NOTHING) for name in HELD_OUT_PANORAMAS]
    names, shares, places = zip(*views, strict=True)
    panoramas = [tone_mapped(np.load(data / "panoramas" / f"{name}.npy")) for name in names]
    cutouts, boxes, owners = [], [], []
    for index, thing in enumerate(THINGS):
        photos = (thing.held_out or thing.photos) if held_out else thing.photos
        paths = [data / "stamps" / f"{photo}.png" for photo in photos]
        loaded = bowls(paths, side) if thing.in_bowl else [load_cutout(path, side) for path in paths]
        cutouts += [canvas for canvas, _ in loaded]
        boxes += [box for _, box in loaded]
        owners += [index] * len(loaded)
    papers = {}
    if held_out:
        papers = {name: load_picture(data / "wallpapers" / f"{name}.jpg") for name in WALLPAPER_HORIZON}
    return World(
        torch.stack(panoramas), torch.tensor(places), torch.tensor(shares),
        torch.stack(cutouts), torch.tensor(boxes), torch.tensor(owners), papers,
    )  # fmt: skip


def load_picture(path: Path, height: int = 400) -> Tensor:
    """(3 height w) in [0, 1]."""
    image = Image.open(path).convert("RGB")
    image = image.resize((round(image.width * height / image.height), height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def load_cutout(path: Path, side: int) -> tuple[Tensor, tuple[float, float]]:
    """One cut-out, cropped to its alpha: a World's canvas (5 side+4 side+4), and its (width, height)."""
    pixels = load_premultiplied(path)
    shrink = min(1.0, side / max(pixels.shape[-2:]))
    size = [max(4, round(extent * shrink)) for extent in pixels.shape[-2:]]
    pixels = resized(pixels, *size)
    return on_canvas(torch.cat([pixels, pixels[3:]]), side)


def load_premultiplied(path: Path) -> Tensor:
    """(4 h w) in [0, 1], cropped to its alpha; premultiplied, so that resampling draws no dark fringe."""
    image = Image.open(path).convert("RGBA")
    alpha = image.getchannel("A").point(lambda value: 255 if value > 40 else 0)
    pixels = torch.from_numpy(np.array(image.crop(alpha.getbbox()))).permute(2, 0, 1).float() / 255
    pixels[:3] *= pixels[3:]
    return pixels


def resized(pixels: Tensor, height: int, width: int) -> Tensor:
    """(c h w) at another size."""
    return F.interpolate(pixels[None], (height, width), mode="bicubic", antialias=True)[0].clamp(0, 1)


def on_canvas(pixels: Tensor, side: int) -> tuple[Tensor, tuple[float, float]]:
    """Pad (5 h w) to the common square, with a margin of 2; and its (width, height)."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (2, side + 2 - width, 2, side + 2 - height)), (float(width), float(height))


# ---------------------------------------------------------------- bowls of fruit

GLAZES = ((0.86, 0.84, 0.80), (0.25, 0.38, 0.62), (0.55, 0.32, 0.18), (0.36, 0.48, 0.34))
# Where the fruits stand in a bowl, from the back: middle and foot as shares of the bowl's width.
FRUIT_PLACES = ((0.26, 0.26), (0.72, 0.26), (0.5, 0.24), (0.2, 0.34), (0.8, 0.34), (0.38, 0.36), (0.62, 0.36))


def bowls(fruits: list[Path], side: int) -> list[tuple[Tensor, tuple[float, float]]]:
    """A bowl in each of GLAZES with seven fruits in it: the fruits are photos, the bowl is drawn."""
    generator = torch.Generator().manual_seed(len(fruits))
    photos = [load_premultiplied(path) for path in fruits]
    return [on_canvas(bowl_of(photos, glaze, side, generator), side) for glaze in GLAZES]


def bowl_of(
    photos: list[Tensor], glaze: tuple[float, float, float], width: int, generator: torch.Generator
) -> Tensor:
    """One bowl (5 h width): behind the fruits its inside, before them its outer wall."""
    height = round(0.72 * width)
    rim = 0.34 * width  # the row of the rim's middle
    inside, wall = draw_bowl(glaze, width, height, rim)
    picture = torch.cat([inside, torch.zeros(1, height, width)])
    for middle, foot in FRUIT_PLACES:
        photo = photos[int(torch.randint(len(photos), (1,), generator=generator))]
        jitter = 1 + 0.08 * torch.randn(3, generator=generator)
        wide = round(float(0.34 * width * jitter[0]))
        tall = min(round(wide * photo.shape[1] / photo.shape[2]), round(0.42 * width))
        fruit = resized(photo, tall, round(tall * photo.shape[2] / photo.shape[1]))
        left = round(float(middle * width * (0.9 + 0.1 * jitter[1]))) - fruit.shape[2] // 2
        top = round(float((foot + 0.14) * width * (0.9 + 0.1 * jitter[2]))) - tall
        picture = paste(picture, torch.cat([fruit, fruit[3:]]), max(0, left), max(0, top))
    return torch.cat([wall, torch.zeros(1, height, width)]) + picture * (1 - wall[3:])


def paste(under: Tensor, over: Tensor, left: int, top: int) -> Tensor:
    """Premultiplied (5 h w) over another, cut off at its edges; the fifth channel goes along."""
    height, width = under.shape[-2:]
    over = over[:, : height - top, : width - left]
    over = F.pad(over, (left, width - left - over.shape[2], top, height - top - over.shape[1]))
    return over + under * (1 - over[3:4])


def draw_bowl(
    glaze: tuple[float, float, float], width: int, height: int, rim: float
) -> tuple[Tensor, Tensor]:
    """A half ellipsoid under one lamp: its inside and its outer wall, premultiplied (4 height width) each."""
    fine = 2
    y, x = torch.meshgrid(
        (torch.arange(height * fine) + 0.5) / fine, (torch.arange(width * fine) + 0.5) / fine, indexing="ij"
    )
    across, radius = (x - width / 2) / (width / 2 - 1), 0.13 * width
    down = (y - rim) / (height - rim) * 0.92  # 0.92: the foot is flat
    mouth = across**2 + ((y - rim) / radius) ** 2 < 1
    body = (across**2 + down.clamp(min=0) ** 2 < 1) & (y < height - 1)
    outer = body & ~mouth & (y > rim) | (
        mouth & (across**2 + ((y - rim) / (0.93 * radius)) ** 2 > 1) & (y > rim)
    )
    normal_z = (1 - across**2 - down**2).clamp(min=0).sqrt()
    light = 0.45 + 0.6 * (-0.45 * across - 0.35 * down + 0.75 * normal_z).clamp(min=0)
    shade = torch.tensor(glaze)[:, None, None]
    layers = []
    for region, brightness in ((mouth, 0.45 - 0.15 * across), (outer, light)):
        alpha = region.float()[None]
        layers.append(F.avg_pool2d(torch.cat([(shade * brightness).clamp(0, 1) * alpha, alpha]), fine))
    return layers[0], layers[1]


def tone_mapped(linear: np.ndarray) -> Tensor:
    """A panorama (h w 3), linear light, to sRGB at each of EXPOSURES: (exposure 3 h w+2*WRAP).

    Lossy EXR rings below zero round the sun and bright windows: such pixels turn white there, elsewhere they
    are filled from their neighbours.
    """
    light = torch.from_numpy(np.nan_to_num(np.asarray(linear, np.float32), posinf=6e4)).permute(2, 0, 1)[None]
    peak = light.amax(1, keepdim=True).clamp(0, 1e4)
    median = peak.median()
    negative = F.max_pool2d((light.amin(1, keepdim=True) < -0.01).float(), 3, 1, 1) > 0
    glare = F.max_pool2d(peak, 17, 1, 8) > 40 * median
    core = F.max_pool2d(peak, 5, 1, 2) > 200 * median  # the sun itself, with the coloured dots of the codec
    odd = light.amin(1, keepdim=True) < 0.1 * peak  # pure colours in the glare are the codec's, too
    light = torch.where((odd & glare) | core, 12 * median, light)
    light = fill_holes(light.clamp(0, 60), negative & ~glare)
    views = torch.cat([to_srgb(light, stops) for stops in EXPOSURES])
    return torch.cat([views[..., -WRAP:], views, views[..., :WRAP]], -1)


def fill_holes(picture: Tensor, holes: Tensor) -> Tensor:
    """Fill holes (b 1 h w, bool) from the mean of the nearest known pixels, ring by ring."""
    known = (~holes).float()
    picture = picture * known
    while known.amin() == 0 and known.amax() > 0:
        weight = F.avg_pool2d(known, 3, 1, 1)
        mean = F.avg_pool2d(picture, 3, 1, 1) / weight.clamp(min=1e-6)
        picture = torch.where(known > 0, picture, torch.where(weight > 0, mean, 0.0))
        known = (weight > 0).float()
    return picture


def to_srgb(light: Tensor, stops: float) -> Tensor:
    """Linear light to sRGB: exposure from the log mean, Narkowicz's fit of the ACES curve, sRGB transfer."""
    middle = (light.mean(1, keepdim=True) + 1e-4).log().mean().exp()
    x = light * (0.18 / middle) * 2**stops * 0.9
    film = ((x * (2.51 * x + 0.03)) / (x * (2.43 * x + 0.59) + 0.14)).clamp(0, 1)
    return torch.where(film <= 0.0031308, 12.92 * film, 1.055 * film.clamp(min=1e-8) ** (1 / 2.4) - 0.055)


# ---------------------------------------------------------------- drawing


class Dice:
    """Random numbers from one seed, drawn on the CPU so that a scene is the same on every device."""

    def __init__(self, seed: int, batch: int, device: torch.device):
        self.generator = torch.Generator().manual_seed(seed)
        self.batch = batch
        self.device = device

    def uniform(self, low: float | Tensor, high: float | Tensor, *shape: int) -> Tensor:
        unit = torch.rand(self.batch, *shape, generator=self.generator).to(self.device)
        return low + (high - low) * unit

    def normal(self, scale: float, *shape: int) -> Tensor:
        return scale * torch.randn(self.batch, *shape, generator=self.generator).to(self.device)

    def integers(self, high: int) -> Tensor:
        return torch.randint(high, (self.batch,), generator=self.generator).to(self.device)

    def choice(self, weights: Tensor) -> Tensor:
        picks = torch.multinomial(
            weights.float().cpu(), self.batch, replacement=True, generator=self.generator
        )
        return picks.to(self.device)

    def chance(self, probability: float) -> Tensor:
        return self.uniform(0, 1) < probability


def draw_scenes(
    world: World,
    batch: int,
    seed: int,
    *,
    size: int = 128,
    things: list[str] | None = None,
    beside: str | None = None,
    backgrounds: str = "panoramas",
    pairs: float = 0.2,
    painted: float = 0.4,
    width: tuple[float, float] | None = None,
) -> Scenes:
    """Draw `batch` scenes of `size` pixels from `seed`.

    things: words to draw from evenly, as "horse" or "white horse", instead of the training shares (then
        without empty places, pairs and colours that are not named).
    beside: the word of a second object in every scene.
    backgrounds: "panoramas", or "wallpapers" (held-out worlds only; place is then NOTHING).
    pairs: the share of scenes with a second object. painted: the share of scenes in which an object that
        comes in colours is painted in one. width: overrides the objects' own range of widths.
    """
    dice = Dice(seed, batch, world.device)
    thing, colour = pick_things(dice, things, painted)
    if backgrounds == "panoramas":
        picture, horizon, place = panorama_crops(world, dice, size)
    else:
        picture, horizon, place = wallpaper_crops(world, dice, size)
    is_pair = dice.chance(pairs if things is None else 0.0) & (thing != NOTHING)
    other = dice.choice(torch.tensor([one.share for one in THINGS]))
    second = torch.where(is_pair & (other != thing), other, torch.full_like(other, NOTHING))
    if beside is not None:
        second = torch.full_like(thing, parse(beside)[0])
    # In a pair the objects share the width: the second stands further left or right, and behind.
    side = torch.where(dice.chance(0.5), 1.0, -1.0) * (second != NOTHING)
    plain = torch.full_like(colour, NOTHING)
    picture, behind, _ = place_objects(world, dice, picture, horizon, second, plain, -side, width)
    picture, alpha, mask = place_objects(world, dice, picture, horizon, thing, colour, side, width)
    return Scenes(picture.clamp(0, 1), mask, torch.maximum(alpha, behind), thing, second, place, colour)


def pick_things(dice: Dice, things: list[str] | None, painted: float) -> tuple[Tensor, Tensor]:
    """Indices into THINGS and COLOURS by share (with some NOTHING), or cycling through the words given."""
    if things is not None:
        cycle = torch.arange(dice.batch) % len(things)
        thing, colour = torch.tensor([parse(name) for name in things])[cycle].to(dice.device).unbind(1)
        return thing, colour
    shares = torch.tensor([NOTHING_SHARE] + [thing.share for thing in THINGS])
    thing = dice.choice(shares) + NOTHING  # class 0 is NOTHING
    table = torch.tensor([[colour in one.colours for colour in COLOURS] for one in THINGS]).float()
    table = torch.cat([table, torch.zeros(1, len(COLOURS))]).to(dice.device)[thing]  # NOTHING has none
    weights = torch.cat([table.sum(1, keepdim=True) * (1 - painted) / painted + 1e-9, table], 1)
    point = dice.uniform(0, 1)[:, None] * weights.sum(1, keepdim=True)
    return thing, (weights.cumsum(1) < point).sum(1).clamp(max=len(COLOURS)) + NOTHING


def panorama_crops(world: World, dice: Dice, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Perspective crops at random yaw: pictures (b 3 s s), the horizon's row (b) in pixels, place (b)."""
    pick = dice.choice(world.shares)
    exposure = dice.integers(world.panoramas.shape[1])
    field_of_view = torch.deg2rad(dice.uniform(55, 85))
    pitch = torch.deg2rad(dice.uniform(-22, 2))
    yaw, roll = dice.uniform(-torch.pi, torch.pi), torch.deg2rad(dice.normal(1.5))
    focal = size / 2 / torch.tan(field_of_view / 2)
    grid = panorama_grid(focal, pitch, yaw, roll, size, world.panoramas.shape[-2:])
    picture = F.grid_sample(
        world.panoramas[pick, exposure], grid, mode="bicubic", padding_mode="border", align_corners=False
    )
    picture = picture.clamp(0, 1) ** dice.uniform(0.85, 1.2)[:, None, None, None]
    picture = torch.where(dice.chance(0.5)[:, None, None, None], picture.flip(-1), picture)
    return picture, size / 2 + focal * torch.tan(pitch), world.place_of[pick]


def panorama_grid(
    focal: Tensor, pitch: Tensor, yaw: Tensor, roll: Tensor, size: int, shape: torch.Size
) -> Tensor:
    """Sampling grid (b s s 2) of a pinhole camera in an equirectangular picture; radians, focal in pixels."""
    axis = torch.arange(size, device=focal.device) - size / 2 + 0.5
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    at = (slice(None), None, None)
    u, v = roll.cos()[at] * u - roll.sin()[at] * v, roll.sin()[at] * u + roll.cos()[at] * v
    ray = F.normalize(torch.stack([u, -v, focal[at].expand_as(u)], -1), dim=-1)
    y = pitch.cos()[at] * ray[..., 1] + pitch.sin()[at] * ray[..., 2]
    z = -pitch.sin()[at] * ray[..., 1] + pitch.cos()[at] * ray[..., 2]
    longitude = (torch.atan2(ray[..., 0], z) + yaw[at] + torch.pi) % (2 * torch.pi)
    latitude = torch.asin(y.clamp(-1, 1))
    width = shape[1]
    column = longitude / (2 * torch.pi) * (width - 2 * WRAP) + WRAP
    return torch.stack([column / width * 2 - 1, -latitude / (torch.pi / 2)], -1)


def wallpaper_crops(world: World, dice: Dice, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Square crops of the held-out wallpapers, down to their lower edge; returns as panorama_crops."""
    names = sorted(world.wallpapers)
    which, extent, start = dice.integers(len(names)), dice.uniform(0.75, 1.0), dice.uniform(0, 1)
    pictures, horizons = [], []
    for index, share, left in zip(which.tolist(), extent.tolist(), start.tolist(), strict=True):
        paper = world.wallpapers[names[index]]
        height, width = paper.shape[-2:]
        side = min(round(height * share), width)
        x = round((width - side) * left)
        crop = paper[:, height - side :, x : x + side]
        pictures.append(F.interpolate(crop[None], (size, size), mode="bicubic", antialias=True)[0])
        row = height * WALLPAPER_HORIZON[names[index]] - (height - side)
        horizons.append(row * size / side)
    picture = torch.stack(pictures).clamp(0, 1)
    picture = torch.where(dice.chance(0.5)[:, None, None, None], picture.flip(-1), picture)
    return picture, torch.tensor(horizons, device=dice.device), torch.full_like(which, NOTHING)


def place_objects(
    world: World, dice: Dice, picture: Tensor, horizon: Tensor, thing: Tensor, colour: Tensor, side: Tensor,
    width: tuple[float, float] | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Stand one object in each picture, with shadow and matched light.

    Returns the pictures, the object's alpha (b 1 s s), and the alpha of what its word names.
    side: 0 anywhere; +1 or -1 keeps to that half, smaller, and leaves room for the other of a pair.
    """
    size = picture.shape[-1]
    photo = pick_photos(world, dice, thing)
    matrix, foot = object_pose(dice, world.boxes[photo], horizon, thing, side, size, width)
    pasted = warp_cutouts(world.cutouts[photo], world.boxes[photo], matrix, foot, dice, size)
    pasted = pasted * (thing != NOTHING)[:, None, None, None]
    alpha = pasted[:, 3:4]
    rgb = paint(pasted[:, :3] / alpha.clamp(min=1e-3), alpha, colour)
    rgb = match_light(dice, rgb, picture)
    picture = picture * (1 - contact_shadow(dice, alpha, foot[:, 1]))
    return picture * (1 - alpha) + rgb * alpha, alpha, pasted[:, 4:]


def paint(rgb: Tensor, alpha: Tensor, colour: Tensor) -> Tensor:
    """Give each object (b 3 h w) the paint of its colour word, with its light and dark; NOTHING: none."""
    paints = torch.tensor([*COLOURS.values(), (0.0, 0.0, 0.0)], device=rgb.device)[colour][:, :, None, None]
    grey = rgb.mean(1, keepdim=True).clamp(0, 1)
    mean = (grey * alpha).sum((2, 3), keepdim=True) / alpha.sum((2, 3), keepdim=True).clamp(min=1e-3)
    relief = (grey / mean.clamp(min=0.05)).clamp(0, 2.5) ** 0.8
    return torch.where((colour == NOTHING)[:, None, None, None], rgb, (paints * relief).clamp(0, 1))


def pick_photos(world: World, dice: Dice, thing: Tensor) -> Tensor:
    """One of the photos of each thing (b); any photo for NOTHING, since it is hidden later."""
    fits = (world.thing_of[None] == thing[:, None]).float() + 1e-9
    unit = dice.uniform(0, 1)[:, None] * fits.sum(1, keepdim=True)
    return (fits.cumsum(1) < unit).sum(1).clamp(max=len(world.thing_of) - 1)


def object_pose(
    dice: Dice, box: Tensor, horizon: Tensor, thing: Tensor, side: Tensor, size: int,
    width: tuple[float, float] | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Size, tilt and place: the matrix (b 2 2) from cut-out to picture pixels, the foot's (x, y) (b 2)."""
    ranges = torch.tensor([width or one.width for one in THINGS] + [(0.4, 0.8)], device=box.device)[thing]
    share = dice.uniform(ranges[:, 0], ranges[:, 1]) * torch.where(side != 0, 0.7, 1.0)
    scale = size * share / box.amax(1) ** 0.7 / box[:, 0] ** 0.3  # tall things get narrower, not huge
    scale = torch.minimum(scale, 0.85 * size / box[:, 1])
    stretch = scale[:, None] * dice.uniform(0.93, 1.07, 2)
    angle, shear = torch.deg2rad(dice.normal(2.5)), dice.normal(0.04)
    flip = torch.where(dice.chance(0.5), -1.0, 1.0)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    zero = torch.zeros_like(shear)
    shape = torch.stack([stretch[:, 0] * flip, shear * stretch[:, 0], zero, stretch[:, 1]], 1).view(-1, 2, 2)
    half, tall = box[:, 0] * stretch[:, 0] / 2, box[:, 1] * stretch[:, 1]
    low = torch.minimum(half + 2, torch.full_like(half, size / 2))
    left = torch.where(side > 0, torch.maximum(low, torch.full_like(low, size / 2)), low)
    right = torch.where(side < 0, torch.maximum(low, torch.full_like(low, size / 2)), size - low)
    x = dice.uniform(left, torch.maximum(left, right))
    # The foot stands below the horizon; the second object of a pair stands a little behind the first.
    top = torch.maximum(
        torch.maximum(horizon + 0.12 * size, tall + 0.03 * size), torch.full_like(tall, 0.62 * size)
    )
    y = dice.uniform(torch.minimum(top, torch.full_like(top, 0.97 * size)), 0.97 * size)
    return rotation @ shape, torch.stack([x, y], 1)


def warp_cutouts(canvas: Tensor, box: Tensor, matrix: Tensor, foot: Tensor, dice: Dice, size: int) -> Tensor:
    """Draw each cut-out (b 5 k k) with its foot at `foot`: premultiplied (b 5 s s).

    Sampled at twice the size and averaged against aliasing; a slow random bend varies the outline.
    """
    fine = 2 * size
    axis = (torch.arange(fine, device=canvas.device) + 0.5) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    offset = torch.stack([x, y], -1)[None] - foot[:, None, None]
    source = torch.einsum("bij,bhwj->bhwi", torch.linalg.inv(matrix), offset)
    bend = dice.normal(0.012, 2, 5, 5) * box.amax(1)[:, None, None, None]
    bend = F.interpolate(bend, (fine, fine), mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
    source = (
        source + bend + torch.stack([box[:, 0] / 2, box[:, 1]], 1)[:, None, None] + 2
    )  # 2: the canvas margin
    grid = source / canvas.shape[-1] * 2 - 1
    drawn = F.grid_sample(canvas, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return F.avg_pool2d(drawn, 2)


def match_light(dice: Dice, colour: Tensor, picture: Tensor) -> Tensor:
    """Vary the object's colours a little and dim it with the picture's lower half, where it stands."""
    size = picture.shape[-1]
    ground = picture[:, :, size // 2 :].mean((1, 2, 3), keepdim=True)
    gain = dice.uniform(0.85, 1.15, 1, 1, 1) * dice.uniform(0.95, 1.05, 3, 1, 1)
    colour = colour.clamp(0, 1) * gain
    grey = colour.mean(1, keepdim=True)
    colour = (grey + (colour - grey) * dice.uniform(0.8, 1.2, 1, 1, 1)).clamp(0, 1)
    return colour * (0.5 + 0.5 * (0.6 + 0.8 * ground.clamp(0.1, 0.6)))


def contact_shadow(dice: Dice, alpha: Tensor, foot_y: Tensor) -> Tensor:
    """How much the ground darkens (b 1 s s): the alpha squashed on to the ground line and blurred."""
    size, squash = alpha.shape[-1], 0.16
    axis = torch.arange(size, device=alpha.device) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    shift = dice.normal(2.0 * size / 128)[:, None, None]
    line = foot_y[:, None, None]
    grid = torch.stack(
        [(x - shift) / size * 2 - 1, ((y - line) / squash + line).expand_as(x - shift) / size * 2 - 1], -1
    )
    flat = F.grid_sample(alpha, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return gaussian_blur(flat, 2.2 * size / 128) * dice.uniform(0.35, 0.65, 1, 1, 1)


def gaussian_blur(picture: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur of (b 1 h w), sigma in pixels."""
    radius = round(3 * sigma)
    x = torch.arange(-radius, radius + 1, device=picture.device, dtype=picture.dtype)
    kernel = torch.softmax(-(x**2) / (2 * sigma**2), 0)
    picture = F.conv2d(picture, kernel.view(1, 1, 1, -1), padding=(0, radius))
    return F.conv2d(picture, kernel.view(1, 1, -1, 1), padding=(radius, 0))


def latent_mask(mask: Tensor, factor: int = 4) -> Tensor:
    """Alpha (b 1 s s) to the share of each latent cell that the object covers (b 1 s/factor s/factor)."""
    return F.avg_pool2d(mask, factor)


def save_sheet(pictures: Tensor, path: Path, columns: int = 8) -> None:
    """Write (b 3 s s) in [0, 1] as one contact sheet."""
    count, _, height, width = pictures.shape
    rows = -(-count // columns)
    sheet = torch.ones(3, rows * (height + 2), columns * (width + 2))
    for index, picture in enumerate(pictures.detach().float().cpu()):
        top, left = index // columns * (height + 2), index % columns * (width + 2)
        sheet[:, top : top + height, left : left + width] = picture
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()).save(path)
