"""A Jinja sandbox with bounds on time and size, for templates that come with a model or from another user.

Jinja's own sandbox keeps a template from Python's internals; it does not keep it from `'a' * 10**10`. Here every value
that an expression makes is weighed, what could grow by more than its inputs is estimated before it is made, and every
step of a loop, call, filter or test looks at the clock. The sum of this is that a template ends, in bounded memory.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from itertools import islice
from typing import Any

from jinja2 import Template, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

SECONDS = 5.0
"""Of the thread's own processor time, for one rendering: a busy machine changes nothing."""
SIZE = 4_000_000
"""The characters of the largest text, or of all texts in the largest list."""
MADE = 50 * SIZE
"""The characters of all values made in one rendering."""
COUNT = 100_000
"""The largest whole number that a call or filter takes: widths, lengths, repetitions."""
ENTRY = 16
"""The characters that an entry of a list counts for beside its own."""
BITS = 10_000
"""Of the largest whole number."""

UNBOUNDED = ("lipsum", "pprint", "random", "urlize", "xmlattr")
"""Filters and functions of Jinja that are left out: they draw at random, or grow, and no prompt needs them."""
_CONVERSION = re.compile(r"%(?:\([^)]*\))?[#0 +-]*(\*|\d*)(?:\.(\*|\d*))?")
_STEPS, _WEIGH, _JOIN = " steps", " weigh", " join"  # names that no template can write


