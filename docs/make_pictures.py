"""Make every picture that README.md and docs/ show, by the commands that they print.

    python docs/make_pictures.py

A fence marked `sh` holds commands that run as they stand in a clone of the repository; one marked `bash`
needs something else, such as your own photo or checkpoint.
"""

import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs/pictures"
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").rglob("*.md")})


def commands(page: Path) -> list[list[str]]:
    """The words of each command in the page's `sh` fences, in order."""
    fences = re.findall(r"^```sh\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    lines = "".join(fences).replace("\\\n", "").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def commands_for(page: Path, wanted: set[str]) -> list[list[str]]:
    """The page's commands that make a wanted file, and those that make what they read."""
    files, chosen = set(wanted), []
    for words in reversed(commands(page)):
        named = {word for word in words if Path(word).suffix and not word.startswith("examples/")}
        if files & named:
            files |= named
            chosen.insert(0, words)
    return chosen


def main() -> None:
    wanted = {path.name for path in PICTURES.iterdir()}
    for page in PAGES:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "examples").symlink_to(ROOT / "examples")
            for words in commands_for(page, wanted):
                print(shlex.join(words), flush=True)
                subprocess.run(words, cwd=folder, check=True)
            for name in sorted(wanted):
                if (made := Path(folder) / name).exists():
                    shutil.copy(made, PICTURES)
                    wanted.remove(name)


if __name__ == "__main__":
    main()
