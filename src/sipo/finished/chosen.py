"""The responses that SIPO chose to learn from, as preference rows for other trainers."""

import json
from pathlib import Path
from typing import Any

from sipo.data.convert import describe, writer
from sipo.data.rows import Row
from sipo.declare.parts import CANDIDATES, CHOICE
from sipo.disk.appearing import appearing
from sipo.disk.publishing import check_name
from sipo.errors import SipoError
from sipo.filters.contest import CHOSEN
from sipo.finished.export import codec_of
from sipo.graph.build import Graph
from sipo.runs.outputs import Outputs, backbone_of
from sipo.runs.status import read_run, require
from sipo.task import Task

FILE = "chosen.jsonl"


def export_chosen(run: Path, to: Path, format: str) -> dict[str, Any]:
    """Make the folder `to`, whole or not at all: the chosen responses of the last round, each preferred to the two of
    its row, which are cut where the run cuts them. Beside the format's own columns stand the `weights` that a response
    was sampled at, and its `source`, sample or rewrite.

    Returns the file and how many pairs, responses and prompts it has. Raises SipoError where the run has chosen none,
    and for a chat that the format has no place for.
    """
    write = writer(format)
    check_name(to)
    config = read_run(run)
    filters = [stage for stage in Graph(config) if CHOICE in stage.writes]
    if not filters:
        raise SipoError(
            f"{run}: has chosen no responses, because its methods are {', '.join(config.methods)}; add sipo"
        )
    require(run, config, filters[-1].name)
    candidates = [each for each in Outputs(run, config).of(filters[-1][CANDIDATES]) if each.fate == CHOSEN]
    if not candidates:
        raise SipoError(f"{run}: its filter chose no response; `sipo status {run}` and its report say why")
    rows = {row.id: row for row in Task(config).rows}
    codec = codec_of(backbone_of(run, config), config.data.max_response_tokens)
    records = []
    for each in candidates:
        if (row := rows.get(each.row)) is None:
            raise SipoError(f"{config.data.path}: has other rows than {run} was made with; put those back")
        for original in dict.fromkeys(map(codec.used, row.responses)):
            if original != each.response:
                made = write(Row(row.prompt, (original, each.response), {}), 1)
                records.append({**made, "weights": each.weights, "source": each.source})
    with appearing(to) as folder:
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / FILE).write_text("".join(lines), encoding="utf-8")
        describe(folder, [FILE], format)
    prompts = len({each.prompt for each in candidates})
    return {"file": to / FILE, "pairs": len(records), "responses": len(candidates), "prompts": prompts}
