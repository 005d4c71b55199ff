"""Many pictures: from a manifest or a folder to a dataset, in parts that are saved whole or not at all.

    from diffedit_cli.batch import Batch

    batch = Batch("rows.jsonl", "out", EditConfig(ref="horse", query="zebra"))
    plan = batch.plan()
    for done in batch.run(plan, batch.left(plan), workers=4):
        print(done)
    summary = batch.finish(plan)

Needs the extra `batch` (pip install 'diffedit-cli[batch]'), and for the engine ray the extra `ray`.
"""

from .driver import Batch
from .parts import Done
from .plan import Plan
from .records import Summary

__all__ = ["Batch", "Done", "Plan", "Summary"]
