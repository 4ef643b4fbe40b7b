"""Making preference rows: prompts, two answers to each from a model, and labels from reward functions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sipo.bank import Bank
from sipo.config import Decoding, Execution, Model, Objective
from sipo.data import Row, read_prompts, write_rows
from sipo.decoding import Request, answer, base, seed_of
from sipo.disk.journal import forget
from sipo.engines import check_engine, opened
from sipo.models.chat import Codec
from sipo.models.load import identify, load_backbone
from sipo.progress import Progress
from sipo.rewards import Item, check_rewards, signed_rewards


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
    rewards = signed_rewards(objectives, items, execution, progress)
    rows = []
    for chat, first, second, *values in zip(chats, texts[::2], texts[1::2], rewards[::2], rewards[1::2], strict=True):
        if first and second and first != second:
            preferred = {each.name: _better(*pair) for each, *pair in zip(objectives, *values, strict=True)}
            rows.append(Row(chat, (first, second), preferred))
    write_rows(to, rows)
    forget(to.parent, f"{to.stem}-{plan:x}")
    return rows


def _better(first: float, second: float) -> int | None:
    return None if first == second else int(second > first)
