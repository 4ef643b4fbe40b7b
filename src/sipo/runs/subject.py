"""What a run is about: another model, other rows or other objectives make another run."""

import hashlib
import json
from typing import Any

from sipo.models.load import identify
from sipo.task import Task


def subject(task: Task) -> dict[str, Any]:
    """Digests of the model and the rows, and the names of the objectives: part of every stage's key."""
    rows = hashlib.sha256()
    for row in task.rows:
        rows.update(json.dumps([row.id, row.preferred, *filter(None, [row.split])], sort_keys=True).encode())
    return {
        "model": identify(task.config.model),
        "rows": rows.hexdigest()[:16],
        "objectives": list(task.objectives),
    }
