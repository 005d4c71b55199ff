"""Write docs/cli.md from the commands' own help; with --check, fail if the file is stale."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

for name in ("COLUMNS", "FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "TYPER_USE_RICH"):
    os.environ.pop(name, None)  # what the help would otherwise depend on
for name in [name for name in os.environ if name.startswith("DIFFEDIT_")]:
    del os.environ[name]
os.environ |= {"XDG_CONFIG_HOME": os.devnull}  # no configuration of whoever runs this
os.environ |= {"TERMINAL_WIDTH": "100", "_TYPER_FORCE_DISABLE_TERMINAL": "1", "NO_COLOR": "1", "TERM": "dumb"}
# Typer reads these when it is imported

import typer  # noqa: E402
from typer.main import get_command  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from diffedit_cli.cli.app import app  # noqa: E402

TARGET = Path(__file__).with_name("cli.md")

HEAD = """\
# Commands

This page is made by `python docs/make_cli.py`; change the settings' help or that script, not this page.

Results go to stdout, or to a file; progress, notes and errors go to stderr.

## Exit codes

| code | meaning |
|---|---|
| 0 | It worked. |
| 1 | It failed: a picture, a checkpoint, the texts, or numbers that are not finite. |
| 2 | The command line is wrong: an unknown flag, a value out of range, flags that do not go together. |
| 3 | Several results were asked for, and some failed; the others were written. |
| 130 | It was interrupted with Ctrl-C. |

An error is one sentence and what to do about it; `--verbose` adds the traceback.

## Settings that are kept

`diffedit config set steps 50` keeps a setting in the user's `config.toml`, with `--project` in the folder's
`diffedit.toml` (the nearest one upwards counts); `diffedit config path` says where they are. A file holds one
`key = value` a setting; a key is the long flag without its dashes in front and with `_` for `-`:
`mask_threshold = 0.5`. A variable is `DIFFEDIT_` and the key in capitals: `DIFFEDIT_MASK_THRESHOLD=0.5`, and
`DIFFEDIT_MASK_STRENGTH=0.3,0.5` for several values. A setting holds for each command that has it. Unknown
keys and values that cannot be are refused. Precedence: flag, variable, project, user, default.

## JSON

With `--json` stdout holds one JSON object on one line; of several results, one line each.

| command | keys |
|---|---|
| `edit` | `output`, `coverage`, `changed_outside`, `seconds`, \
`network_seconds`, `forwards`, `notices`, `settings`; of several results one line each, with `made_together` |
| `edit --animate` | also `animation` (the film's path) and `frames`; `forwards` is without the film |
| `edit --dry-run` | `output` (`-` is stdout), or `outputs` of several results; `model`, \
`forwards`: an object with one number a stage |
| `mask` | as `edit`, without `changed_outside` |
| `generate` | as `mask`, without `coverage` |
| `interpolate` | `output`, `frames`, `seed` (a list), `seconds`, `network_seconds`, `forwards`, `notices`; \
its settings are in the film |
| `compare` | as `mask`, without `coverage`; `tiles`: a list of `label` and the keys of `edit` or `generate` |
| `compare --dry-run` | `output`, `tiles` (their labels), `forwards` |
| `models list` | `models`: a list of `name`, `about`, `licence`, `bytes`, `is_here`; \
`words`: what the embedded model knows |
| `models info` | `name`, `is_here`, `side`, `parameters`, `bytes`, `licence`; then, if it is here, `kind`, \
`predicts`, `networks`, `path`, else `about`, `repository`, `revision`, `variant` |
| `models pull` | `name`, `path` |
| `models default` | `model`, `from` (a path, a variable or the package) |
| `info` | `file`, `settings` (null: none); of a picture also `width`, `height`, `has_alpha`, `has_profile`, \
`has_exif` |
| `rerun` | as the command that made the file |
| `config show` | `settings`: by key, `value` and `from` (a path or a variable) |
| `config path` | `user` and `project`, each with `path` and `exists` |
| `config set` | `key`, `value`, `path` |
| `doctor` | one text for each thing that was looked at |
| an error | `error`, `hint`, and, of several results, `input`; the exit code is as above. A flag \
that is unknown, or whose value cannot be read, and a wrong configuration give no JSON |

`coverage` is the share of the picture, 0 to 1, that the mask touches. `changed_outside` counts the pixels
outside the mask that differ from the input; it is 0. `forwards` counts samples through the UNet. `seconds`,
`network_seconds` and `forwards` are those of all results that were `made_together`. `settings` holds the
version, the command, the model (its name, the commit of a hub id, device and type), the input's name and
SHA-256, the SHA-256 of a mask that was given, and every setting as run. Of a path on the user's machine only
the last part is told. With `-o -` the picture goes to stdout, and the JSON to stderr, alone.
"""


def sections(command: object, name: str, depth: int = 2) -> Iterator[str]:
    """The help of a command, then that of each command below it."""
    result = CliRunner().invoke(app, [*name.split()[1:], "--help"], prog_name="diffedit", color=False)
    if result.exit_code:
        raise SystemExit(f"`{name} --help` failed: {result.output}")
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    lines = "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")
    yield f"{'#' * depth} {name}\n\n```text\n{lines}\n```\n"
    for below, child in getattr(command, "commands", {}).items():
        yield from sections(child, f"{name} {below}", depth + (depth == 2))


def main() -> None:
    page = "\n".join([HEAD, *sections(get_command(app), "diffedit")])
    if sys.argv[1:] == ["--check"]:
        if not TARGET.is_file() or TARGET.read_text("utf-8") != page:
            raise SystemExit(
                f"docs/cli.md is stale. Run `python docs/make_cli.py` and commit the file. "
                f"(This is Typer {typer.__version__}; another release may lay the help out in another way.)"
            )
        return
    TARGET.write_text(page, "utf-8", newline="\n")


if __name__ == "__main__":
    main()
