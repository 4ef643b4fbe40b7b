"""Templates of users and models: in a sandbox, in bounded time and memory, and one line for whatever they raise."""

import json
import time
import tracemalloc
from pathlib import Path

import pytest

from sipo.errors import SipoError
from sipo.message import Message
from sipo.prompts.template import load_template
from sipo.rewards.objective import Objective
from sipo.sandbox import SIZE, Bounded, weigh

OBJECTIVES = [Objective(name="kind", better="It is kind.")]
DOUBLE = "{% set ns = namespace(s='aaaaaaaaaa') %}{% for i in range(99) %}{% set ns.s = STEP %}{% endfor %}{{ ns.s }}"
LARGE = {
    "repeated": "{{ 'a' * 10**10 }}", "list": "{{ [1] * 10**9 }}", "turned round": "{{ 10**9 * 'a' }}",
    "mul": "{{ 'a'.__mul__(10**10) }}", "power": "{{ 10**(10**7) }}", "towers": "{{ (9**999)**9999 }}",
    "center": "{{ 'x'.center(10**9) }}", "filter": "{{ 'x'|center(10**9) }}", "ljust": "{{ 'x'.ljust(width=10**9) }}",
    "zfill": "{{ '1'.zfill(10**9) }}", "width": "{{ '%1000000000d' % 1 }}", "precision": "{{ '%.1000000000f' % 1 }}",
    "star": "{{ '%*d' % (10**9, 1) }}", "named": "{{ '%(a)1000000000d' % {'a': 1} }}", "format": "{{ '{:1000000000}'.format(1) }}",
    "nested width": "{{ '{:{w}}'.format(1, w=10**9) }}", "format_map": "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "format filter": "{{ '%999999999s'|format('a') }}", "many fields": "{{ ('{a}' * 100000).format(a='x' * 100000) }}",
    "many conversions": "{{ '%(a)s' * 100000 % {'a': 'x' * 100000} }}", "tabs": "{{ ('\t' * 100000).expandtabs(100000) }}",
    "joined": DOUBLE.replace("STEP", "ns.s ~ ns.s"), "added": DOUBLE.replace("STEP", "ns.s + ns.s"),
    "replaced": DOUBLE.replace("STEP", "ns.s.replace('a', ns.s)"), "replace filter": DOUBLE.replace("STEP", "ns.s|replace('a', ns.s)"),
    "replaced by position": "{{ ('a' * 1000000).replace('', 'x' * 1000000) }}", "join": "{{ ('x' * 1000).join(['y' * 1000] * 99999) }}",
    "join filter": "{{ range(9999)|map('string')|join('x' * 99999) }}", "lists of lists": DOUBLE.replace("'aaaaaaaaaa'", "[1]").replace("STEP", "[ns.s, ns.s]"),
    "tuples": DOUBLE.replace("STEP", "(ns.s, ns.s)"), "mappings": DOUBLE.replace("STEP", "{'a': ns.s, 'b': ns.s}"),
    "dict": DOUBLE.replace("STEP", "dict(a=ns.s, b=ns.s)"), "json": "{{ [[['a' * 1000] * 100] * 100]|tojson }}",
    "json indent": "{{ [[1]]|tojson(indent=10**9) }}", "indent": "{{ ('a\n' * 100000)|indent(100000) }}",
    "wordwrap": "{{ ('a' * 100000)|wordwrap(1, true, 'x' * 100000) }}", "bytes": "{{ 'a'.encode().center(10**9) }}",
    "to_bytes": "{{ (1).to_bytes(10**9) }}", "translate": "{{ ('a' * 100000).translate({97: 'b' * 100000}) }}",
    "range": "{{ range(10**9)|list }}", "batch": "{{ [1]|batch(10**9, 'x')|list }}", "slice": "{{ [1]|slice(10**9)|list }}",
    "sum": "{{ ([['a' * 100] * 100] * 99)|sum(start=[]) }}", "output": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "macro": "{% macro f() %}{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}{% endmacro %}{{ f()|length }}",
    "block": "{% set x %}{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}{% endset %}{{ x|length }}",
    "call": "{% macro f() %}{{ caller() * 99999 }}{% endmacro %}{% call f() %}{{ 'a' * 9999 }}{% endcall %}",
    "map": "{{ ('a' * 99999)|list|map('replace', 'a', 'x' * 9999)|list|length }}", "lipsum": "{{ lipsum(n=99999) }}",
}  # fmt: skip
ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "filtered": "{% for i in range(99999) %}{% for j in range(99999) if j < 0 %}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive": "{% for i in range(9) recursive %}{% if loop.depth < 60 %}{{ loop(range(9)) }}{% endif %}{% endfor %}",
    "select": "{{ range(99999)|select('in', range(99999)|list|reverse|list)|list|length }}",
    "sorted": "{% for i in range(99999) %}{% set x = range(99999)|sort %}{% endfor %}",
    "callers": "{% macro f(n) %}{% for i in range(99) %}{{ caller() }}{% endfor %}{% endmacro %}" + "{% call f(1) %}" * 12 + "{% endcall %}" * 12,
}  # fmt: skip
ESCAPES = {
    "globals": "{{ cycler.__init__.__globals__.os.system('touch OUT') }}", "mro": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "map": "{{ ['']|map(attribute='__class__')|list|first|string|upper ~ missing }}", "format": "{{ '{0.__class__.__init__}'.format(chat) }}",
    "attr": "{{ (''|attr('__class__')).__mro__ }}", "model": "{{ objectives[0].model_construct.__func__.__globals__ }}",
    "include": "{% include '/etc/passwd' %}", "import": "{% import 'os' as os %}", "extends": "{% extends 'x' %}",
    "append": "{{ objectives.append(1) }}", "namespace": "{% set ns = namespace() %}{% set ns.__html__ = 1 %}{{ ns|escape }}",
}  # fmt: skip
OTHER = {
    "division": "{{ 1 / 0 }}", "undefined": "{{ nothing }}", "type": "{{ prompt + 1 }}", "attribute": "{{ prompt.nothing.more }}",
    "index": "{{ chat[9].content }}", "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "key": "{{ {'a': 1}['b'] }}",
    "unhashable": "{{ {[]: 1} }}", "cycle": "{% for x in chat %}{{ loop.cycle() }}{% endfor %}", "value": "{{ 'a'.index('b') }}",
}  # fmt: skip


