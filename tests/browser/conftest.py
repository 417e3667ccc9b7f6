"""One Chromium for a module; each page of it is watched for what a page must not do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.scene import Scene, serving
from tests.helpers.need import missing, require_program

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync")
WIDE, PHONE = (1440, 900), (390, 844)
VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(
    `${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
"""


class Watched:
    """A page, and what it has said that it should not."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.add_init_script(VIOLATIONS)
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))

    def examine(self) -> None:
        """Nothing on the console, no violation of the policy, nobody else asked."""
        assert self.said == []
        assert self.page.evaluate("window.violations") == []
        origin = self.page.evaluate("location.origin")
        assert [url for url in self.asked if not url.startswith(origin)] == []


Open = Callable[..., Watched]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """While it lives playwright's event loop runs in this thread: no asynchronous test can."""
    program = require_program("chromium", "chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed (pip install --group browser)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens pages: open_page(address, size=…, scheme="light" | "dark", **options of the context)."""
    with contextlib.ExitStack() as stack:

        def make(address: str, size: tuple[int, int] = WIDE, scheme: str = "light", ready: bool = True,
                 before: Callable[[Any], None] = lambda page: None, **options: Any) -> Watched:
            context = browser.new_context(viewport=dict(zip(("width", "height"), size, strict=True)),
                                          color_scheme=scheme, **options)
            stack.callback(context.close)
            watched = Watched(context.new_page())
            before(watched.page)
            watched.page.goto(address)
            if ready:
                watched.page.wait_for_selector("#services table tbody tr")
            return watched

        yield make


@pytest.fixture
def scene() -> Iterator[Scene]:
    """All is well, and has been for an hour."""
    with Scene() as made:
        serving(made)
        yield made


@pytest.fixture
def picture(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Watched, str], None]:
    """Keeps a picture of the whole page, in the folder NS7_PICTURES if there is one: to be looked at."""
    folder = Path(os.environ.get("NS7_PICTURES") or tmp_path)

    def take(watched: Watched, name: str) -> None:
        watched.page.screenshot(path=folder / f"{name}.png", full_page=True)

    return take
