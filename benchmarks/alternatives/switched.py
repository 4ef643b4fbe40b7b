"""PEFT's model with every policy as an adapter of its own; soups are adapters too, exact ones."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel

from benchmarks.model import twin
from sipo.bank import Adapter, save_adapter, soup
from sipo.bank.policy import Point
from sipo.models.load import Backbone

REFERENCE = "__base__"
"""What PEFT calls the model without adapter, in `adapter_names`."""


class Switched:
    """The backbone's weights are shared with it, its modules are not."""

    def __init__(self, backbone: Backbone, adapters: Sequence[Adapter]) -> None:
        self.backbone, self.adapters = backbone, list(adapters)
        self._names: dict[Point, str] = {}
        self.model: PeftModel | None = None
        for i in range(len(adapters)):
            self.name(tuple(float(i == j) for j in range(len(adapters))))

    def name(self, point: Point) -> str:
        """The adapter of a point in the policies' span; loaded when first asked for."""
        if not any(point):
            return REFERENCE
        if point not in self._names:
            self._names[point] = name = f"point-{len(self._names)}"
            with tempfile.TemporaryDirectory() as folder:
                save_adapter(soup(self.adapters, point), Path(folder), self.backbone.source)
                if self.model is None:
                    self.model = PeftModel.from_pretrained(twin(self.backbone.model), folder, adapter_name=name)
                else:
                    self.model.load_adapter(folder, adapter_name=name)
            self.model.to(self.backbone.model.dtype).eval().requires_grad_(False)
        return self._names[point]

    @contextmanager
    def at(self, point: Point) -> Iterator[PeftModel]:
        assert self.model is not None
        name = self.name(point)
        if name == REFERENCE:
            with self.model.disable_adapter():
                yield self.model
        else:
            self.model.set_adapter(name, inference_mode=True)
            yield self.model
