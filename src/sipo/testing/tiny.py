"""The settings of a whole run that takes seconds: a model of random weights over the testbed's language."""

import json
from pathlib import Path
from random import Random
from typing import Any

from sipo.testbed import ENVIRONMENTS
from sipo.testbed.tiny import TEMPLATES, new_model, new_tokenizer, save

ROWS = 40


def tiny_settings(folder: Path) -> dict[str, Any]:
    """As a configuration has them. Rows, model, prompt templates and the run lie in `folder`.

    Two objectives, H's detail and plainness, whose labels are drawn, so that half of the rows are in conflict.
    """
    environment, rng = ENVIRONMENTS["H"], Random(0)
    objectives = environment.chosen()
    tokenizer = new_tokenizer(environment)
    folder.mkdir(parents=True, exist_ok=True)
    save(new_model(environment, tokenizer, 0), tokenizer, folder)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(ROWS):
            prompt = environment.draw_prompt(rng)
            row = {
                "prompt": f"{prompt} {environment.vocabulary[number]}",
                **{f"response_{side}": environment.respond(prompt, rng) or "." for side in (0, 1)},
                "preferred": {each.name: rng.randrange(2) for each in objectives},
            }
            print(json.dumps(row), file=stream)
    templates = zip(("review_template", "rewrite_template"), TEMPLATES, strict=True)
    return {
        "seed": 1,
        "run_dir": str(folder / "run"),
        "model": {"path": str(folder / "model"), "dtype": "float32"},
        "data": {"path": str(folder / "rows.jsonl"), "test": 0.2, "max_prompt_tokens": 64, "max_response_tokens": 8},
        "objectives": [each.model_dump(mode="json") for each in objectives],
        "weights": {"divisions": 2},
        "lora": {"r": 2, "alpha": 4},
        "decoding": {"temperature": 1.0},
        "align": {"lr": 0.01, "epochs": 1, "checkpoint": "last"},
        "sample": {"prompts": 6, "weights": {"divisions": 2}, "per_weight": 2},
        "refine": {"review_tokens": 8, **{key: str(folder / name) for key, name in templates}},
        "realign": {"lr": 0.001},
        "evaluate": {"bootstrap": 50},
        "execution": {"device": "cpu"},
    }
