"""The training curves of the page: every stage and objective, in the order of the steps, within their picture."""

import re
from typing import Any

import numpy as np
import pytest

from sipo.report.curves import HEIGHT, LEFT, MOST, WIDTH, curves
from sipo.report.page import DASHES


def steps(name: str, losses: list[float], **more: Any) -> list[dict[str, Any]]:
    return [{"objective": name, "step": at, "loss": loss, "accuracy": 0.5, **more} for at, loss in enumerate(losses, 1)]


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", path)]


@pytest.mark.parametrize("count", [1, 2, 40, MOST + 1, 5000])
def test_a_line_has_its_steps_in_order_and_ends_where_they_end(count: int) -> None:
    losses = np.linspace(2.0, 1.0, count).tolist()
    ((loss, accuracy),) = [each.panels for each in curves({"align": steps("a", losses)})]
    (line,) = loss.curves
    found = places(line.steps)
    assert 0 < len(found) <= MOST and len(places(line.mean)) == len(found)
    assert [x for x, _ in found] == sorted(x for x, _ in found)
    assert all(a < b for (_, a), (_, b) in zip(found, found[1:], strict=False)), "less loss lies lower"
    assert all(LEFT <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in found)
    assert "." not in "".join(tick.label for tick in loss.ticks), "steps are whole"
    assert count > 1 or line.mean.endswith("h0")
    assert accuracy.measure == "accuracy" and (count > MOST or places(accuracy.curves[0].steps)[0][0] == found[0][0])


def test_a_validation_loss_is_drawn_however_far_off() -> None:
    training = steps("a", [0.7, 0.6, 0.5])
    training[0]["start_validation_loss"], training[-1]["validation_loss"] = 0.69, 2.0
    loss, accuracy = curves({"align": training})[0].panels
    (begin, height), (end, top) = loss.curves[0].validated
    assert begin == loss.x.place(0) < end == loss.x.place(3) and 0 < top < height < HEIGHT
    assert not accuracy.curves[0].validated


def test_every_stage_has_the_lines_of_its_own() -> None:
    """Folds are lines of their own with one name; a stage without objectives has one line without a name."""
    folds = [step for fold in (0, 1) for step in steps("a", [0.7, 0.6], fold=fold)]
    names = [f"objective {i}" for i in range(9)]
    many = [step for name in names for step in steps(name, [0.7, 0.6])]
    tuned = [{"step": at, "loss": 3.0 / at} for at in (1, 2, 3)]
    found = {each.stage: each for each in curves({"sft": tuned, "calibrate": folds, "align": many, "realign": []})}
    assert list(found) == ["sft", "calibrate", "align"]
    assert [panel.measure for panel in found["sft"].panels] == ["loss"] and not found["sft"].legend
    assert [len(panel.curves) for panel in found["calibrate"].panels] == [2, 2]
    assert [each.name for each in found["calibrate"].legend] == ["a"]
    assert [each.name for each in found["align"].legend] == names
    assert {each.dashes for each in found["align"].legend} <= DASHES.keys() | {"-"}
    assert "objective 8 0.700 to 0.600" in found["align"].panels[0].said
