"""The page as a browser shows it: its scripts unpack the texts and draw them, and nothing of it is refused."""

import re
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from browser import BROWSER
from pages import unpacked

from sipo.config.file import parse_config
from sipo.report.pack import pack
from sipo.runs.pipeline import run


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on the path")
def test_a_browser_draws_knob_cases_and_chart(settings: dict[str, Any], tmp_path: Path) -> None:
    settings |= {"methods": ["base", "sipo"], "sample": {"prompts": 4, "per_weight": 2}}
    settings["align"] = {"lr": 0.01, "epochs": 1, "checkpoint": "last"}
    page = run(parse_config(settings, "here"), quiet=True) / "report" / "report.html"
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}")

    def shown(file: Path, *more: str) -> str:
        words = [str(BROWSER), *options, *more, "--virtual-time-budget=20000", "--dump-dom", file.as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    long = tmp_path / "long.html"
    root = "document.documentElement"
    measure = f"<script>document.title = {root}.scrollWidth - {root}.clientWidth</script></body>"
    long.write_text(page.read_text().replace("brevity", "brevity_for_lay_readers" * 4).replace("</body>", measure))
    for width in (390, 1280):
        assert "<title>0</title>" in shown(long, f"--window-size={width},900"), "nothing runs out of the page"
    printed = tmp_path / "printed.html"
    count = "document.title = [...document.querySelectorAll('{}')].filter(each => {}).length"
    for what, wrong in (
        (".scroll", "each.scrollWidth > each.clientWidth + 1"),
        ("details", "each.getBoundingClientRect().height < 60"),
    ):
        paper = page.read_text().replace("@media print", "@media screen")
        printed.write_text(paper.replace("</body>", f"<script>{count.format(what, wrong)}</script></body>"))
        assert "<title>0</title>" in shown(printed, "--window-size=718,1000"), f"paper shows all of {what}"
    drawn, (answers, cases) = unescape(shown(page)), unpacked(page.read_text())
    said = re.findall("<output[^>]*>([^<]*)</output>", drawn)
    assert said == [f"1 of {len(answers['records'])}", f"{len(cases['records'])} of {len(cases['records'])}"]
    knob = drawn[drawn.index('<section id="knob">') : drawn.index("<template")]
    live = knob[knob.index('class="live"') : knob.index('class="still')]
    assert knob.count('type="range"') == 1 and live.count('<div class="card">') == 2
    assert drawn.count("<article") == len(cases["records"]) > 0
    assert drawn.count('<svg class="chart plane"') == drawn.count('tabindex="0"') == 1, "one stop of the tab key"
    assert drawn.count('<svg class="chart curves" viewBox="0 0 360 200" role="img"') == 4, "align and realign"
    keys = """<script>setTimeout(() => {
      const [mark, more] = [[...document.querySelectorAll(".plane .mark")].at(-1), document.querySelector(".more")];
      mark.focus();
      const stops = [...document.querySelectorAll('.plane [tabindex="0"]')];
      const said = [stops.length, stops[0] === mark, document.querySelector("#cases .print").textContent];
      more.click();
      document.title = [...said, document.activeElement.id].join("; ");
    }, 3000)</script></body>"""
    records = [{**cases["records"][0], "id": str(i)} for i in range(12)]
    _, packed = re.findall("<template data-pack>(.*?)</template>", page.read_text())
    many = tmp_path / "many.html"
    many.write_text(page.read_text().replace(packed, pack({**cases, "records": records})).replace("</body>", keys))
    assert "<title>1; true; The first 10 of 12 are printed.; case-10</title>" in shown(many), (
        "keys go on where they are"
    )
    decision = drawn[: drawn.index('<section id="knob">')]
    assert decision.index("<figure") < decision.index('<dl class="commands">'), "seen before what is typed"