def attempted(text: str, folder: Path) -> str:
    """The one line that a review template of this text ends in, when it is read or when it is filled in."""
    path = folder / "mine.yaml"
    path.write_text(json.dumps([{"role": "user", "content": text}]))
    with pytest.raises(SipoError) as error:
        load_template(path, "review").render(chat=[Message("user", "why?")], objectives=OBJECTIVES, response="so")
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", LARGE)
def test_nothing_grows_without_bound(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipo.sandbox.SIZE", 200_000)
    monkeypatch.setattr("sipo.sandbox.MADE", 4_000_000)
    tracemalloc.start()
    try:
        attempted(LARGE[name], tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ENDLESS)
def test_everything_ends(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sipo.sandbox.SECONDS", 0.2)
    began = time.thread_time()
    assert "more than" in attempted(ENDLESS[name], tmp_path)
    assert time.thread_time() - began < 3


@pytest.mark.parametrize("name", ESCAPES)
def test_no_template_leaves_the_sandbox(name: str, tmp_path: Path) -> None:
    attempted(ESCAPES[name].replace("OUT", str(tmp_path / "out")), tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", OTHER)
def test_whatever_is_raised_is_one_line(name: str, tmp_path: Path) -> None:
    attempted(OTHER[name], tmp_path)


@pytest.mark.parametrize(
    "text", ["{{ " + "(" * 9000, "{% for a in chat %}" * 25 + "{% endfor %}" * 25, "{{ 1 " + "+ 1" * 9000 + "}}"]
)
def test_what_cannot_be_compiled_is_one_line(text: str, tmp_path: Path) -> None:
    attempted(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ 'a' * 3 }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ 7 // 2 }}{{ 1 / 2 }}{{ -1 + 2 }}", "aaa1024330.51"),
        ("{% for a, b in [(1, 2), (3, 4)] %}{{ loop.index }}:{{ a }}{{ b }}{{ ',' if not loop.last }}{% endfor %}", "1:12,2:34"),
        ("{% for x in 'abc' %}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }} {% else %}no{% endfor %}", "3b 3ac 3b "),
        ("{% for x in [1, 2, 3] if x > 1 %}{{ x }}{{ loop.cycle('a', 'b') }}{% endfor %}", "2a3b"),
        ("{{ '%5d|%-4s|%.2f' % (3, 'x', 1.5) }}{{ '{:>4}|{a}'.format(3, a=2) }}", "    3|x   |1.50   3|2"),
        ("{{ [1, 'b']|join(', ') }}{{ 'aXa'|replace('a', 'bb') }}{{ 'a-b'.split('-')|last }}", "1, bbbXbbb"),
        ("{{ {'a': [1, '<é>']}|tojson }}{{ 'x'|indent(2, true) }}{{ ['a', 'b']|map('upper')|list }}", '{"a": [1, "<é>"]}  x[\'A\', \'B\']'),
        ("{% set ns = namespace(n=0) %}{% for x in range(5) %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}", "10"),
        ("{% macro f(x) %}<{{ x }}{{ caller() if caller }}>{% endmacro %}{{ f(1) }}{% call f(2) %}y{% endcall %}", "<1><2y>"),
        ("{{ 'a' ~ 1 ~ none ~ [2] }}{{ 3 is divisibleby 3 }}{{ 'b' in 'abc' }}{{ (1, 2)[1] }}", "a1None[2]TrueTrue2"),
        ("{{ range(3)|batch(2)|list }}{{ [3, 1]|sort }}{{ dict(a=1).items()|list }}", "[[0, 1], [2]][1, 3][('a', 1)]"),
    ],
)  # fmt: skip
def test_ordinary_templates_are_what_they_were(text: str, expected: str) -> None:
    environment = Bounded()
    assert environment.fill(environment.from_string(text)) == expected


def test_long_prompts_pass() -> None:
    environment = Bounded()
    text = "word " * 100_000
    messages = [{"role": "user", "content": text}] * 2
    made = environment.fill(
        environment.from_string("{% for m in messages %}{{ m.role ~ m.content }}{% endfor %}"), messages=messages
    )
    assert made == f"user{text}" * 2


def test_a_value_s_weight_is_that_of_its_texts() -> None:
    assert weigh("abc") == 3 and weigh(["ab", ("c", {"d": "ef"})]) in range(80, 110)
    shared: list[object] = ["a" * 100]
    for _ in range(60):
        shared = [shared, shared]
    assert weigh(shared) > SIZE
