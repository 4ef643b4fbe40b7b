"""The page in a browser: what is typed and moved is asked, what comes is shown, and a link brings it back."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browser import BROWSER, Tab, browsing

from sipo.finished.handle import FinishedRun

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on the path")
Start = Callable[..., Any]
ALL_THERE = "document.querySelector('.status').textContent === 'all answers are there'"
TEXTS = "[...document.querySelectorAll('.column .text')].map((each) => each.textContent)"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browsing(tmp_path_factory.mktemp("profile")) as tab:
        yield tab
        assert not tab.complaints


def open_page(tab: Tab, url: str, **how: Any) -> None:
    tab.open(url, **how)
    tab.until("document.querySelectorAll('.column').length > 0")


def ask(tab: Tab, prompt: str) -> None:
    """As a person does: into an empty box."""
    tab.run("{ const box = document.querySelector('textarea'); box.value = ''; box.focus(); }")
    tab.type(prompt)
    tab.key("Enter", "\r")


def whole(tab: Tab) -> list[str]:
    tab.until(
        f"{ALL_THERE} && document.querySelectorAll('.worth table').length === document.querySelectorAll('.column').length"
    )
    found: list[str] = tab.run(TEXTS)
    return found


def greedy(run: FinishedRun, prompt: str, detail: float, method: str = "mod") -> str:
    return run.at({"detail": detail, "brevity": round(1 - detail, 2)}, method).generate(prompt, temperature=0)


def letters(tab: Tab) -> Any:
    """Where each stands in the chart, and whether it is of a measured point."""
    places = "[...document.querySelectorAll('.stand')].map((g) => [g.textContent, g.querySelector('circle').getAttribute('cx'), g.classList.contains('open')])"
    return tab.run(places)


def test_typed_moved_and_linked(tab: Tab, serving: Start, opened: FinishedRun) -> None:
    url = serving().url
    tab.requests.clear()
    open_page(tab, f"{url}/#temperature=0")
    prompt = "how do I <b>grow</b> & keep?"
    ask(tab, prompt)
    assert whole(tab) == [greedy(opened, prompt, 1.0), greedy(opened, prompt, 0.0)]
    worth = tab.run("[...document.querySelectorAll('.column:first-child .worth tbody th')].map((th) => th.textContent)")
    assert worth == list(opened.objectives)
    measured = letters(tab)
    assert [(letter, open_) for letter, _, open_ in measured] == [("A", False), ("B", False)]

    tab.run("document.querySelector('.column input[type=range]').focus()")
    for _ in range(30):
        tab.key("ArrowRight")
    tab.until("document.querySelector('.stale') !== null")
    tab.until("document.querySelector('.stale') === null")
    assert whole(tab) == [greedy(opened, prompt, 0.7), greedy(opened, prompt, 0.0)]
    ends = tab.run("document.querySelector('.ends').textContent").replace("\N{NO-BREAK SPACE}", " ")
    assert ends == "detail 70 %30 % brevity"
    moved = letters(tab)
    assert moved[0][2] and moved[0][1] != measured[0][1] and moved[1] == measured[1]
    assert "A: between measured points" in tab.run("document.querySelector('.stands').textContent")

    tab.run("document.querySelector('.add').click()")
    tab.run("{ const s = document.activeElement; s.value = 'base'; s.dispatchEvent(new Event('change')); }")
    tab.until("document.querySelector('.stale') === null")
    texts = whole(tab)
    assert texts[2] == opened.at(method="base").generate(prompt, temperature=0)
    assert tab.run("document.querySelectorAll('.column .knob:not([hidden])').length") == 2
    tab.run("document.querySelector('.link').click()")
    link = tab.run("location.href")
    assert link.startswith(f"{url}/#run=tiny&of=detail%2Cbrevity&prompt=") and "at=mod%400.7%2C0.3" in link
    before = tab.run("[document.querySelector('textarea').value, document.querySelector('.stands').textContent]")
    open_page(tab, link)
    assert whole(tab) == texts, "a link that was asked asks again"
    assert (
        tab.run("[document.querySelector('textarea').value, document.querySelector('.stands').textContent]") == before
    )
    tab.run("document.querySelector('[aria-label=\"Remove B\"]').click()")
    assert [letter for letter, *_ in letters(tab)] == ["A", "C"]
    assert all(re.match(rf"{url}/|about:|data:", request) for request in tab.requests), "nothing leaves the origin"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_all_can_be_worked_by_all(tab: Tab, serving: Start, width: int, dark: bool) -> None:
    open_page(
        tab,
        f"{serving().url}/#asked=1&prompt=tell&at=mod%400.5%2C0.5&at=base%401%2C0&at=soups%401%2C0",
        width=width,
        dark=dark,
    )
    whole(tab)
    tab.run("for (const each of document.querySelectorAll('details')) each.open = true")
    names = tab.names()
    assert not [each for each in names if each[0] != "group" and not each[1]], names
    assert {("button", "Ask"), ("textbox", "Prompt"), ("combobox", "A: method"), ("slider", "A: weight")} <= set(names)
    assert tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    leads = "[...document.querySelectorAll('.worth .lead')]"
    lines = f"new Set({leads}.map((each) => each.offsetHeight)).size"
    assert tab.run(lines) == 1, "no name of an objective is broken"
    tab.run(f"{leads}[0].textContent = 'an_objective_of_a_name_as_long_as_names_may_be'")
    over = "[...document.querySelectorAll('.worth')].map((each) => each.scrollWidth - each.clientWidth)"
    assert set(tab.run(over)) == {0}, "a long one is"
    small = "[...document.querySelectorAll('.work button, .work select')].filter((e) => e.offsetParent && e.offsetHeight < 32).length"
    assert tab.run(small) == 0


def test_numbers_are_written_out(tab: Tab, serving: Start) -> None:
    open_page(tab, f"{serving().url}/")
    values = "[0.00867, -0.00012, 0.000012, 0.05, 3.14159, 42.195, 1234.5, 7, null]"
    tab.run(f"import('/play/dom.js').then((dom) => {{ globalThis.written = {values}.map(dom.signed); }})")
    tab.until("globalThis.written !== undefined")
    shown = [each and each.replace("\N{MINUS SIGN}", "-") for each in tab.run("written")]
    assert shown[:-1] == ["+0.00867", "-0.000120", "+1.20e-5", "+0.0500", "+3.14", "+42.2", "+1235", "+7"]
    assert shown[-1] == "\N{EN DASH}"


def test_with_the_tab_key_alone(tab: Tab, serving: Start) -> None:
    open_page(tab, f"{serving().url}/")
    tab.run("document.querySelector('textarea').focus()")
    seen = []
    for _ in range(16):
        tab.key("Tab")
        seen.append(tab.run("document.activeElement.ariaLabel || document.activeElement.textContent.trim()"))
    assert [*seen[:3], *seen[4:8]] == [
        "Ask",
        "Add a column",
        "Copy the link",
        "A: method",
        "Remove A",
        "A: weight",
        "A: answer",
    ]
    assert "The points as numbers" in seen


def test_a_triangle_and_bars(tab: Tab, serving: Start) -> None:
    """Of other numbers of objectives: drawn on the page, where the knobs' own files work them."""
    open_page(tab, f"{serving().url}/")
    tab.run("""(async () => {
      const { knob } = await import("/play/knob.js");
      globalThis.mount = (names, weights) => {
        const made = knob("Z", names.map((name) => ({ name })), (turned) => { globalThis.turned = turned; made.show(turned, []); });
        made.show(weights, [weights]);
        document.querySelector(".columns").replaceChildren(made.element);
      };
      mount(["a", "b", "c"], [1, 0, 0]);
    })()""")
    tab.run("document.querySelector('.handle').focus()")
    tab.key("ArrowRight")
    assert tab.run("turned") == [0.95, 0.05, 0]
    tab.key("ArrowUp")
    assert sum(tab.run("turned")) == pytest.approx(1) and tab.run("turned")[2] == 0.05
    for key, weights in (
        ("3", [0, 0, 1]),
        ("ArrowDown", [0.03, 0.02, 0.95]),
        ("2", [0, 1, 0]),
        ("ArrowRight", [0, 1, 0]),
    ):
        tab.key(key, key if len(key) == 1 else "")
        assert sorted(tab.run("turned")) == sorted(weights)
    handle = dict(tab.names())
    assert handle["slider"] == "Z: weights"
    corners = tab.run("""(() => {
      const svg = document.querySelector("svg.weights"), at = (x, y) => {
        const p = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM()); return [p.x, p.y];
      };
      svg.scrollIntoView();
      return [at(200, 173.2), at(0, 173.2), at(100, 115.47), at(100, -300)];
    })()""")
    for place, weights in zip(corners, ([0, 1, 0], [1, 0, 0], [0.33, 0.33, 0.33], [0, 0, 1]), strict=True):
        tab.drag(tuple(corners[0]), tuple(place))
        assert tab.run("turned") == pytest.approx(weights, abs=0.02) and sum(tab.run("turned")) == pytest.approx(1)
    tab.run("mount(['a', 'b', 'c', 'd'], [0.4, 0.4, 0.2, 0])")
    tab.run("document.querySelector('[aria-label=\"Z: weight of a\"]').focus()")
    tab.key("Home")
    assert tab.run("turned") == pytest.approx([0, 2 / 3, 1 / 3, 0])
    tab.key("End")
    assert tab.run("turned") == [1, 0, 0, 0]
    tab.key("ArrowLeft")
    assert tab.run("turned") == pytest.approx([0.99, *[0.01 / 3] * 3])


