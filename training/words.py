"""The words of the embedded model, the photos behind them, and the captions made of them."""

from dataclasses import dataclass

import numpy as np

MAMMALS = "animals/mammals"
BIRDS = "animals/birds"
FRUIT = "food/fruit"
VEHICLES = "vehicles"

# sRGB of the paint that a colour word stands for.
COLOURS = {
    "white": (0.88, 0.87, 0.85),
    "black": (0.11, 0.11, 0.12),
    "brown": (0.42, 0.26, 0.15),
    "red": (0.72, 0.10, 0.10),
    "blue": (0.12, 0.25, 0.65),
    "green": (0.15, 0.48, 0.20),
    "yellow": (0.90, 0.74, 0.12),
}
COATS = ("white", "black", "brown")
PAINTS = ("white", "black", "red", "blue", "green", "yellow")


@dataclass(frozen=True)
class Thing:
    """A word, the cut-outs that show it, its weight in the draw of scenes, and photos no training sees."""

    word: str
    share: float
    photos: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    width: tuple[float, float] = (0.4, 0.8)  # of the picture's width
    colours: tuple[str, ...] = ()  # that it is painted in, in a part of its scenes
    in_bowl: bool = False  # several of it, in a bowl; the mask is the fruit, not the bowl


@dataclass(frozen=True)
class Place:
    """A word and the panorama that shows it."""

    word: str
    share: float
    panorama: str


def thing(word: str, share: float, photo: str, held_out: str = "", colours: tuple[str, ...] = ()) -> Thing:
    """A thing with one photo, and perhaps one held out, drawn at the usual width."""
    return Thing(word, share, (photo,), (held_out,) if held_out else (), colours=colours)


def small(word: str, share: float, *photos: str, held_out: str = "", colours: tuple[str, ...] = ()) -> Thing:
    """A thing that is drawn smaller: fruit and household goods."""
    return Thing(word, share, photos, (held_out,) if held_out else (), (0.28, 0.55), colours)


def bowl(fruit: str, *photos: str) -> Thing:
    """A bowl of some fruit."""
    return Thing(f"bowl of {fruit}", 0.02, photos, width=(0.5, 0.85), in_bowl=True)


