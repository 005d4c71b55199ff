"""The words of the embedded model, the photos behind them, and the captions made of them."""

from dataclasses import dataclass

import numpy as np

MAMMALS = "animals/mammals"
FRUIT = "food/fruit"


@dataclass(frozen=True)
class Thing:
    """A word, the cut-outs that show it, its share of the training scenes, and photos no training sees."""

    word: str
    share: float
    photos: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    width: tuple[float, float] = (0.4, 0.8)  # of the picture's width


@dataclass(frozen=True)
class Place:
    """A word and the panorama that shows it."""

    word: str
    share: float
    panorama: str


_FRUIT_WIDTH = (0.28, 0.55)
THINGS = (
    Thing("horse", 0.20, (f"{MAMMALS}/equines/horse",)),
    Thing("zebra", 0.20, (f"{MAMMALS}/equines/zebra",)),
    Thing("donkey", 0.04, (f"{MAMMALS}/equines/donkey",), (f"{MAMMALS}/equines/donkey_eating",)),
    Thing("cow", 0.05, (f"{MAMMALS}/bovines/cow",), (f"{MAMMALS}/bovines/cow_white",)),
    Thing("sheep", 0.04, (f"{MAMMALS}/bovines/sheep",), (f"{MAMMALS}/bovines/sheep_lamb",)),
    Thing("goat", 0.02, (f"{MAMMALS}/bovines/goat",)),
    Thing("dog", 0.06, (f"{MAMMALS}/dogs/dog",)),
    Thing("fox", 0.06, (f"{MAMMALS}/dogs/fox",)),
    Thing("lion", 0.04, (f"{MAMMALS}/cats/lion-2",), (f"{MAMMALS}/cats/lion",)),
    Thing("tiger", 0.05, (f"{MAMMALS}/cats/tiger", f"{MAMMALS}/cats/tiger_sumatran")),
    Thing("bear", 0.03, (f"{MAMMALS}/bears/bear",), (f"{MAMMALS}/bears/european-bear",)),
    Thing("elephant", 0.03, (f"{MAMMALS}/elephant",)),
    Thing(
        "apple", 0.06, (f"{FRUIT}/apple_red", f"{FRUIT}/apple_fuji"), (f"{FRUIT}/apple_green",), _FRUIT_WIDTH
    ),
    Thing("pear", 0.05, (f"{FRUIT}/pear",), (), _FRUIT_WIDTH),
    Thing("orange", 0.03, (f"{FRUIT}/mandarine", f"{FRUIT}/orange"), (), _FRUIT_WIDTH),
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
)
HELD_OUT_PANORAMAS = ("esplanade", "bridge")  # no training saw them
PLAIN_WORDS = ["a", "an", "and", "empty", "in", "of", "photo", "the"]
NOTHING_SHARE = 0.04  # empty places
NOTHING = -1  # the index of "no object"


def caption_words() -> list[str]:
    """Every word that a caption can hold."""
    return sorted({*PLAIN_WORDS, *(thing.word for thing in THINGS), *(place.word for place in PLACES)})


def with_article(word: str) -> str:
    """'a horse', 'an apple'."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def caption(rng: np.random.Generator, thing: int, second: int, place: int, drop: float = 0.12) -> str:
    """A random caption of a scene; with probability `drop` it is empty, for classifier-free guidance."""
    if rng.random() < drop:
        return ""
    where = PLACES[place].word
    if thing == NOTHING:
        return str(rng.choice([f"a {where}", f"an empty {where}", f"a photo of a {where}", where]))
    what = with_article(THINGS[thing].word)
    if second != NOTHING:
        what = f"{what} and {with_article(THINGS[second].word)}"
        return str(rng.choice([what, f"a photo of {what}", f"{what} in the {where}"]))
    bare = THINGS[thing].word
    choices = [what, what, f"a photo of {what}", bare, f"{what} in the {where}", f"{what} in a {where}"]
    return str(rng.choice([*choices, f"a photo of {what} in the {where}"]))
