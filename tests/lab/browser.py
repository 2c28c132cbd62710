"""A headless Chromium, spoken to over a pipe: https://chromedevtools.github.io/devtools-protocol/ .

Debian has it as ``chromium``. axe-core, which examines pages for what shuts people out, comes with a package from PyPI
of which one file is used; its digest is pinned here.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lab.tools import missing, require_tool

_START_S = 60.0
_ANSWER_S = 60.0
_AXE_PACKAGE = "axe-playwright-python==0.1.8"
_AXE_SHA256 = "84494fec757e4710dc751c8d7a636e457f4532f08f85c86dc9070133fbff53bc"  # axe-core 4.12.1
_RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


class PageError(AssertionError):
    """The page raised something, or violated its own policy."""


class Browser:
    """One window of one browser. One thread. ``console``: what pages complained of since the last :meth:`open`."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self._process = process
        self._to, self._back = to, back
        self._buffer = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self._session = ""
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", {})
        self._call("Security.setIgnoreCertificateErrors", {"ignore": True})
        self.size(1280, 900)

    def size(self, width: int, height: int) -> None:
        """Of the window, in CSS pixels."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def dark(self, is_dark: bool) -> None:
        """Whether pages shall be dark."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", {"features": [feature]})

    def scripts(self, allowed: bool) -> None:
        """Whether pages may run scripts."""
        self._call("Emulation.setScriptExecutionDisabled", {"value": not allowed})

    def open(self, url: str) -> None:
        """Load a page; returns when all of it is there."""
        self._events.clear()
        answer = self._call("Page.navigate", {"url": url})
        assert "errorText" not in answer, answer["errorText"]
        self._await("Page.loadEventFired")

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; of a promise, what it comes to."""
        told = self._call("Runtime.evaluate", {"expression": script, "awaitPromise": True, "returnByValue": True})
        if "exceptionDetails" in told:
            raise PageError(str(told["exceptionDetails"]))
        return told["result"].get("value")

    def until(self, script: str, timeout_s: float = 60.0) -> Any:
        """What an expression is as soon as it is true."""
        give_up = time.monotonic() + timeout_s
        while not (found := self.evaluate(script)):
            assert time.monotonic() < give_up, f"{script}: not within {timeout_s:g} s"
            time.sleep(0.05)
        return found

    def press(self, key: str, **more: Any) -> None:
        """One key, such as "Tab", "Enter"."""
        codes = {"Tab": 9, "Enter": 13}
        text = {"Enter": "\r"}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            event = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": codes[key], **more}
            self._call("Input.dispatchKeyEvent", event | ({"text": text} if text and kind == "keyDown" else {}))

    def follow(self, script: str) -> None:
        """Do something that leads to another page; returns when that is there."""
        self._events.clear()
        self.evaluate(script)
        self._await("Page.loadEventFired")

    def await_load(self) -> None:
        """Return when the page that something led to is there."""
        self._await("Page.loadEventFired")

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self._call("Input.insertText", {"text": text})

    def screenshot(self, file: Path, whole: bool = True) -> None:
        """As PNG; ``whole``: what one would have to scroll to, too."""
        shot = self._call("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        file.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """What the page's scripts and its policy said since it was opened."""
        self._drain(0.0)
        told = []
        for event in self._events:
            match event["method"], event["params"]:
                case "Runtime.exceptionThrown", details:
                    told.append(str(details["exceptionDetails"]))
                case "Log.entryAdded", {"entry": entry} if entry["level"] in ("error", "warning"):
                    told.append(f"{entry['text']} {entry.get('url', '')}")
        return told

    def requested(self) -> set[str]:
        """The addresses that were asked for since the page was opened."""
        self._drain(0.0)
        sent = [event for event in self._events if event["method"] == "Network.requestWillBeSent"]
        return {event["params"]["request"]["url"] for event in sent}

    def examine(self, axe: str) -> list[str]:
        """What axe-core finds wrong with the page, a line for each."""
        self.evaluate(f"{axe};0")
        options = json.dumps({"runOnly": _RULES, "resultTypes": ["violations"]})
        found = self.evaluate(f"axe.run(document, {options}).then(r => r.violations)")
        return [
            f"{rule['id']}: {rule['help']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
            for rule in found
            for node in rule["nodes"]
        ]

    def _call(self, method: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": dict(parameters)}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        give_up = time.monotonic() + _ANSWER_S
        while time.monotonic() < give_up:
            for answer in self._take(0.5):
                if answer.get("id") == self._number:
                    assert "error" not in answer, f"{method}: {answer.get('error')}"
                    result: dict[str, Any] = answer["result"]
                    return result
        raise AssertionError(f"{method}: no answer")

    def _await(self, event: str) -> None:
        give_up = time.monotonic() + _ANSWER_S
        while not any(each["method"] == event for each in self._events):
            assert time.monotonic() < give_up, f"{event} did not come"
            self._drain(0.5)

    def _drain(self, timeout_s: float) -> None:
        self._take(timeout_s)

    def _take(self, timeout_s: float) -> list[dict[str, Any]]:
        """Answers that have come; events are kept."""
        answers: list[dict[str, Any]] = []
        while select.select([self._back], [], [], timeout_s)[0]:
            chunk = os.read(self._back, 1 << 20)
            assert chunk, "the browser has ended"
            self._buffer += chunk
            *whole, self._buffer = self._buffer.split(b"\0")
            for each in map(json.loads, whole):
                (answers if "id" in each else self._events).append(each)
            if answers:
                break
            timeout_s = 0.0
        return answers


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A fresh one, without anybody's settings; ended at the end. Skips where there is none."""
    program = require_tool("chromium", "chromium")
    to_read, to_write = _pipe()
    back_read, back_write = _pipe()
    with tempfile.TemporaryDirectory(prefix="hf-chromium", ignore_cleanup_errors=True) as home:
        command = [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--hide-scrollbars", "--force-color-profile=srgb", f"--user-data-dir={home}", "--remote-debugging-pipe",
        ]  # fmt: skip
        # Chromium reads on its descriptor 3 and writes on 4
        shell = ["bash", "-c", f'exec 3<&{to_read} 4>&{back_write}; exec "$@"', "bash", *command]
        process = subprocess.Popen(
            shell, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(to_read, back_write), env={**os.environ, "HOME": home}, start_new_session=True,
        )  # fmt: skip
        os.close(to_read)
        os.close(back_write)
        try:
            yield Browser(process, to_write, back_read)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
            os.close(to_write)
            os.close(back_read)


def _pipe() -> tuple[int, int]:
    """With descriptors that are neither 3 nor 4."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]


def axe_script() -> str:
    """axe-core as the package from PyPI brings it; skips where it is not there."""
    found = find_spec("axe_playwright_python")
    if found is None or not found.submodule_search_locations:
        missing(f"axe-core is missing: pip install --no-deps {_AXE_PACKAGE}")
    assert found is not None
    assert found.submodule_search_locations is not None
    content = (Path(found.submodule_search_locations[0]) / "axe.min.js").read_bytes()
    assert hashlib.sha256(content).hexdigest() == _AXE_SHA256, f"this is not the axe-core of {_AXE_PACKAGE}"
    return content.decode()