THINGS = (
    thing("horse", 0.12, f"{MAMMALS}/equines/horse", colours=COATS),
    thing("zebra", 0.08, f"{MAMMALS}/equines/zebra"),
    thing("donkey", 0.035, f"{MAMMALS}/equines/donkey", f"{MAMMALS}/equines/donkey_eating"),
    thing("cow", 0.05, f"{MAMMALS}/bovines/cow", f"{MAMMALS}/bovines/cow_white", COATS),
    thing("sheep", 0.035, f"{MAMMALS}/bovines/sheep", f"{MAMMALS}/bovines/sheep_lamb"),
    thing("goat", 0.02, f"{MAMMALS}/bovines/goat"),
    thing("dog", 0.06, f"{MAMMALS}/dogs/dog", colours=COATS),
    thing("fox", 0.045, f"{MAMMALS}/dogs/fox"),
    thing("lion", 0.055, f"{MAMMALS}/cats/lion-2", f"{MAMMALS}/cats/lion"),
    Thing("tiger", 0.05, (f"{MAMMALS}/cats/tiger", f"{MAMMALS}/cats/tiger_sumatran")),
    thing("bear", 0.02, f"{MAMMALS}/bears/bear", f"{MAMMALS}/bears/european-bear"),
    thing("elephant", 0.035, f"{MAMMALS}/elephant"),
    thing("giraffe", 0.01, f"{MAMMALS}/giraffe"),
    thing("hippo", 0.01, f"{MAMMALS}/hippopotamus"),
    thing("rhino", 0.01, f"{MAMMALS}/rhino_black"),
    thing("pig", 0.01, f"{MAMMALS}/pig", f"{MAMMALS}/pig_golden"),
    thing("rabbit", 0.03, f"{MAMMALS}/rodents/rabbit", f"{MAMMALS}/rodents/rabbit-2", COATS),
    thing("squirrel", 0.045, f"{MAMMALS}/rodents/squirrel"),
    thing("otter", 0.01, f"{MAMMALS}/aquatic/otter"),
    thing("koala", 0.01, "animals/marsupials/koala"),
    thing("kangaroo", 0.01, "animals/marsupials/kangaroo"),
    thing("camel", 0.01, f"{MAMMALS}/camel/camel", f"{MAMMALS}/camel/dromedary"),
    thing("deer", 0.01, f"{MAMMALS}/deer/doe", f"{MAMMALS}/deer/wapiti"),
    thing("gorilla", 0.01, f"{MAMMALS}/apes/gorilla"),
    thing("frog", 0.01, "animals/amphibians/frog", "animals/amphibians/frog-1"),
    thing("duck", 0.025, f"{BIRDS}/duck", f"{BIRDS}/drake"),
    thing("rooster", 0.06, f"{BIRDS}/rooster"),
    thing("owl", 0.01, f"{BIRDS}/owl"),
    thing("peacock", 0.01, f"{BIRDS}/peacock"),
    thing("penguin", 0.01, f"{BIRDS}/magellanic_penguin", f"{BIRDS}/penguin"),
    thing("flamingo", 0.01, f"{BIRDS}/pink_flamingo"),
    thing("ostrich", 0.01, f"{BIRDS}/ostrich"),
    small("apple", 0.03, f"{FRUIT}/apple_red", f"{FRUIT}/apple_fuji", held_out=f"{FRUIT}/apple_green"),
    small("pear", 0.03, f"{FRUIT}/pear"),
    small("orange", 0.02, f"{FRUIT}/mandarine", f"{FRUIT}/orange", held_out=f"{FRUIT}/orange_seville"),
    small("lemon", 0.015, f"{FRUIT}/lemon"),
    small("strawberry", 0.01, f"{FRUIT}/Strawberry2"),
    small("kiwi", 0.01, f"{FRUIT}/kiwi"),
    small("pineapple", 0.01, f"{FRUIT}/pineapple"),
    small("pumpkin", 0.01, "food/vegetables/pumpkin_small"),
    small("broccoli", 0.01, "food/vegetables/broccoli"),
    small(
        "mushroom", 0.01, "plants/mushrooms/cep", "plants/mushrooms/cep-1", held_out="plants/mushrooms/cep-2"
    ),
    small("mug", 0.01, "household/dishes/mug", colours=PAINTS),
    small("kettle", 0.01, "household/kettle", colours=PAINTS),
    small("teapot", 0.01, "household/dishes/teapot"),
    small("basketball", 0.01, "sports/basketball"),
    small("rose", 0.01, "plants/flowers/rose"),
    thing("car", 0.02, f"{VEHICLES}/auto/sedan", f"{VEHICLES}/auto/sportscar2", PAINTS),
    thing("truck", 0.01, f"{VEHICLES}/auto/truck"),
    thing("firetruck", 0.01, f"{VEHICLES}/emergency/firetruck"),
    thing("bus", 0.025, f"{VEHICLES}/masstransit/green_korean_bus"),
    bowl("apples", f"{FRUIT}/apple_red", f"{FRUIT}/apple_fuji"),
    bowl("pears", f"{FRUIT}/pear"),
    bowl("oranges", f"{FRUIT}/mandarine", f"{FRUIT}/orange"),
    bowl("lemons", f"{FRUIT}/lemon"),
)
PLACES = (  # bright places first
    Place("park", 3.0, "park"),
    Place("meadow", 3.0, "sunrise"),
    Place("forest", 2.0, "forest"),
    Place("savanna", 2.0, "night"),
    Place("desert", 2.0, "dawn"),
    Place("city", 1.5, "city"),
    Place("square", 1.5, "sunset"),
    Place("harbour", 1.5, "venice"),
    Place("room", 0.5, "apartment"),
    Place("hall", 0.7, "hall"),
    Place("warehouse", 0.7, "warehouse"),
)
HELD_OUT_PANORAMAS = ("esplanade", "bridge")  # no training saw them
BACKDROPS = {  # panoramas for the VAE alone: no caption names them; their shares, as in PLACES
    "blender-city": 2.0, "blender-forest": 2.0, "blender-night": 1.5, "blender-interior": 1.0,
    "lobby": 1.0, "lab": 0.7, "workshop": 0.7, "studio": 0.7,
}  # fmt: skip
PLAIN_WORDS = ["a", "an", "and", "empty", "in", "of", "photo", "the"]
NOTHING_SHARE = 0.04  # empty places
NOTHING = -1  # the index of "no object", "no colour"


def caption_words() -> list[str]:
    """Every word that a caption can hold."""
    spoken = [*(thing.word for thing in THINGS), *(place.word for place in PLACES), *COLOURS]
    return sorted({*PLAIN_WORDS, *" ".join(spoken).split()})


def parse(name: str) -> tuple[int, int]:
    """'white horse' to the index of the thing and of the colour, NOTHING without one."""
    words = [one.word for one in THINGS]
    if name in words:
        return words.index(name), NOTHING
    colour, _, word = name.partition(" ")
    return words.index(word), list(COLOURS).index(colour)


def with_article(word: str) -> str:
    """'a horse', 'an apple'."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def named(thing: int, colour: int) -> str:
    """'horse', 'white horse'."""
    word = THINGS[thing].word
    return word if colour == NOTHING else f"{list(COLOURS)[colour]} {word}"


def caption(
    rng: np.random.Generator, thing: int, second: int, place: int, colour: int = NOTHING, drop: float = 0.12
) -> str:
    """A random caption of a scene; with probability `drop` it is empty, for classifier-free guidance."""
    if rng.random() < drop:
        return ""
    where = PLACES[place].word
    if thing == NOTHING:
        return str(rng.choice([f"a {where}", f"an empty {where}", f"a photo of a {where}", where]))
    what = with_article(named(thing, colour))
    if second != NOTHING:
        both = [what, with_article(THINGS[second].word)]
        rng.shuffle(both)
        what = " and ".join(both)
        return str(rng.choice([what, f"a photo of {what}", f"{what} in the {where}"]))
    bare = named(thing, colour)
    placed = [f"{what} in the {where}", f"{what} in a {where}", f"a photo of {what} in the {where}"]
    return str(rng.choice([what, what, bare, bare, f"a photo of {what}", *placed]))
