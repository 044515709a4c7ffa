"""Chromium without a window, spoken to by its own protocol over two pipes.

https://chromedevtools.github.io/devtools-protocol/ has the methods. Messages are JSON,
a zero byte after each; it reads what is written to descriptor 3, and answers on 4.
"""

import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

SECONDS = 60.0  # for any one answer, on a busy machine


class Browser:
    """One page in one browser; a context manager.

    Attributes:
      requests: URLs that were asked for since the page was opened, itself among them.
      complaints: what it wrote to the console, and exceptions.
    """

    def __init__(self, program: str, profile: Path):
        self._to_read, self._to_write = os.pipe(), os.pipe()
        # Chromium reads from 3 and writes to 4. The shell puts pipes there, as Python.s
        # preexec_fn forks, which JAX warns of wherever it has run.
        ours = self._to_read[0], self._to_write[1]
        self._process = subprocess.Popen(
            [
                *("bash", "-c", f'exec "$@" 3<&{ours[0]} 4>&{ours[1]}', "bash"),
                *(program, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--remote-debugging-pipe", f"--user-data-dir={profile}"),
                *("--no-first-run", "--disable-extensions", "--disable-sync"),
                *("--disable-component-update", "--disable-background-networking"),
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=ours,
        )
        for end in ours:
            os.close(end)
        self._number, self._buffer, self._session = 0, b"", None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        (page, *_) = self.call("Target.getTargets")["targetInfos"]
        attached = self.call(
            "Target.attachToTarget", targetId=page["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to_read[1])
        os.close(self._to_write[0])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One method's result; what happens meanwhile is noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to_read[1], json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer}"
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._to_write[0]], [], [], SECONDS)
            assert ready, "the browser does not answer"
            part = os.read(self._to_write[0], 1 << 20)
            assert part, "the browser is gone"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        params = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(params["args"]))
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
        return message

    def open(self, page: Path) -> None:
        """Load a file, its images too."""
        self.requests.clear()
        self.complaints.clear()
        self.call("Page.navigate", url=page.as_uri())
        until = time.monotonic() + SECONDS
        loaded = "document.readyState === 'complete' && location.protocol === 'file:'"
        while not self.run(loaded):
            assert time.monotonic() < until, "the page does not load"

    def run(self, expression: str) -> Any:
        """What a JavaScript expression is."""
        found = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def size(self, width: int, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def media(self, scheme: str = "light", kind: str = "screen") -> None:
        """The colour scheme "light" or "dark", on "screen" or in "print"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=kind, features=features)

    def click(self, selector: str) -> None:
        """Press the mouse's button in the middle of an element."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x,
                y=y,
                button="left",
                clickCount=1,
            )

    def press(self, key: str) -> None:
        """A key of the keyboard: "Tab", "Enter" or " "."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=codes[key],
                text=text if kind == "keyDown" else "",
            )
