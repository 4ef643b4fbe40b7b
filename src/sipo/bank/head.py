"""The output head: hidden states to logits, with the scale and the soft cap that a model puts behind its last layer."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sipo.errors import SipoError, first_line
from sipo.memory import is_full


@dataclass(frozen=True)
class Head:
    """logits = cap tanh(scale (W h + b) / cap), or scale (W h + b) without a cap."""

    layer: nn.Linear
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """[.., d] -> [.., V]"""
        return self.finish(self.layer(hidden.to(self.weight.dtype)))

    def finish(self, scores: Tensor) -> Tensor:
        """Logits from the layer's output."""
        if self.scale != 1:
            scores = scores * self.scale
        return scores if self.cap is None else self.cap * (scores / self.cap).tanh()

    @property
    def weight(self) -> Tensor:
        """[V, d]"""
        return self.layer.weight

    @property
    def out_features(self) -> int:
        return self.layer.out_features


@torch.no_grad()
def find_head(model: PreTrainedModel, body: nn.Module) -> Head:
    """The head of `model` over the last hidden state of `body`. Raises SipoError where it is more than that.

    Known scores are planted as the layer's output, from tiny to huge: what the model makes of them shows scale and cap.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Linear):
        raise _refused(model, "it has no linear output head")
    ids = torch.arange(5, device=model.device)[None] % layer.out_features
    ramp = torch.linspace(-1, 1, layer.out_features, device=model.device)
    planted = ramp * torch.tensor([1e-3, 1.0, 30.0, 1e3, 1e6], device=model.device)[:, None]
    given: list[Tensor] = []
    read: list[Tensor] = []

    def widen(_: nn.Module, __: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.float()  # so that a factor before the head is seen exactly
        given.append(output.last_hidden_state)
        return output

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        read.append(inputs[0].float())
        return (inputs[0].to(layer.weight.dtype), *inputs[1:])

    def plant(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return planted.expand_as(output).clone()

    hooks = [body.register_forward_hook(widen), layer.register_forward_pre_hook(note)]
    hooks.append(layer.register_forward_hook(plant))
    try:
        logits = model(input_ids=ids, use_cache=False).logits[0].float()
    except Exception as error:  # whatever the model's code leads to
        if is_full(error):
            raise
        reason = first_line(error)
        raise _refused(model, f"its logits cannot be computed ({reason})") from None
    finally:
        for hook in hooks:
            hook.remove()
    if not given:  # the model calls what is inside the body
        given.append(body(input_ids=ids, use_cache=False).last_hidden_state.float())
    if not (len(given) == len(read) == 1 and given[0].shape == read[0].shape):
        raise _refused(model, "its logits are not its output head over its last hidden state")
    if not bool(read[0].isfinite().all()):
        dtype = str(model.dtype).removeprefix("torch.")
        raise SipoError(f"the model's hidden states are not finite in {dtype}; set model.dtype to float32")
    if not given[0].any():
        raise _refused(model, "its last hidden state is nothing but zeros; is the checkpoint whole?")
    before = float((given[0] * read[0]).sum() / (given[0] * given[0]).sum())
    if not _close(read[0], before * given[0]) or (layer.bias is not None and abs(before - 1) > 1e-3):
        raise _refused(model, "something stands between its last hidden state and its output head")
    scale, largest = float(logits[0, -1] / planted[0, -1]), float(logits[-1, -1])
    head = Head(layer, _rounded(scale), None if largest > 0.5 * scale * 1e6 else _rounded(largest))
    if logits.shape != planted.shape or not torch.allclose(head.finish(planted), logits, rtol=1e-4, atol=1e-6):
        raise _refused(model, "its logits are more than a scale and a soft cap of what its output head gives")
    return head if abs(before - 1) <= 1e-3 else Head(layer, _rounded(scale * before), head.cap)


def _rounded(value: float) -> float:
    """The number that is meant: float32 has seven digits, a configuration fewer."""
    short = float(f"{value:.6g}")
    return short if abs(short - value) <= 2e-6 * abs(value) else value


def _close(one: Tensor, other: Tensor) -> bool:
    return float((one - other).norm()) <= 0.01 * float(other.norm())


def _refused(model: PreTrainedModel, why: str) -> SipoError:
    return SipoError(f"model type `{model.config.model_type}`: {why}; not supported")
