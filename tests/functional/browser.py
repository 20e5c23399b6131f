"""A real browser without a window: Debian's Chromium, driven by its chromedriver.

The driver speaks WebDriver, which is JSON over HTTP (W3C): what a test needs of it is few requests,
and no library. Nothing of it leaves this machine, and its profile ends with the test.
"""

import base64
import http.client
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from demo.daemon import HOST, free_ports
from tests.functional.live import wait_until
from tests.real_parts import need

START_S = 30.0
ANSWER_S = 60.0
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--force-device-scale-factor=1"),
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""How WebDriver marks an element in JSON."""


class BrowserError(Exception):
    """The driver refused; the text is its own."""


class Browser:
    """One window. Selectors are those of CSS."""

    def __init__(self, case: SynchronousTestCase, folder: Path, size: tuple[int, int]) -> None:
        """Start it; it ends with the test.

        :param folder: where its profile and its log are made.
        """
        chromium, driver = need(case, "chromium"), need(case, "chromedriver")
        folder.mkdir(parents=True)
        self._port = free_ports(1)[0]
        home = {name: str(folder) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
        log = (folder / "chromedriver.log").open("wb")
        case.addCleanup(log.close)
        self._driver = subprocess.Popen(
            [driver, f"--port={self._port}"],
            env=os.environ | home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        case.addCleanup(self._driver.wait, 10)
        case.addCleanup(self._driver.terminate)
        wait_until(self._is_ready, "chromedriver answers", START_S)
        profile = f"--user-data-dir={folder / 'profile'}"
        window = f"--window-size={size[0]},{size[1]}"
        options = {"binary": chromium, "args": [*FLAGS, profile, window]}
        logs = {"browser": "ALL"}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": logs}
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"
        case.addCleanup(self.close)

    def close(self) -> None:
        """Close the window, and the browser with it."""
        session, self._session = self._session, ""
        if session:
            self._ask("DELETE", session)

    def open(self, url: str) -> None:
        """Go to an address; returns when the page is loaded."""
        self._ask("POST", f"{self._session}/url", {"url": url})

    @property
    def url(self) -> str:
        """Where it is."""
        return str(self._ask("GET", f"{self._session}/url"))

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a function; gives what it returns."""
        wanted = {"script": script, "args": list(arguments)}
        return self._ask("POST", f"{self._session}/execute/sync", wanted)

    def wait_for(self, selector: str) -> str:
        """Wait until an element can be seen, give its handle."""
        script = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".find(e => e.getClientRects().length && getComputedStyle(e).visibility != 'hidden')"
        )
        found = wait_until(lambda: self.run(script, selector), f"{selector} can be seen")
        return str(found[_ELEMENT])

    def click(self, selector: str) -> None:
        """Click where a person would, once it can be seen."""
        element = self.wait_for(selector)
        self._ask("POST", f"{self._session}/element/{element}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Type into a field, once it can be seen."""
        element = self.wait_for(selector)
        self._ask("POST", f"{self._session}/element/{element}/value", {"text": text})

    def text(self, selector: str) -> str:
        """The text of an element, as it is shown, once it can be seen."""
        element = self.wait_for(selector)
        return str(self._ask("GET", f"{self._session}/element/{element}/text"))

    def wait_until(self, holds: Callable[[], Any], what: str) -> Any:
        """Wait for something else."""
        return wait_until(holds, what)

    def screenshot(self, path: Path) -> Path:
        """Keep what can be seen, as a PNG."""
        image = base64.b64decode(self._ask("GET", f"{self._session}/screenshot"))
        path.write_bytes(image)
        return path

    def alert(self) -> str | None:
        """The text of a message box, which is closed; None where there is none."""
        try:
            text = str(self._ask("GET", f"{self._session}/alert/text"))
        except BrowserError:
            return None
        self._ask("POST", f"{self._session}/alert/accept", {})
        return text

    def complaints(self) -> list[str]:
        """Errors that the page has caused since this was asked last."""
        entries = self._ask("POST", f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def _is_ready(self) -> bool:
        try:
            return bool(self._ask("GET", "/status")["ready"])
        except OSError:
            return False

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=ANSWER_S)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(value, dict) and value.get("error"):
            raise BrowserError(f"{method} {path}: {value['error']}: {value['message']}")
        return value
