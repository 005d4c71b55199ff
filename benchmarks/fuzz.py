"""Random command lines, and mutated settings in TOML files and pictures: each gives a result or one sentence.

    python -m benchmarks.fuzz [--count 3000]

Every case is drawn from its own number, so it can be run again. What counts as wrong: an exception, "fault of
the program", an exit code other than 0 to 3, a control character in the output, or more than 30 seconds. No
case loads a model: they name one that does not exist. Prints the outcomes and the worst cases, and appends a
line to results.jsonl.
"""

import hashlib
import json
import os
import random
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.main import get_command
from typer.testing import CliRunner

from benchmarks.report import record
from diffedit_cli import __version__
from diffedit_cli.cli.app import app
from diffedit_cli.settings import EditConfig, GenerateConfig, ModelConfig, TalkConfig, flatten, keys

MOST_SECONDS = 30
NO_MODEL = "no-model.safetensors"
STRANGE: list[Any] = [
    *(None, True, 0, -1, 2**64, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan")),
    *("", "0.2:0.8", "\x1b[31m", "a\0b", "\ud800", "\u202eexe", "..", "/", "~", "x" * 5000, "cfg++", "none"),
    *([], [[]], ["a", 1], {}, {"a": {"b": []}}),
]
TOML = [
    *("1", "-5", "0.3", "true", '"zebra"', "'./a'", "[0.3, 0.5]", "[]", "{}", "{a = 1}", "1979-05-27"),
    *("inf", "nan", '"""a\nb"""', "0x10", "1e400", "9" * 5000, "[" * 3000, "=", "", "\0", "\ud800"),
    *('"\\u0000"', '"\\u001b[31m"', "'~nobody/x'"),
]
WORDS = [
    *("", "-", "--", "zebra", "0", "-1", "1e9", "nan", "0.3,0.5", "none,pred", "org/name"),
    *("in.png", "out.png", "no.png", ".", "/dev/null", "x" * 300),
    *("\x1b[31m", "a\u202eb", "ä🦓", "\udce9", "[/b]", ":horse:"),
]
LEFT_OUT = ("--model", "-m", "--install-completion", "--show-completion")
COMMANDS = [
    *("edit", "mask", "compare", "generate", "interpolate", "info", "rerun", "nope"),
    *("models info", "models default", "models list", "config show", "config path", "config set"),
]


@contextmanager
def sandbox() -> Iterator[Path]:
    """An empty working folder with a picture, and no configuration but what a case writes."""
    before, here = dict(os.environ), os.getcwd()
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"XDG_CONFIG_HOME": f"{name}/config", "HF_HUB_OFFLINE": "1", "HF_HOME": f"{name}/hub"}
        os.environ |= {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "200"}
        os.chdir(name)
        Image.new("RGB", (64, 48), "red").save("in.png")
        try:
            yield Path(name)
        finally:
            os.chdir(here)
            os.environ.clear()
            os.environ.update(before)


def verdict(*words: str) -> str:
    """What a command line gives: its exit code, or what is wrong with it."""
    signal.alarm(MOST_SECONDS)
    result = CliRunner().invoke(app, words)
    signal.alarm(0)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"raised {type(result.exception).__name__}: {result.exception}"[:200]
    if "bug in diffedit" in result.output:
        return result.stderr.strip()[-200:]
    if any(ord(character) < 32 and character != "\n" for character in result.output):
        return "control characters"
    return (
        f"exit {result.exit_code}" if result.exit_code in (0, 1, 2, 3) else f"wrong exit {result.exit_code}"
    )


def changed(data: bytes, dice: random.Random) -> bytes:
    """One to four bytes changed, doubled or left out, or the end cut off."""
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(data) + 1)
        new = (
            bytes([dice.randrange(256)]) if dice.random() < 0.5 else data[place : place + dice.randint(1, 20)]
        )
        data = data[:place] + new + data[place + dice.randint(0, 3) :]
    return data[: dice.randrange(1, len(data))] if data and dice.random() < 0.1 else data


