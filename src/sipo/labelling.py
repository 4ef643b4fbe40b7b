"""Making preference rows: prompts, two answers to each from a model, and labels from reward functions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sipo.bank import Bank
from sipo.config import Decoding, Execution, Model, Objective
from sipo.data import Row, read_prompts, write_rows
from sipo.decoding import Request, answer, base, seed_of
from sipo.engines import check_engine, opened
from sipo.models.chat import Codec
from sipo.models.load import identify, load_backbone
from sipo.progress import Progress
from sipo.rewards import Item, check_rewards, score_responses


def label(
    prompts: Path,
    model: Model,
    objectives: Sequence[Objective],
    to: Path,
    *,
    decoding: Decoding,
    max_new_tokens: int = 64,
    seed: int = 0,
    device: str = "auto",
    decode_rows: int = 64,
    engine: Literal["transformers", "vllm"] = "transformers",
    progress: Progress | None = None,
) -> list[Row]:
    """Write one row for each prompt whose two answers differ; equal scores are ties.

    Every objective must have a reward. The answers are drawn from the model alone, so that both have the same
    chance on every objective. Killed and called again with the same arguments, it goes on where it was.
    """
    execution = Execution(device=device, decode_rows=decode_rows, engine=engine)
    check_engine(execution)
    check_rewards(objectives, execution)
    chats = read_prompts(prompts)
    backbone = load_backbone(model, device)
    codec = Codec(backbone.tokenizer, backbone.context - max_new_tokens, max_new_tokens, model.prompt_template)
    requests = [
        Request(tuple(codec.encode_prompt(chat)), base(0), seed_of(seed, "label", chat, index))
        for chat in chats
        for index in range(2)
    ]
    bank = Bank(backbone)
    plan = seed_of(identify(model), decoding, max_new_tokens, decode_rows, engine, requests)
    with bank.mounted([]), opened(execution) as opened_engine:
        answers = answer(
            bank,
            requests,
            decoding,
            max_new_tokens,
            codec.end,
            rows=decode_rows,
            folder=to.parent,
            label=f"{to.stem}-{plan:x}",
            progress=progress or Progress(),
            engine=opened_engine,
        )
    texts = [codec.decode(each.tokens) for each in answers]
    items = [Item(chat, text) for chat, text in zip((chat for chat in chats for _ in range(2)), texts, strict=True)]
    scores = score_responses(objectives, items, execution, progress)
    for each in objectives:
        if each.direction == "minimize":
            scores[each.name] = [-value for value in scores[each.name]]
    rows = []
    for i, chat in enumerate(chats):
        first, second = texts[2 * i], texts[2 * i + 1]
        if first and second and first != second:
            preferred = {name: _better(values[2 * i], values[2 * i + 1]) for name, values in scores.items()}
            rows.append(Row(chat, (first, second), preferred))
    write_rows(to, rows)
    _forget(to.parent, f"{to.stem}-{plan:x}")
    return rows


def _better(first: float, second: float) -> int | None:
    return None if first == second else int(second > first)


def _forget(folder: Path, name: str) -> None:
    from sipo.disk.journal import FOLDER

    (folder / FOLDER / f"{name}.jsonl").unlink(missing_ok=True)
    if not any((folder / FOLDER).iterdir()):
        (folder / FOLDER).rmdir()
