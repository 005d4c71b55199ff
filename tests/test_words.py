"""The notes on a prompt's words: those that the model does not know, and the syntax of other programs."""

import pytest

from diffedit_cli.models import EMBEDDED, DiffusersDenoiser, known_words
from diffedit_cli.notices import syntax_notices, unknown_notice, word_notices

WORDS = known_words(EMBEDDED) or {}


@pytest.mark.parametrize(
    ("unknown", "near"),
    [
        (["hors"], "horse"),
        (["aple"], "apple"),
        (["lions", "zebras"], "zebra"),
        (["bowl", "of", "aples"], "apple"),
    ],
)
def test_the_nearest_words_are_named(unknown: list[str], near: str) -> None:
    told = unknown_notice("embedded", WORDS, unknown)
    assert f"does not know: {', '.join(unknown)}." in told
    assert near in told.split("nearest words that it knows: ")[1].split(".")[0].split(", ")


def test_the_vocabulary_is_not_printed() -> None:
    told = unknown_notice("embedded", WORDS, ["xylophone"])
    assert "nearest" not in told
    assert "`diffedit models list` shows" in told
    assert "giraffe" not in told
    assert "diffedit.json" in unknown_notice("mine", WORDS, ["xylophone"])


@pytest.mark.parametrize(
    ("prompt", "part", "hint"),
    [
        ("a (zebra:1.3) in a park", "(zebra:1.3)", "--guidance-scale"),
        ("a ((zebra))", "((zebra))", "--guidance-scale"),
        ("a [horse:zebra:0.5]", "[horse:zebra:0.5]", "during a run"),
        ("a horse BREAK a park", "BREAK", "Leave it out"),
        ("a horse <lora:x:1>", "<lora:x:1>", "--lora"),
    ],
)
def test_syntax_of_other_programs_is_noted(prompt: str, part: str, hint: str) -> None:
    (told,) = syntax_notices(["a horse", prompt, prompt])
    assert told.startswith(f"{part} in a prompt is read as plain words.")
    assert hint in told


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a zebra (white)",
        "<cat-toy>",
        "at 10:30",
        "(a: b)",
        "a [red] bus",
        "a broken mug",
        "breakfast",
        "1:2 (3)",
    ],
)
def test_plain_words_are_not_noted(prompt: str) -> None:
    assert syntax_notices([prompt]) == ()


def test_a_run_tells_both(model: DiffusersDenoiser) -> None:
    assert any("(zebra:1.3)" in told for told in word_notices(model, "", "(zebra:1.3)"))


def test_a_note_on_a_long_prompt_is_short(model: DiffusersDenoiser) -> None:
    told = next(told for told in word_notices(model, "zebra " * 200) if "ignored" in told)
    assert told.endswith(f"reads and is ignored: {('zebra ' * 200)[:60]}...")
    (told,) = syntax_notices([f"({'zebra ' * 200}:1.3)"])
    assert len(told) < 150
