"""A DPO soup of two finished policies, written as an ordinary PEFT adapter."""

from pathlib import Path

from sipo import load_adapter, save_adapter, soup

run = Path("runs/quickstart")
policies = [load_adapter(run / "align/adapters" / name) for name in ("detail", "plain")]
save_adapter(soup(policies, [0.3, 0.7]), Path("soup"), base="HuggingFaceTB/SmolLM2-135M-Instruct")