class Bounded(ImmutableSandboxedEnvironment):
    """Renders by `fill`. Any exception may come out of it, OverflowError where a bound is passed."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self, **options: Any) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, autoescape=False, optimized=False, **options)
        self._until, self._left = 0.0, 0
        self.filters["tojson"] = self._tojson
        for name in UNBOUNDED:
            self.filters.pop(name, None)
            self.globals.pop(name, None)
        self.globals["namespace"] = _Namespace
        self.filters = {name: self._bounded(name, made) for name, made in self.filters.items()}
        tests: dict[str, Any] = self.tests
        self.tests = {name: self._timed(made) for name, made in tests.items()}
        self.filters |= {_STEPS: self._steps, _WEIGH: self.weighed, _JOIN: self.concat}

    def fill(self, template: Template, **values: Any) -> str:
        self._until, self._left = time.thread_time() + SECONDS, MADE
        return template.render(**values)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return _Bounding().visit(tree)

    def tick(self) -> None:
        if time.thread_time() > self._until:
            raise OverflowError(f"it takes more than {SECONDS:g} seconds")

    def weighed(self, value: Any) -> Any:
        """The value, if it is not too large."""
        self.tick()
        self._left -= _fits(weigh(value))
        if self._left < 0:
            raise OverflowError(f"it makes more than {MADE} characters")
        return value

    def concat(self, pieces: Iterable[Any]) -> str:
        """What Jinja joins its output with: of the whole, of a macro, of a block."""
        texts, size = list[str](), 0
        for piece in pieces:
            texts.append(piece if isinstance(piece, str) else str(self.weighed(piece)))
            self.tick()
            size = _fits(size + len(texts[-1]))
        return "".join(texts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _fits(_percent(left, right))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _fits_bits(left.bit_length() * max(right, 0))
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            _fits_bits(left.bit_length() + right.bit_length())
        elif operator == "*":
            times, what = (left, right) if isinstance(left, int) else (right, left)
            _fits(weigh(what) * max(times, 0) if isinstance(times, int) else 0)
        return self.weighed(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        __self.tick()
        _fit_counts([*args, *kwargs.values()])
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            if name == "join" and args:
                args = (list(islice(args[0], SIZE)), *args[1:])
            _fits(_grown(owner, name, args, kwargs))
        return __self.weighed(super().call(__context, __obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Numbers and bytes have nothing that a prompt needs, and `to_bytes(10**10)`."""
        return not isinstance(obj, int | float | bytes) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        text, by_mapping = value.__self__, value.__name__ == "format_map"

        def formatted(*args: Any, **kwargs: Any) -> str:
            values = args[0] if by_mapping else kwargs
            return _Formatter(self).vformat(str(text), () if by_mapping else args, values)

        return formatted

    def _steps(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.tick()
            yield value

    def _bounded(self, name: str, made: Callable[..., Any]) -> Callable[..., Any]:
        skip = hasattr(made, "jinja_pass_arg")  # its first argument is Jinja's

        @wraps(made)
        def checked(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            value, *others = args[1:] if skip else args
            _fit_counts([*others, *kwargs.values()])
            if name == "join":
                value = list(islice(value, SIZE))
                args = (*args[:skip], value, *others)
            _fits(_grown_by_filter(name, value, others, kwargs))
            return self.weighed(made(*args, **kwargs))

        return checked

    def _timed(self, made: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(made)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            return made(*args, **kwargs)

        return timed

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        """As chat templates know it: nothing is escaped for HTML."""
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )  # fmt: skip
        return self.concat(encoder.iterencode(value))


class _Bounding(NodeTransformer):
    """Has loops counted, and lists and joined texts weighed."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _STEPS)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _JOIN)

    def visit_List(self, node: nodes.Node) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, _WEIGH) if getattr(node, "ctx", "load") == "load" else node

    visit_Tuple = visit_Dict = visit_List


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Namespace(Namespace):
    """Without attributes that Python gives a meaning to, and whose text does not show what is in it."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *others = args
        Namespace.__init__(self)
        for name, value in dict(*others, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise ValueError(f"a namespace takes no name that begins with _, as {name}")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"


class _Formatter(SandboxedFormatter):
    size = 0

    def format_field(self, value: Any, format_spec: str) -> str:
        _fit_counts(map(int, re.findall(r"\d+", format_spec)))
        text = super().format_field(value, format_spec)
        self.size = _fits(self.size + len(text))
        return str(text)


def weigh(value: Any) -> int:
    """Characters of all texts in a value, about; it stops counting above SIZE, so that it takes bounded time."""
    total, waiting = 0, [iter((value,))]
    while waiting and total <= SIZE:
        each = next(waiting[-1], waiting)
        if each is waiting:
            waiting.pop()
        elif isinstance(each, str | bytes):
            total += len(each)
        elif isinstance(each, Mapping):
            total += 2 * ENTRY * len(each)
            waiting.append(iter([*each.keys(), *each.values()]))
        elif isinstance(each, list | tuple | set | frozenset):
            total += ENTRY * len(each)
            waiting.append(iter(each))
        elif isinstance(each, int):
            _fits_bits(each.bit_length())
            total += 1 + each.bit_length() // 3
        else:
            total += ENTRY
    return total


def _grown(text: str, name: str, args: Any, kwargs: Any) -> int:
    """At most how many characters a method of a text gives, where that may be more than its inputs have."""
    values = [*args, *kwargs.values()]
    if name == "translate":
        raise OverflowError("translate is left out of templates; use replace")
    if name == "expandtabs":
        return len(text) + text.count("\t") * max([8, *(each for each in values if isinstance(each, int))])
    if name == "replace":
        return _replaced(text, values)
    if name == "join":
        return weigh(values) + len(text) * (len(values[0]) if values else 0)
    return 0


def _grown_by_filter(name: str, value: Any, others: list[Any], kwargs: dict[str, Any]) -> int:
    values = [*others, *kwargs.values()]
    texts = sum(len(each) for each in values if isinstance(each, str))
    if name == "sum" and any(isinstance(each, list | tuple) for each in values):
        raise OverflowError("sum of lists is left out of templates; add them with +")
    if name == "replace":
        return _replaced(str(value), values)
    if name == "join":
        return weigh(value) + texts * len(value)
    if name == "format":
        return _percent(str(value), kwargs or others)
    if name == "indent":
        widths = max([4, *(each for each in values if isinstance(each, int))])
        return len(str(value)) + (1 + len(str(value).splitlines())) * (widths + texts)
    if name == "wordwrap":
        return len(str(value)) * (1 + texts)
    return 0


def _replaced(text: str, values: list[Any]) -> int:
    texts = [str(each) for each in values if isinstance(each, str)]
    return len(text) + text.count(texts[0]) * sum(map(len, texts[1:])) if texts else 0


def _percent(text: str, values: Any) -> int:
    """At most how many characters `text % values` has."""
    widths = 0
    for found in _CONVERSION.finditer(text):
        if "*" in found.groups():
            raise OverflowError("a width of * is left out of templates; write the number")
        numbers = [int(each) for each in found.groups() if each]
        _fit_counts(numbers)
        widths += sum(numbers)
    return len(text) + widths + text.count("%") * weigh(values)


def _fits(size: int) -> int:
    if size > SIZE:
        raise OverflowError(f"it makes a value of more than {SIZE} characters")
    return size


def _fits_bits(bits: int) -> None:
    if bits > BITS:
        raise OverflowError(f"it makes a number of more than {BITS} bits")


def _fit_counts(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > COUNT:
            raise OverflowError(f"it asks for {value if value.bit_length() < 64 else 'too many'}, over {COUNT}")
