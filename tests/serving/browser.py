"""A headless Chromium, spoken to over its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
]
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Path of the browser: STREAMFLOW_CHROMIUM, else the first of the usual names."""
    if path := os.environ.get("STREAMFLOW_CHROMIUM"):
        return path
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One page. Keeps the addresses it asked for, and what it complained about."""

    def __init__(self, socket: ClientConnection, session: str) -> None:
        self._socket, self._session, self._number = socket, session, 0
        self.asked: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A DevTools command; its result."""
        self._number += 1
        self._socket.send(
            json.dumps(
                {
                    "id": self._number,
                    "method": method,
                    "params": parameters,
                    "sessionId": self._session,
                }
            )
        )
        while True:
            message = json.loads(self._socket.recv(timeout=20))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        given = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.asked.append(given["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(given["exceptionDetails"])[:2000])
        elif message.get("method") == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.complaints.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        """Go to an address."""
        self.do("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        done = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Until a JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < deadline, (condition, self.text(), self.complaints)
            time.sleep(0.05)

    def text(self, selector: str = "body") -> str:
        """The text a person sees."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def press(self, *keys: str) -> None:
        """Press keys (Tab, Enter, Space), or type text."""
        codes = {"Tab": (9, "Tab", ""), "Enter": (13, "Enter", "\r"), "Space": (32, " ", " ")}
        for key in keys:
            if key not in codes:
                self.do("Input.insertText", text=key)
                continue
            code, name, text = codes[key]
            common = {"windowsVirtualKeyCode": code, "key": name, "code": key}
            self.do("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
            self.do("Input.dispatchKeyEvent", type="keyUp", **common)

    def look(self, *, width: int, height: int, dark: bool = False) -> None:
        """Take on a size and a colour scheme."""
        scheme = "dark" if dark else "light"
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.do(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def shoot(self, path: Path) -> None:
        """Save what is seen as PNG."""
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def browser(path: str, profile: Path) -> Iterator[Tab]:
    """A fresh browser with one tab."""
    log = profile.with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"], stdout=out, stderr=out
        )
    try:
        address = None
        deadline = time.monotonic() + 30
        while address is None:
            assert time.monotonic() < deadline, log.read_text()
            assert process.poll() is None, log.read_text()
            address = re.search(r"ws://\S+", log.read_text())
            time.sleep(0.05)
        with connect(address.group(), max_size=None) as socket:

            def call(number: int, method: str, **given: Any) -> dict[str, Any]:
                socket.send(json.dumps({"id": number, "method": method, "params": given}))
                while (message := json.loads(socket.recv(timeout=20))).get("id") != number:
                    pass
                return dict(message["result"])

            target = call(10**6, "Target.createTarget", url="about:blank")["targetId"]
            attached = call(10**6 + 1, "Target.attachToTarget", targetId=target, flatten=True)
            yield Tab(socket, attached["sessionId"])
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