def test_what_goes_wrong_is_said(tab: Tab, serving: Start) -> None:
    server = serving()
    open_page(tab, f"{server.url}/#at=mod%401%2C0&temperature=0")
    stub = "globalThis.really ??= fetch; globalThis.fetch = async (path, how) => path.includes('chat') ? %s : really(path, how)"
    said = "document.querySelector('.column .said').textContent"

    def answers(status: int, message: str, **headers: str) -> str:
        body = json.dumps({"error": {"message": message}})
        return f"new Response({json.dumps(body)}, {{ status: {status}, headers: {json.dumps(headers)} }})"

    tab.run(stub % answers(503, "the server is stopping"))
    ask(tab, "tell me")
    tab.until(f"{said} === 'The server is stopping.'")
    tab.run(stub % "(() => { throw new TypeError('refused') })()")
    ask(tab, "tell me")
    tab.until(f"{said}.startsWith('The server does not answer.')")
    tab.run(stub % 'new Response(\'data: {"choices": [{"delta": {"content": "the"}}]}\\n\\n\')')
    ask(tab, "tell me")
    tab.until(f"{said}.startsWith('The answer broke off')")
    assert tab.run(TEXTS) == ["the"]
    tab.run(stub % answers(429, "5 answers wait", **{"Retry-After": "1"}))
    ask(tab, "tell me")
    tab.until(f"{said} === 'The server is full: 5 answers wait. Asks again in 1 s.'")
    tab.run("globalThis.fetch = really")
    assert whole(tab)[0], "it asked again by itself"
    tab.run(stub % "new Promise((_, no) => how.signal.addEventListener('abort', () => no(how.signal.reason)))")
    tab.run("for (let i = 0; i < 5; i += 1) document.querySelector('.add').click()")
    ask(tab, "tell me")
    state = "[...document.querySelectorAll('.said')].map((each) => each.textContent)"
    tab.until(f"{state}.filter((each) => each === 'is asked').length === 4")
    assert tab.run(state).count("waits for its turn") == 2, "a browser has few connections"
    tab.key("Escape")
    tab.until(f"{state}.every((each) => each === 'stopped')")
    open_page(tab, f"{server.url}/#asked=1&at=none%401%2C0&at=mod%401%2C2%2C3")
    problem = tab.run("document.querySelector('.problem').textContent")
    assert "“none”" in problem and "“1,2,3”" in problem and tab.run(TEXTS) == ["", ""], (
        "it does not ask for another thing"
    )


