"""Preparing an environment: the fine-tuned model, the labelled rows, the templates, and the settings of a run."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import yaml
from jinja2 import Environment as Jinja

from sipo.data import Row, write_rows
from sipo.data.prompts import parse_prompt
from sipo.decoding import seed_of
from sipo.disk.locking import alone
from sipo.disk.publishing import move, remove, sync
from sipo.disk.tables import write_records, write_text
from sipo.errors import SipoError
from sipo.labelling import Drawing, draw
from sipo.progress import Progress
from sipo.rewards import Item, score_responses, signed_rewards
from sipo.rewards.objective import Objective
from sipo.settings import Decoding, Execution, Model
from sipo.testbed.environment import Environment
from sipo.testbed.sft import Sft, demonstrations, fine_tune
from sipo.testbed.tiny import CHAT, new_model, new_tokenizer, save

PROBES = 64
ALIGN_LR = 1e-3


@dataclass(frozen=True)
class Testbed:
    """A folder with `model/`, `review.yaml`, `rewrite.yaml`, `sft.jsonl` (losses) and rows; a run can live in it."""

    environment: Environment
    seed: int
    folder: Path
    rows: Path
    """All objectives of the environment are labelled; a run reads those that it names."""

    def settings(self, objectives: Sequence[str] | None = None) -> dict[str, Any]:
        """The tuned settings of an ordinary run, paths absolute; change what is studied and `parse_config` them."""
        values: dict[str, Any] = yaml.safe_load(self.config_text(objectives))
        values["model"]["path"] = str(self.folder.absolute() / "model")
        values["data"]["path"] = str(self.rows.absolute())
        for name in ("review_template", "rewrite_template"):
            values["refine"][name] = str(self.folder.absolute() / values["refine"][name])
        return values

    def config_text(self, objectives: Sequence[str] | None = None) -> str:
        """The same as a commented run.yaml that stands in the folder; its run goes to `run` there."""
        jinja = Jinja(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)
        template = jinja.from_string((files("sipo.testbed") / "run.yaml").read_text(encoding="utf-8"))
        chosen = self.environment.chosen(objectives)
        rates = {objective.name: self.environment.rates.get(objective.name, ALIGN_LR) for objective in chosen}
        return template.render(
            environment=self.environment,
            seed=self.seed,
            rows=self.rows.name,
            run_dir=json.dumps(str(self.folder / "run")),
            objectives=chosen,
            align_lr=ALIGN_LR if set(rates.values()) == {ALIGN_LR} else json.dumps(rates),
        )


def prepare(
    environment: Environment,
    seed: int,
    to: Path,
    *,
    sft: Sft | None = None,
    pairs: int = 12_000,
    noise: float = 0.1,
    progress: Progress | None = None,
) -> Testbed:
    """Teach a model the environment and let it draw `pairs` pairs, or find what an earlier call left in `to`.

    The two responses of a pair are samples of the fine-tuned model at temperature 1; empty and equal ones drop
    out. An objective prefers the one with the better reward after normal noise with standard deviation `noise` on
    the difference, in the reward's unit. Everything follows from the seed; another environment, seed or setting
    gets a folder of its own. What is not complete is made anew. Raises SipoError where the environment contradicts
    itself.
    """
    sft, progress = sft or Sft(), progress or Progress()
    for objective in environment.objectives:
        if objective.reward is None:
            raise SipoError(f"environment {environment.name}: `{objective.name}` has no reward; name module:function")
    folder = to / f"{environment.name}-{seed}-{seed_of(seed, sft, CHAT, _probe(environment)) % 16**6:06x}"
    rows = folder / f"rows-{pairs}-{noise:g}.jsonl"
    with alone(to / f".{folder.name}", wait=True):
        if not folder.exists():
            with _scratch(to) as scratch:
                _teach(environment, seed, sft, scratch / "new", progress)
                sync(scratch / "new")
                move(scratch / "new", folder)
        if not rows.exists():
            with _scratch(to) as scratch:
                drawn = _draw_pairs(environment, seed, folder / "model", pairs, scratch, progress)
            write_rows(rows, relabelled(drawn, environment.objectives, noise, seed))
    return Testbed(environment, seed, folder, rows)


def _probe(environment: Environment) -> list[object]:
    """A fingerprint of what the environment does, whatever class it is: some demonstrations and their rewards."""
    shown = demonstrations(environment, Sft(examples=PROBES), seed=0)
    rng = Random(0)
    prompts = [environment.draw_prompt(rng) for _ in range(PROBES)]
    responses = [environment.respond(prompt, rng) for prompt in prompts]
    items = [Item(parse_prompt(x), y) for x, y in zip(prompts, responses, strict=True)]
    rewards = list(score_responses(environment.objectives, items).values())
    sizes = (environment.max_prompt_words, environment.max_response_words, environment.max_review_words)
    named = [(objective.name, objective.direction) for objective in environment.objectives]
    return [environment.vocabulary, named, environment.mix, sizes, shown, rewards]


def _teach(environment: Environment, seed: int, sft: Sft, folder: Path, progress: Progress) -> None:
    tokenizer = new_tokenizer(environment)
    model = new_model(environment, tokenizer, seed_of(seed, "model"))
    examples = demonstrations(environment, sft, seed)
    losses = fine_tune(model, tokenizer, examples, sft, seed, progress)
    save(model, tokenizer, folder)
    write_records(folder / "sft.jsonl", [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)])


def _draw_pairs(
    environment: Environment, seed: int, model: Path, pairs: int, scratch: Path, progress: Progress
) -> list[Row]:
    """Pairs without labels: `relabelled` gives them."""
    rng = Random(seed_of(seed, "prompts"))
    write_records(scratch / "prompts.jsonl", [{"prompt": environment.draw_prompt(rng)} for _ in range(pairs)])
    drawn = draw(
        scratch / "prompts.jsonl",
        Model(path=str(model), dtype="float32"),
        scratch / "pairs.jsonl",
        Drawing(Decoding(temperature=1.0), environment.max_response_words, seed=seed),
        execution=Execution(device="cpu", decode_rows=2048),
        progress=progress,
    )
    return [Row(chat, (first, second), {}) for chat, first, second in drawn.pairs]


def relabelled(rows: Sequence[Row], objectives: Sequence[Objective], noise: float, seed: int) -> list[Row]:
    """The rows with labels from noisy reward differences, the noise of each row and objective its own."""
    first, second = (signed_rewards(objectives, [Item(row.prompt, row.responses[i]) for row in rows]) for i in (0, 1))
    preferred: list[dict[str, int | None]] = [{} for _ in rows]
    for objective, differences in zip(objectives, (second - first).T.tolist(), strict=True):
        rng = Random(seed_of(seed, "labels", objective.name))
        for labels, difference in zip(preferred, differences, strict=True):
            seen = difference + rng.gauss(0.0, noise)
            labels[objective.name] = None if seen == 0 else int(seen > 0)
    return [replace(row, preferred=labels) for row, labels in zip(rows, preferred, strict=True)]


@contextmanager
def _scratch(to: Path) -> Iterator[Path]:
    folder = Path(mkdtemp(prefix=".partial-", dir=to))
    try:
        yield folder
    finally:
        remove(folder)


def write_config(prepared: Testbed) -> Path:
    """Write run.yaml into the folder, unless one is there: it may have been edited."""
    path = prepared.folder / "run.yaml"
    with alone(path, wait=True):
        if not path.exists():
            write_text(path, prepared.config_text())
    return path
