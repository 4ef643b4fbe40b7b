"""What people are told while work goes on: how far, how fast, how long yet."""

import io
import json
import time
from pathlib import Path

import pytest

from sipo.progress import Meter, Progress, Screen, duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Half:
    share = 0.5

    def __str__(self) -> str:
        return "run 50%"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def shown(progress: Progress, terminal: bool) -> io.StringIO:
    stream = io.StringIO()
    progress.console = Screen()
    progress.console.file, progress.console._force_terminal = stream, terminal
    progress.console.width = 200
    return stream


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (12.4, "12 s"), (89.4, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1 h 30 min")],
)
def test_durations_are_told_in_units_for_people(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_lines_are_told_every_half_minute_and_at_the_end(clock: Clock) -> None:
    progress = Progress()
    stream = shown(progress, terminal=False)
    progress.stage, progress.whole = "align", Half()
    with progress.track("helpful", 40, unit="steps") as advance:
        for step in range(40):
            clock.now += 4
            advance(1, loss=0.7 - step / 100)
    lines = stream.getvalue().splitlines()
    assert lines[0] == ("  align: helpful  8 of 40 steps, loss 0.630, 0.25/s, 32 s, about 2 min left; run 50%")
    assert len(lines) == 5 and lines[-1].startswith("  align: helpful  40 of 40 steps, loss 0.310, 0.25/s, 3 min; run")


def test_what_an_earlier_try_did_is_no_part_of_the_rate(clock: Clock) -> None:
    meter = Meter("draws", 100, done=90)
    assert meter.left is None and str(meter) == "90 of 100, 0 s"
    clock.now += 10
    meter.add(5)
    meter.add(3, again=True)
    assert meter.rate == pytest.approx(0.5) and meter.left == pytest.approx(4)
    assert str(meter) == "98 of 100, 0.5/s, 10 s, about 4 s left"


def test_the_wait_for_the_first_results_is_not_taken_for_their_pace(clock: Clock) -> None:
    """Batches of ten, after a model was loaded for a minute; a few large pieces have their pace from the first on."""
    meter = Meter("texts", 200)
    clock.now += 66
    meter.add(1)
    assert meter.left is None and str(meter) == "1 of 200, 66 s"
    meter.add(9)
    assert meter.left is None
    clock.now += 6
    meter.add(1)
    assert meter.left == pytest.approx(189 * 6 / 10)
    few = Meter("policies", 5)
    clock.now += 600
    few.add(1)
    assert few.left == pytest.approx(4 * 600)


def test_nothing_is_said_of_the_end_before_anything_is_known(clock: Clock) -> None:
    meter = Meter("draws", 100)
    clock.now += 0.5
    meter.done = 1
    assert meter.left is None and "left" not in str(meter)


def test_pieces_within_pieces_share_one_display() -> None:
    """Two displays at once would be an error of rich's."""
    progress = Progress()
    stream = shown(progress, terminal=True)
    progress.whole = Half()
    with progress.track("seeds", 2) as outer:
        for _ in range(2):
            with progress.track("steps", 3, unit="steps") as inner:
                for _ in range(3):
                    inner(1, loss=0.5)
            outer(1)
    text = stream.getvalue()
    assert text.count("steps  3 of 3 steps, loss 0.500") == 2 and "seeds  2 of 2" in text
    with pytest.raises(KeyboardInterrupt), progress.track("again", 3) as advance:
        advance(1)
        raise KeyboardInterrupt
    assert "again  1 of 3" in stream.getvalue() and progress._bars is None


def test_others_can_ask_how_far_it_is(clock: Clock, tmp_path: Path) -> None:
    progress = Progress(quiet=True, now=tmp_path / "now.json")
    with progress.track("steps", 10, unit="steps") as advance:
        for _ in range(6):
            clock.now += 1
            advance(1)
    assert json.loads((tmp_path / "now.json").read_text()) == {
        "said": ["steps  6 of 10 steps, 1/s, 6 s, about 4 s left"]
    }
    assert [path.name for path in tmp_path.iterdir()] == ["now.json"]


def test_that_nobody_can_be_told_stops_nothing(tmp_path: Path) -> None:
    progress = Progress(quiet=True, now=tmp_path / "gone" / "now.json")
    with progress.track("steps", 1) as advance:
        advance(1)


@pytest.mark.parametrize("columns", [20, 44, 80, 200])
def test_a_table_breaks_no_name_and_no_number(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.console.width = columns
    rows = [["round-2/trials/realign/x0_1", 1234567, 0.125, "three free words"], ["report", 1, 2.0, "-"]]
    progress.table("numbers", ["stage", "optimizer steps", "M tokens", "said"], rows)
    text = capsys.readouterr().out
    lines = text.splitlines()
    row = ["round-2/trials/realign/x0_1", "1234567", "0.125"]
    if columns != 44:  # there each of its numbers has a line of its own
        assert any(line.split()[:3] == row for line in lines), text
    assert "…" not in text and all(
        word in text for word in ["optimizer", "steps", "M", "tokens", "three", "free", "words", "2.000"]
    )
    assert (max(len(line.rstrip()) for line in lines) <= columns) is (columns >= 44), "where it can, it fits"