STATE = "document.querySelector('.status').textContent"


def test_an_answer_to_an_earlier_question_is_none_to_this_one(tab: Tab, serving: Start) -> None:
    open_page(tab, f"{serving().url}/#temperature=0")
    ask(tab, "tell me")
    whole(tab)
    tab.run("document.querySelector('textarea').focus()")
    tab.type(" more")
    tab.until(f"{STATE} === '2 of 2 of an earlier question'")
    assert tab.run("document.querySelectorAll('.stale').length") == 2
    tab.run("document.querySelector('.column input[type=range]').focus()")
    tab.key("ArrowRight")
    tab.until(f"{STATE} === '1 of 2 of an earlier question'")
    assert tab.run("[...document.querySelectorAll('.column')].map((e) => e.classList.contains('stale'))") == [
        False,
        True,
    ]
    tab.run("document.querySelector('.go').click()")
    whole(tab)
    assert not tab.run("document.querySelector('.stale') !== null")


def test_what_cannot_be_asked_is_said_where_it_stands(tab: Tab, serving: Start) -> None:
    open_page(tab, f"{serving().url}/")
    tab.run("document.querySelector('[name=seed]').value = '1.5'")
    ask(tab, "tell me")
    assert tab.run("document.querySelector('details').open && document.activeElement.name") == "seed"
    tab.run("document.querySelector('[name=seed]').value = '1'")
    ask(tab, "   ")
    assert tab.run("document.activeElement.matches('textarea:invalid')")
    assert tab.run(STATE) == "", "nothing was asked, so no answers are there"
    ask(tab, "tell me")
    whole(tab)


