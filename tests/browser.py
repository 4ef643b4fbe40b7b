"""A headless browser that tests drive: over the DevTools protocol, through a pipe, with nothing installed for it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from shutil import which
from typing import Any

BROWSER = next((found for name in ("chromium", "google-chrome", "chromium-browser") if (found := which(name))), None)
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 60.0


class Tab:
    """One page. What it asked for over the network, and what it complained of, is kept."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._held, self._ids = read, write, b"", count(1)
        self._session: str | None = None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **given: Any) -> Any:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": given}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _next(self) -> Any:
        while b"\0" not in self._held:
            more = os.read(self._read, 1 << 16)
            assert more, "the browser has gone"
            self._held += more
        message, _, self._held = self._held.partition(b"\0")
        return json.loads(message)

    def _note(self, event: Any) -> None:
        given = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(given["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(given["exceptionDetails"].get("exception", given["exceptionDetails"])))
            case "Log.entryAdded" if given["entry"]["level"] == "error":
                self.complaints.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")

    def open(self, url: str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        phone = width < 500
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url="about:blank")  # another fragment alone would not load the page anew
        self.send("Page.navigate", url=url)
        self.until("location.href !== 'about:blank' && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression, awaited."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, patience: float = PATIENCE) -> Any:
        """Wait until an expression is true."""
        ends = time.monotonic() + patience
        while not (found := self.run(script)):
            assert time.monotonic() < ends, (script, self.complaints, self.run("document.body.innerText"))
            time.sleep(0.03)
        return found

    def key(self, name: str, text: str = "", code: int = 0, modifiers: int = 0) -> None:
        """Press a key as a person does."""
        about = {"key": name, "windowsVirtualKeyCode": code or KEYS.get(name, 0), "modifiers": modifiers}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def drag(self, start: tuple[float, float], *places: tuple[float, float]) -> None:
        def pointer(kind: str, place: tuple[float, float], held: int) -> None:
            self.send(
                "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", buttons=held, clickCount=1
            )

        pointer("mousePressed", start, 1)
        for place in places:
            pointer("mouseMoved", place, 1)
        pointer("mouseReleased", (start, *places)[-1], 0)

    def names(self) -> list[tuple[str, str]]:
        """(role, name) of all that can be worked, as it is told to those who do not see it."""
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        shown = [node for node in nodes if not node["ignored"] and node.get("role", {}).get("value") in CONTROLS]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in shown]

    def picture(self, file: Path, whole: bool = True) -> None:
        from base64 import b64decode

        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(b64decode(found["data"]))


CONTROLS = {
    "button", "checkbox", "combobox", "textbox", "slider", "spinbutton", "link", "menuitem", "option", "radio", "searchbox",
    "DisclosureTriangle", "image", "group", "article", "figure", "region", "table",
}  # fmt: skip
KEYS = {
    "Enter": 13,
    "Escape": 27,
    "Tab": 9,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "End": 35,
    "Home": 36,
}


@contextmanager
def browsing(profile: Path) -> Iterator[Tab]:
    """A browser for the block, with one tab."""
    (theirs, write), (read, answers) = os.pipe(), os.pipe()
    words = [str(BROWSER), *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    # It reads its commands from 3 and answers on 4.
    start = "import os, sys; os.dup2(int(sys.argv[1]), 63); os.dup2(int(sys.argv[2]), 4); os.dup2(63, 3); os.execv(sys.argv[3], sys.argv[3:])"
    process = subprocess.Popen(
        [sys.executable, "-c", start, str(theirs), str(answers), *words],
        pass_fds=(theirs, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    os.close(answers)
    try:
        yield Tab(read, write)
    finally:
        os.close(write)
        os.close(read)
        process.terminate()
        process.wait(20)
