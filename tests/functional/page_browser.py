"""What tests of the page need of a browser besides: sizes, colours, keys, files."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.browser import Browser
from tests.real_parts import do_without

ENTER, ESCAPE, TAB = "\ue007", "\ue00c", "\ue004"
_AXE = "axe_playwright_python"
"""A package that has axe-core in it; nothing else of it is used."""


def axe_script(case: SynchronousTestCase) -> str:
    """The checks of accessibility, as a script."""
    found = find_spec(_AXE)
    if found is None or found.origin is None:
        return do_without(case, _AXE)
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


class PageBrowser(Browser):
    """A browser that can be a telephone, or a wall."""

    def cdp(self, command: str, **parameters: Any) -> Any:
        """Chromium's own protocol."""
        wanted = {"cmd": command, "params": parameters}
        return self._ask("POST", f"{self._session}/goog/cdp/execute", wanted)

    def resize(self, width: int, height: int) -> None:
        """Have a screen of that size; a window of so few pixels cannot be made."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def colours(self, scheme: str) -> None:
        """Prefer ``light`` or ``dark``."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.cdp("Emulation.setEmulatedMedia", features=features)

    def choose_files(self, selector: str, paths: list[Path]) -> None:
        """Put files into a field that need not be visible."""
        script = "const e = document.querySelector(arguments[0]); e.hidden = false; return e"
        element = next(iter(self.run(script, selector).values()))
        text = "\n".join(str(path) for path in paths)
        self._ask("POST", f"{self._session}/element/{element}/value", {"text": text})
        self.run("document.querySelector(arguments[0]).hidden = true", selector)

    def press(self, *keys: str) -> None:
        """Press and let go of keys, one after the other."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        board = {"type": "key", "id": "keyboard", "actions": actions}
        self._ask("POST", f"{self._session}/actions", {"actions": [board]})

    def set(self, selector: str, text: str) -> None:
        """Have this text in a field, as if typed."""
        self.wait_for(selector)
        self.run(
            "const e = document.querySelector(arguments[0]); e.focus(); e.value = arguments[1];"
            "for (const n of ['input', 'change']) e.dispatchEvent(new Event(n, {bubbles: true}))",
            selector,
            text,
        )

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements that match and can be seen."""
        script = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter(e => e.getClientRects().length).map(e => e.innerText)"
        )
        return [str(text) for text in self.run(script, selector)]

    def click_text(self, selector: str, text: str) -> None:
        """Click the one of those elements that has the text."""
        script = (
            "const all = [...document.querySelectorAll(arguments[0])];"
            "const e = all.find(e => e.getClientRects().length && !e.disabled"
            " && e.textContent.includes(arguments[1]));"
            "if (e) e.setAttribute('data-clicked', ''); return Boolean(e)"
        )
        self.wait_until(lambda: self.run(script, selector, text), f"{selector} with {text}")
        self.click("[data-clicked]")
        self.run(
            "for (const e of document.querySelectorAll('[data-clicked]'))"
            " e.removeAttribute('data-clicked')"
        )

    def call(self, module: str, function: str, *arguments: Any) -> Any:
        """What a function of one of the page's modules gives."""
        wanted = {
            "script": "const [module, name, values, done] = arguments;"
            "import(new URL(module, document.querySelector('script[type=module]').src))"
            ".then(m => done(m[name](...values)), e => done(String(e)))",
            "args": [module, function, list(arguments)],
        }
        return self._ask("POST", f"{self._session}/execute/async", wanted)

    def drop(self, paths: list[Path]) -> None:
        """Drop files and folders on the middle of the page."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.cdp("Input.dispatchDragEvent", type=kind, x=300, y=400, data=data)

    def violations(self, axe: str) -> list[str]:
        """What axe finds wrong with what is shown. :param axe: see :func:`axe_script`."""
        if not self.run("return Boolean(window.axe)"):
            self.run(axe)
        wanted = {
            "script": "const done = arguments[0];"
            "axe.run(document, {resultTypes: ['violations']}).then("
            "r => done(r.violations.map(v => [v.id, v.help, v.nodes.map(n => n.html)])),"
            "e => done([['axe', String(e), []]]))",
            "args": [],
        }
        found = self._ask("POST", f"{self._session}/execute/async", wanted)
        return [json.dumps(each)[:400] for each in found]