def test_a_link_says_whose_it_is(tab: Tab, serving: Start) -> None:
    """Weights are those of the objectives that it names, and what does not fit is said and not asked."""
    url = serving().url

    def told(link: str) -> tuple[str, list[str]]:
        open_page(tab, f"{url}/#{link}&asked=1&prompt=tell&temperature=0")
        ends = tab.run("[...document.querySelectorAll('.ends')].map((e) => e.textContent)")
        said = tab.run("document.querySelector('.problem').textContent")
        if said:
            assert tab.run(STATE) == "" and not any(tab.run(TEXTS)), "it does not ask for another thing"
        return said, [each.replace("\N{NO-BREAK SPACE}", " ") for each in ends]

    assert told("at=mod%400.3%2C0.7") == ("", ["detail 30 %70 % brevity"]), "as links were"
    assert told("run=tiny&of=brevity%2Cdetail&at=mod%400.3%2C0.7") == ("", ["detail 70 %30 % brevity"])
    said, ends = told("of=kind%2Cshort&at=mod%400.3%2C0.7")
    assert "of the objectives kind,short, and this run" in said and ends == ["detail 50 %50 % brevity"]
    assert "of the run “other”" in told("run=other&at=mod%400.3%2C0.7")[0]
    for wrong in ("seed=1.5", "seed=-1", "seed=1e30", "tokens=0", "tokens=99999", "temperature=1e9", "temperature=x"):
        assert f"“{wrong.partition('=')[2]}”, which cannot be" in told(wrong)[0]
    for wrong in ("1%2C", "%2C1", "0%2C0", "1%2C-1", "Infinity%2C1", "1", ""):
        assert "which are none of 2 objectives" in told(f"at=mod%40{wrong}")[0]
    tab.complaints = [each for each in tab.complaints if "404" not in each]  # the run that is not served


def test_a_method_that_is_trained_at_some_weights_has_these_to_choose_from(tab: Tab, serving: Start) -> None:
    open_page(tab, f"{serving().url}/")
    told: Any = tab.run("""(async () => {
      const { Column } = await import("/play/column.js"), { fromFragment } = await import("/play/state.js");
      const told = [], objectives = [{ name: "a" }, { name: "b" }];
      const methods = [["mod", null], ["lw", [[1, 0], [0.5, 0.5], [0, 1]]]].map(([name, trained]) => ({ name, trained, steered: true }));
      const about = { run: "r", usual: "mod", objectives, methods, prompt: "", tokens: { most: 9 } };
      const column = new Column("Z", { method: "mod", weights: [0.6, 0.4] }, { about, places: () => [], heard: () => {} });
      document.querySelector(".columns").replaceChildren(column.element);
      const shown = () => told.push([...column.element.querySelectorAll(".knob")].map((each) => !each.hidden), column.weights);
      shown();
      column.put("lw");
      shown();
      const select = column.element.querySelector(".knob select");
      select.selectedIndex = 2;
      select.dispatchEvent(new Event("change"));
      shown();
      const link = fromFragment("#at=lw%400.9%2C0.1&asked=1", about);
      return [...told, select.options[1].textContent, link.state.columns[0].weights, link.state.asked, link.missed.length];
    })()""")
    slider, at, choice, nearest, still, chosen, option, linked, asked, missed = told
    assert (slider, choice, still) == ([True, False], [False, True], [False, True])
    assert (at, nearest, chosen, linked) == ([0.6, 0.4], [0.5, 0.5], [0, 1], [1, 0])
    assert option.replace("\N{NO-BREAK SPACE}", " ") == "a 50 % · b 50 %" and not asked and missed == 1
    assert ("combobox", "Z: weights that it is trained at") in tab.names()


def test_a_key_is_asked_for_and_is_in_no_link(tab: Tab, serving: Start) -> None:
    tab.open(serving("secret").url)
    tab.until("!document.querySelector('.key').hidden")
    for key in ("wrong", "secret"):
        tab.run("{ const field = document.querySelector('.key input'); field.value = ''; field.focus(); }")
        tab.type(key)
        tab.key("Enter", "\r")
        tab.until("document.querySelector('.column') !== null || document.querySelector('.problem').textContent !== ''")
        assert bool(tab.run("document.querySelector('.key').hidden")) == (key == "secret")
        tab.complaints = [each for each in tab.complaints if "401" not in each]  # the browser's own line
    ask(tab, "tell me")
    whole(tab)
    assert "secret" not in tab.run("location.href + document.cookie")
