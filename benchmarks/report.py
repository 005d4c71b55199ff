"""Where the figures of all benchmarks are stored, and how they are shown."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results.jsonl"
Figures = dict[str, float]


def record(benchmark: str, **facts: Any) -> None:
    """Append a line to results.jsonl."""
    with RESULTS.open("a") as file:
        file.write(json.dumps({"benchmark": benchmark, **facts}) + "\n")


def means(rows: Sequence[Figures]) -> Figures:
    """The mean of each figure over rows that all have it."""
    return {key: round(sum(row[key] for row in rows) / len(rows), 4) for key in rows[0]}


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_block(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->`."""
    content = path.read_text()
    before, rest = content.split(f"<!-- {name} -->")
    _, after = rest.split(f"<!-- /{name} -->")
    path.write_text(f"{before}<!-- {name} -->\n{text}\n<!-- /{name} -->{after}")
