"""The methods of a run, made from what its stages wrote."""

from sipo.config import Config
from sipo.decoding import FORWARD_KL, JENSEN_SHANNON, Divergence
from sipo.errors import SipoError
from sipo.methods.by_weight import by_weight, read_by_weight
from sipo.methods.interface import Method
from sipo.methods.mod import mod, sipo
from sipo.methods.names import check_name
from sipo.methods.soups import factor_soups, soups
from sipo.methods.unsteered import base_model, single_policies
from sipo.runs.outputs import Outputs
from sipo.weights import grid


def methods_of(name: str, outputs: Outputs, config: Config) -> list[Method]:
    """The methods of a name in the configuration: one, but for `policies`."""
    align = outputs.policies("align")
    match name:
        case "base":
            return [base_model(align)]
        case "policies":
            return single_policies(dict(zip(outputs.objectives, align, strict=True)))
        case "soups":
            return [soups(align)]
        case "factor-soups":
            return [factor_soups(align)]
        case "mod":
            return [mod(align)]
        case "mod-forward-kl":
            return [mod(align, FORWARD_KL)]
        case "mod-alpha":
            return [mod(align, Divergence("alpha", config.mod.alpha))]
        case "mod-jensen-shannon":
            return [mod(align, JENSEN_SHANNON)]
        case "lw" | "modpo" | "raco" | "consensus":
            return [by_weight(name, read_by_weight(outputs.folder(name), grid(config), align))]
        case "sipo":
            return [sipo(outputs.policies("realign"))]
        case "sipo-soups":
            return [soups(outputs.policies("realign"), "sipo-soups")]
    raise SipoError(check_name(name))
