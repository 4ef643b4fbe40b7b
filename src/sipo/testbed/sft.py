"""Supervised fine-tuning of the tiny model on an environment's demonstrations: packed rows, one short loop."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from sipo.decoding import seed_of
from sipo.errors import SipoError
from sipo.finite import finite
from sipo.progress import Progress
from sipo.testbed.environment import TASKS, Environment
from sipo.testbed.tiny import END, task_prompt


@dataclass(frozen=True)
class Sft:
    """Settings of supervised fine-tuning."""

    teach: tuple[str, ...] = TASKS
    """Leave `review` or `rewrite` out, and the model is never shown one."""
    examples: int = 60_000
    epochs: int = 1
    lr: float = 5e-3
    batch_tokens: int = 1024
    """Tokens an optimizer step: about 40 examples."""


@dataclass(frozen=True)
class Demonstration:
    """One example: what the model reads, and what it is to write."""

    task: str
    asked: str
    answer: str


def demonstrations(environment: Environment, sft: Sft, seed: int) -> list[Demonstration]:
    """Examples of the tasks taught, in the environment's mix. Raises SipoError where `teach` leaves out `respond`."""
    if not {"respond"} <= set(sft.teach) <= set(TASKS):
        raise SipoError(f"teach: {', '.join(sft.teach) or 'nothing'}; it must have respond, of {', '.join(TASKS)}")
    rng = Random(seed_of(seed, "demonstrations"))
    shares = [share for task, share in zip(TASKS, environment.mix, strict=True) if task in sft.teach]
    tasks = [task for task in TASKS if task in sft.teach]
    return [_demonstration(environment, task, rng) for task in rng.choices(tasks, shares, k=sft.examples)]


def _demonstration(environment: Environment, task: str, rng: Random) -> Demonstration:
    texts = [environment.draw_prompt(rng)]
    texts.append(environment.respond(texts[0], rng))
    if task != "respond":
        texts.append(environment.review(texts[0], texts[1], rng))
    if task == "rewrite":
        texts.append(environment.rewrite(texts[0], texts[1], texts[2], rng))
    return Demonstration(task, task_prompt(task, texts[:-1]), texts[-1])


def fine_tune(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    examples: list[Demonstration],
    sft: Sft,
    seed: int,
    progress: Progress,
) -> list[float]:
    """Train all parameters by cross-entropy on what is to be written; the loss of every step, in nats a token.

    On one thread, whatever is set: the model is too small for more, and the result then does not depend on it.
    """
    words = tokenizer.get_vocab()
    try:
        encoded = [
            ([words[word] for word in each.asked.split()], [words[word] for word in (*each.answer.split(), END)])
            for each in examples
        ]
    except KeyError as error:
        raise SipoError(f"the environment wrote {error}, which is not in its vocabulary; add it there") from None
    width = max(128, max(len(asked) + len(answer) for asked, answer in encoded))
    plan = [batch for epoch in range(sft.epochs) for batch in _batches(encoded, width, sft.batch_tokens, seed + epoch)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=sft.lr, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, len(plan) // 20, len(plan))
    losses: list[float] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with progress.track("supervised fine-tuning", len(plan), unit="steps") as advance:
            for batch in plan:
                loss = _loss(model, *_tensors(batch, width))
                finite(loss.item(), f"fine-tuning, step {len(losses) + 1} of {len(plan)}: loss", "lower its lr")
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                losses.append(float(loss.detach()))
                advance(1)
    finally:
        torch.set_num_threads(threads)
    return losses


Encoded = tuple[list[int], list[int]]


def _batches(examples: list[Encoded], width: int, tokens: int, seed: int) -> Iterator[list[list[Encoded]]]:
    """Shuffled examples in rows of at most `width` tokens, and as many rows a batch as `tokens` allow."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    rows: list[list[Encoded]] = [[]]
    room = width
    for asked, answer in (examples[i] for i in order):
        if len(asked) + len(answer) > room:
            rows.append([])
            room = width
        rows[-1].append((asked, answer))
        room -= len(asked) + len(answer)
    size = max(1, tokens // width)
    return (rows[at : at + size] for at in range(0, len(rows), size))


def _tensors(rows: list[list[Encoded]], width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids, positions and segments [rows, width], and targets [rows, width], -100 where nothing is to be written."""
    ids, positions, segments, targets = [], [], [], []
    for row in rows:
        lengths = [len(asked) + len(answer) for asked, answer in row]
        rest = width - sum(lengths)
        ids.append([token for asked, answer in row for token in (*asked, *answer)] + [0] * rest)
        positions.append([at for length in lengths for at in range(length)] + [0] * rest)
        segments.append([number for number, length in enumerate(lengths) for _ in range(length)] + [-1] * rest)
        wanted = [token for asked, answer in row for token in (*[-100] * (len(asked) - 1), *answer, -100)]
        targets.append(wanted + [-100] * rest)
    return torch.tensor(ids), torch.tensor(positions), torch.tensor(segments), torch.tensor(targets)


def _loss(model: LlamaForCausalLM, ids: Tensor, positions: Tensor, segments: Tensor, targets: Tensor) -> Tensor:
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    mask = (segments[:, :, None] == segments[:, None, :]) & causal  # packed examples do not see one another
    hidden = model.model(
        input_ids=ids, position_ids=positions, attention_mask=mask[:, None], use_cache=False
    ).last_hidden_state
    taught = targets >= 0
    return cross_entropy(model.lm_head(hidden[taught]), targets[taught])
