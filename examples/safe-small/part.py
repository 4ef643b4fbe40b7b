"""Part PKU-SafeRLHF into what the judges learn from and what the policies see; no prompt is in both.

    python examples/safe-small/part.py SOURCE FOLDER

SOURCE is as of `sipo data prepare`: pku-saferlhf, or a file or folder of its rows. Into FOLDER go `policies.jsonl`,
rows as they were, and two folders for `sipo reward train`: `pairs`, rows as they were, and `flags`, single responses
with `harmless`, 1 where the data set calls them safe. In both, `test` is of the policies' prompts.
"""

import json
import sys
from pathlib import Path

from sipo.data.sources.finding import find
from sipo.data.splits import position

JUDGED_BY = 0.5
"""Share of the prompts that the judges learn from."""
SEED = 1
"""Not the seed of the run, whose own split would then fall together with this one."""

source, folder = sys.argv[1], Path(sys.argv[2])
parts: dict[str, list[dict[str, object]]] = {}
for record in find(source, "pku-saferlhf").records:
    row = record.value
    part = "train" if position(row["prompt"], SEED) < JUDGED_BY else "test"
    parts.setdefault(f"pairs/{part}", []).append(row)
    for k in (0, 1):
        flag = {
            "prompt": row["prompt"],
            "response": row[f"response_{k}"],
            "harmless": int(row[f"is_response_{k}_safe"]),
        }
        parts.setdefault(f"flags/{part}", []).append(flag)

parts["policies"] = parts["pairs/test"]
for name, rows in parts.items():
    path = folder / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)}")
