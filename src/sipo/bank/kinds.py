"""The kinds of policies, by what a configuration asks for and by what a folder holds."""

import json
from pathlib import Path
from typing import Literal

from transformers import PreTrainedModel

from sipo.bank.adapter import new_adapter, target_layers
from sipo.bank.peft_folder import load_adapter
from sipo.bank.policy import Policy
from sipo.bank.whole import ABOUT, load_whole, new_whole
from sipo.errors import SipoError
from sipo.settings import Lora

Kind = Literal["lora", "full"]
"""As the configuration's `policies` has it."""


def new_policy(model: PreTrainedModel, kind: Kind, lora: Lora, seed: int) -> Policy:
    """A fresh policy, which is the backbone; `lora` and `seed` are for an adapter."""
    return new_whole(model) if kind == "full" else new_adapter(model, lora, seed)


def load_policy(folder: Path) -> Policy:
    """What `Policy.save` wrote. Raises SipoError where it is missing, damaged, or of no kind."""
    return load_whole(folder) if (folder / "config.json").exists() else load_adapter(folder)


def base_of(folder: Path) -> str:
    """What the policy in the folder was trained from: a hub id or an absolute path. Raises SipoError if untold."""
    file, key = (ABOUT, "base") if (folder / ABOUT).exists() else ("adapter_config.json", "base_model_name_or_path")
    try:
        return str(json.loads((folder / file).read_text(encoding="utf-8"))[key])
    except (OSError, ValueError, KeyError) as error:
        raise SipoError(f"{folder}: does not tell its base model ({error}); is the folder whole?") from None


def adapted_layers(model: PreTrainedModel, kind: Kind, lora: Lora) -> list[str]:
    """The layers that policies of the kind change the computation of. Raises SipoError where the model has
    none that `lora` names.
    """
    return [] if kind == "full" else list(target_layers(model, lora))
