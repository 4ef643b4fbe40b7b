"""A chat template with the date: a run keeps the day it began on, whatever day it goes on."""

import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from families import DATED, tokenizer_of
from transformers import AutoTokenizer

import sipo
from sipo.config import Config
from sipo.config.file import parse_config
from sipo.disk.run import MOMENT, SUBJECT, moment_of
from sipo.disk.tables import read_json, write_json
from sipo.labelling import Drawing, label
from sipo.message import Message
from sipo.models.chat import Codec
from sipo.progress import Progress
from sipo.rewards import Item
from sipo.rewards.encoding import ItemEncoder
from sipo.rewards.objective import Objective
from sipo.runs.pipeline import run
from sipo.settings import Decoding, Execution, Model
from sipo.task import Task

WEIGHT = {"detail": 0.5, "brevity": 0.5}
MODULES = (
    "sipo.task",
    "sipo.disk.run",
    "sipo.models.chat",
    "sipo.labelling",
    "sipo.rewards.model",
    "sipo.rewards.policy",
)
Clock = Callable[[datetime], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Sets the day that everything here is told."""

    def set_to(now: datetime) -> None:
        class Moved(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return now

        for module in MODULES:
            monkeypatch.setattr(f"{module}.datetime", Moved)

    return set_to


@pytest.fixture
def dated(model_folder: Path, settings: dict, tmp_path: Path) -> dict:
    """Small settings of a model whose chat template tells the day."""
    shutil.copytree(model_folder, tmp_path / "dated")
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = DATED
    tokenizer.save_pretrained(tmp_path / "dated")
    settings["model"]["path"] = str(tmp_path / "dated")
    settings["sample"]["per_weight"] = 2
    return settings | {"methods": ["base", "soups"]}


def config_of(settings: dict) -> Config:
    return parse_config(settings, "settings")


BEGAN = datetime(2031, 2, 3, 23, 59, 30)


def test_a_run_goes_on_another_day(dated: dict, clock: Clock, tmp_path: Path) -> None:
    clock(BEGAN)
    folder = run(config_of(dated), until="align", quiet=True)
    moment = read_json(folder / SUBJECT)[MOMENT]
    clock(BEGAN + timedelta(days=400))
    run(config_of(dated | {"methods": ["base", "soups", "mod", "lw"]}), quiet=True)
    assert read_json(folder / SUBJECT)[MOMENT] == moment and moment_of(folder) == BEGAN
    task = Task(config_of(dated))
    text = task.codec.tokenizer.decode(task.prompt_tokens(task.rows[0]))
    assert "Today is 03 Feb 2031" in text

    def said(where: Path) -> tuple[float, str]:
        opened = sipo.open(where)
        return (
            opened.at(WEIGHT, method="soups").logprobs("why?", "so it is"),
            opened.at(WEIGHT, method="mod").generate("why?", temperature=0.0),
        )

    later = said(folder)
    clock(BEGAN)
    assert later == said(folder)
    shutil.move(folder, tmp_path / "elsewhere")
    clock(BEGAN + timedelta(days=4))
    assert later == said(tmp_path / "elsewhere")


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Moves this process to another time zone."""

    def move(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


def test_a_run_goes_on_in_another_time_zone(dated: dict, zone: Callable[[str], None]) -> None:
    """Between these two it is always another day."""
    zone("Pacific/Kiritimati")
    day = datetime.now().date()
    folder = run(config_of(dated | {"methods": ["base"]}), quiet=True)
    zone("Etc/GMT+12")
    assert datetime.now().date() != day
    run(config_of(dated), quiet=True)
    assert moment_of(folder).date() in (day, day + timedelta(days=1))


def test_a_run_that_states_no_date_has_that_of_its_record(dated: dict, clock: Clock) -> None:
    clock(BEGAN)
    folder = run(config_of(dated), until="align", quiet=True)
    subject = read_json(folder / SUBJECT)
    write_json(folder / SUBJECT, {name: value for name, value in subject.items() if name != "moment"})
    assert abs(moment_of(folder).timestamp() - (folder / SUBJECT).stat().st_mtime) < 2


def test_labelling_goes_on_another_day(
    dated: dict, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "why?"}\n{"prompt": "how do I?"}\n{"prompt": "the sun"}\n')
    rewards = [Objective(name=name, better="more", reward="sipo.rewards.text:words") for name in ("a", "b")]
    prompts: list[str] = []
    encode = Codec.encode_prompt

    def told(self: Codec, prompt: Any, limit: int | None = None) -> list[int]:
        ids = encode(self, prompt, limit)
        prompts.append(str(self.tokenizer.decode(ids)))
        return ids

    monkeypatch.setattr(Codec, "encode_prompt", told)

    def made(to: str) -> None:
        label(
            tmp_path / "prompts.jsonl", Model(path=dated["model"]["path"], dtype="float32"), rewards, tmp_path / to,
            Drawing(Decoding(temperature=2.0), 8), execution=Execution(device="cpu"),
            progress=Progress(quiet=True),
        )  # fmt: skip

    clock(BEGAN)
    monkeypatch.setattr("sipo.labelling._labelled", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        made("rows.jsonl")
    monkeypatch.undo()
    monkeypatch.setattr(Codec, "encode_prompt", told)
    made("rows.jsonl")
    assert prompts and all("Today is 03 Feb 2031" in each for each in prompts)
    assert not list(tmp_path.glob(".journal"))


def test_reward_models_are_told_the_run_s_day() -> None:
    encoder = ItemEncoder(tokenizer_of("byte", DATED), "chat", BEGAN)
    read = encoder.encode(Item((Message("user", "why?"),), "so"))["input_ids"]
    assert "Today is 03 Feb 2031" in encoder.tokenizer.decode(read)
    other, same = (
        ItemEncoder(encoder.tokenizer, "chat", BEGAN.replace(**at)).date for at in ({"year": 2032}, {"hour": 1})
    )
    assert other != encoder.date == same != ""
    assert ItemEncoder(encoder.tokenizer, "pair", BEGAN).date == ""