def toml_case(dice: random.Random) -> list[list[str]]:
    """A wrong or odd diffedit.toml: it is shown, used, and written to."""
    schemas = EditConfig, GenerateConfig, ModelConfig, TalkConfig
    names = [*(key for schema in schemas for key, *_ in keys(schema)), "x", "mask.threshold", "[mask]", '""']
    lines = [
        f"{dice.choice(names)} = {dice.choice(TOML)} # {dice.choice(WORDS)}"
        for _ in range(dice.randint(1, 5))
    ]
    data = dice.choice(["\n", "\r\n"]).join(lines).encode("utf-8", dice.choice(["replace", "surrogatepass"]))
    data = dice.choice([b"", b"", b"", b"\xef\xbb\xbf", b"\xff\xfe"]) + data
    Path("diffedit.toml").write_bytes(changed(data, dice) if dice.random() < 0.5 else data)
    edit = ["edit", "in.png", "--query", "zebra", "--model", NO_MODEL]
    return [["config", "show"], ["config", "set", "--project", "steps", "9"], edit, ["edit", "--help"]]


def metadata_case(dice: random.Random) -> list[list[str]]:
    """A picture with settings as a stranger could write them: they are shown and run again."""
    command = dice.choice(["edit", "mask", "generate"])
    config = (
        GenerateConfig(prompt="a horse") if command == "generate" else EditConfig(ref="horse", query="zebra")
    )
    stored: Any = {
        **{"diffedit": __version__, "command": command, "model_is_local": False},
        **{"input": "in.png", "input_sha256": hashlib.sha256(Path("in.png").read_bytes()).hexdigest()},
        **flatten(ModelConfig()),
        **flatten(config),
    }
    for _ in range(dice.randint(1, 3)):
        key = dice.choice([*stored, "mask_sha256", "tries", "\x1b[2J"])
        if dice.random() < 0.2:
            stored.pop(key, None)
        else:
            stored[key] = dice.choice(STRANGE)
    if dice.random() < 0.05:
        stored = dice.choice(STRANGE)
    text = json.dumps(stored)
    if dice.random() < 0.3:
        text = changed(text.encode(), dice).decode("latin-1").replace("\0", "")
    if dice.random() < 0.02:
        text = "[" * 5000
    chunks = PngInfo()
    chunks.add_itxt("diffedit", text)
    Image.new("RGB", (8, 8)).save("made.png", pnginfo=chunks)
    return [["info", "made.png"], ["info", "made.png", "--json"], ["rerun", "made.png", "--model", NO_MODEL]]


def line_case(dice: random.Random) -> list[list[str]]:
    """A random command line."""
    command = get_command(app)
    names = dice.choice(COMMANDS).split()
    for name in names:
        command = getattr(command, "commands", {}).get(name, command)
    flags = [
        flag for param in command.params for flag in (*param.opts, *param.secondary_opts) if flag[:1] == "-"
    ]
    flags = [flag for flag in flags if flag not in LEFT_OUT]
    words = [
        dice.choice(flags if flags and dice.random() < 0.5 else WORDS) for _ in range(dice.randint(0, 8))
    ]
    takes_model = any(param.name == "model" and "--model" in param.opts for param in command.params)
    return [[*names, *(["--model", NO_MODEL] if takes_model else []), *words]]


CASES: dict[str, Callable[[random.Random], list[list[str]]]] = {
    "command lines": line_case,
    "toml": toml_case,
    "metadata": metadata_case,
}


def run(kind: str, numbers: range) -> tuple[Counter[str], list[tuple[int, list[str], str]], float]:
    """Outcomes by how often they came, what was wrong, and the seconds of the slowest command."""
    outcomes: Counter[str] = Counter()
    wrong: list[tuple[int, list[str], str]] = []
    slowest = 0.0
    for number in numbers:
        with sandbox():
            for words in CASES[kind](random.Random(f"{kind} {number}")):
                start = time.perf_counter()
                outcome = verdict(*words)
                slowest = max(slowest, time.perf_counter() - start)
                is_good = outcome.startswith("exit ")
                outcomes[outcome if is_good else "wrong"] += 1
                if not is_good:
                    wrong.append((number, words, outcome))
    return outcomes, wrong, slowest


def main(count: int = 3000, kind: str = "") -> None:
    """Run `count` cases of each kind, or of one, print what is wrong, and record the figures."""
    line: dict[str, Any] = {"cases": count}
    for name in [kind] if kind else CASES:
        outcomes, wrong, slowest = run(name, range(count))
        for case in wrong:
            print(name, *case)
        line[name] = {"outcomes": dict(outcomes), "slowest": round(slowest, 2)}
    line["gigabytes"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print(json.dumps(line, indent=1))
    record("fuzz", **line)


if __name__ == "__main__":
    typer.run(main)
