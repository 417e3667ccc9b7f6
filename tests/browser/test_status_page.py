"""What an operator sees: all of it, in any theme and width, with a keyboard, and when things go wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import PHONE, WIDE, Open, Watched
from tests.browser.scene import Scene, serving
from tests.conftest import StartBalancer
from tests.helpers.nameserver import NameServer
from tests.helpers.ports import address, free_port
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.long

CONTRAST = Path(__file__).with_name("contrast.js").read_text()
HOSTILE = "<img src=x onerror=alert(1)>\u202etxt.exe\u2066 \x1b[31m"


def text(watched: Watched, selector: str) -> str:
    return str(watched.page.locator(selector).inner_text())


def wait_text(watched: Watched, selector: str, pattern: str, seconds: float = 20) -> None:
    wait_for(f"{selector} says {pattern}", lambda: re.search(pattern, text(watched, selector)), seconds, every=0.1)


def test_all_is_there(scene: Scene, open_page: Open) -> None:
    scene.history()
    watched = open_page(scene.address)
    wait_text(watched, "#summary", r"1,\d\d\d queries per second to 2 servers")
    assert text(watched, "#verdict") == "Both servers answer"
    assert watched.page.title() == "● ns7c0: Both servers answer"
    wait_text(watched, "#holder", "211.47.66.90")
    assert "ns7c0, this host" in text(watched, "#holder")
    row = text(watched, "#services tbody tr:first-child")
    for part in ("up", "for ", "ns7c1", "192.0.2.1:1", "50 %", "weight 1, due 50 %", "NOERROR", "NXDOMAIN", "UDP",
                 "TCP", "0.40 ms", "/s"):
        assert part in row, part
    panels = text(watched, "#panels")
    for part in ("Virtual address", "ns7c0 (this host)", "7 on eth0", "200", "standby", "Zones", "tt.co.kr",
                 "2026112501", "Synchronisation", "4711", "current", "This host", "0.1.0", "3 d 1 h",
                 "read 1 h 23 min ago"):
        assert part in panels, part
    events = watched.page.locator("#events li")
    assert events.count() == 7
    assert "generation 4711" in events.first.inner_text()
    assert "Live" in text(watched, "#feed")
    labels = [str(each.get_attribute("aria-label")) for each in watched.page.locator(".plot").all()]
    assert re.search(r"asked 9\d\d to 1,4\d\d; unanswered 0 to 12$", labels[0]), "the hour of before"
    assert labels[1].startswith("Time to answer in the last hour: half within 0.2")
    serials = watched.page.locator(".serials tbody tr").all_inner_texts()
    assert len(serials) == 4
    watched.examine()


def test_trouble(scene: Scene, open_page: Open) -> None:
    """And its end: without a reload of the page."""
    watched = open_page(scene.address)
    wait_text(watched, "#verdict", "Both servers answer")
    scene.trouble()
    wait_text(watched, "#verdict", "2 things need a look")
    assert text(watched, "#troubles") == ("ns7/ns7c2 is down: no answer to 3 probes within 0.5 s\n"
                                          "standby director is missing: no other director is heard")
    assert watched.page.title().startswith("✕ ns7c0")
    wait_text(watched, "#services tbody tr:nth-child(2)", "^down")
    assert "no answer to 3 probes" in text(watched, "#services tbody tr:nth-child(2) .reason")
    wait_text(watched, "#panels", "behind for 42 s")
    assert "ns7/ns7c2: weight 2" in text(watched, "#panels")
    assert "by anna on ns7c0" in text(watched, "#panels")
    assert "server ns7/ns7c2" in text(watched, "#events li:first-child")
    scene.down.clear()
    scene.tell("snapshot", "alert", {"open": []})
    wait_text(watched, "#verdict", "Both servers answer")
    watched.examine()


def test_a_killed_server_is_shown_without_a_reload(start: StartBalancer, open_page: Open) -> None:
    """A real ns7 with its health process, before two servers."""
    where = address("127.0.0.1", free_port())
    with NameServer() as one, NameServer() as two:
        start([one.address, two.address], http=[where], more='[health]\ninterval = "300ms"\n')
        watched = open_page(f"http://{where}/", before=lambda page: wait_for("listening", lambda: listens(page, where)))
        marked = watched.page.evaluate("window.marked = 'the same page'")
        rows = "#services tbody tr:nth-child({})"
        wait_text(watched, rows.format(2), "^(up|degraded)")     # scripted servers answer over UDP only
        two.close()
        wait_text(watched, rows.format(2), "^down")
        wait_text(watched, "#events", "s2")
        assert watched.page.evaluate("window.marked") == marked
        watched.examine()


def listens(page: Any, where: str) -> bool:
    try:
        return bool(page.request.get(f"http://{where}/healthz").ok)
    except Exception:               # whatever the driver calls a refusal
        return False


def test_without_the_stream_it_asks(scene: Scene, open_page: Open) -> None:
    watched = open_page(scene.address, ready=False, before=lambda page: page.route(
        "**/api/v1/events?overview**", lambda route: route.abort()))
    wait_text(watched, "#feed", "Polling")
    wait_text(watched, "#verdict", "Both servers answer")
    scene.down.add(1)
    wait_text(watched, "#services tbody tr:nth-child(2)", "^down")
    scene.happen("worker", "worker 1", "", "restarted", "killed by signal 11")
    wait_text(watched, "#events li:first-child", "killed by signal 11")
    assert watched.page.evaluate("window.violations") == []


def test_it_says_when_it_knows_nothing(scene: Scene, open_page: Open) -> None:
    """What is old does not look as if it were new; and all comes back by itself."""
    watched = open_page(scene.address)
    wait_text(watched, "#feed", "Live")
    scene.stop()
    wait_text(watched, "#verdict", "No news from ns7: what you see is old", 30)
    assert re.search(r"No news for \d+ s", text(watched, "#feed"))
    assert watched.page.title() == "✕ no news from ns7c0"
    scene.restart()
    wait_text(watched, "#feed", "Live", 40)
    wait_text(watched, "#verdict", "Both servers answer")


def test_a_new_version_brings_its_page(scene: Scene, open_page: Open) -> None:
    watched = open_page(scene.address)
    with watched.page.expect_navigation():
        scene.facts(version="0.2.0")
    watched.page.wait_for_selector("#services table tbody tr")
    wait_text(watched, "#panels", "0.2.0")


def test_text_from_outside_stays_text(open_page: Open) -> None:
    """Names and reasons are whatever somebody else says."""
    with Scene(reason=HOSTILE) as scene:
        serving(scene)
        scene.down.add(0)
        scene.facts(node=HOSTILE, live=[{
            "service": "ns7", "server": HOSTILE, "what": "weight", "value": HOSTILE, "user": HOSTILE, "time": scene.now,
            "node": HOSTILE, "lifted": False, "saved": False, "idle": HOSTILE * 100}])
        scene.happen(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE * 100)
        scene.tell("snapshot", "health", {"zones": 1, "targets": 1, "master": {"name": HOSTILE, "verdict": HOSTILE},
                                          "serials": [{"zone": HOSTILE, "server": HOSTILE, "serial": HOSTILE}]})
        scene.tell("snapshot", "sync", {"role": HOSTILE, "state": HOSTILE, "reason": HOSTILE, "pullers": [
            {"puller": HOSTILE, "state": HOSTILE, "generation": HOSTILE, "reason": HOSTILE, "behind": 0}]})
        watched = open_page(scene.address)
        wait_text(watched, "#services tbody tr:first-child .reason", "<img src=x onerror=alert\\(1\\)>")
        wait_text(watched, "#events", "<img")
        assert watched.page.locator("img").count() == 0
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", text(watched, "body"))
        assert len(text(watched, "#events .why")) <= 400
        watched.examine()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_looks(scene: Scene, open_page: Open, picture: Callable[[Watched, str], None], scheme: str,
               size: tuple[int, int]) -> None:
    """Nothing is wider than the page, all text stands out from its ground by 4.5 at least (WCAG 2.2, 1.4.3)."""
    name = f"{'wide' if size == WIDE else 'phone'}-{scheme}"
    scene.history()
    watched = open_page(scene.address, size, scheme)
    wait_text(watched, "#summary", r"1,\d\d\d queries")
    picture(watched, f"well-{name}")
    scene.trouble()
    wait_text(watched, "#verdict", "2 things")
    wait_text(watched, "#panels", "behind for")
    picture(watched, f"trouble-{name}")
    assert watched.page.evaluate("document.scrollingElement.scrollWidth") <= size[0]
    weak = watched.page.evaluate(CONTRAST)
    assert weak["checked"] > 100
    assert weak["weak"] == []
    watched.examine()


def test_theme_button(scene: Scene, open_page: Open) -> None:
    """Kept over a reload."""
    watched = open_page(scene.address, scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = watched.page.evaluate(ground)
    button = watched.page.locator("#theme")
    button.click()
    assert button.inner_text() == "Theme: light"
    assert watched.page.evaluate(ground) != dark
    watched.page.reload()
    assert button.inner_text() == "Theme: light"
    assert watched.page.evaluate(ground) != dark
    button.click()
    button.click()
    assert button.inner_text() == "Theme: system"
    assert watched.page.evaluate(ground) == dark
    watched.examine()


def test_keyboard(scene: Scene, open_page: Open) -> None:
    """Every place that can be reached shows that it is; there is a way past the head."""
    scene.history()
    watched = open_page(scene.address)
    seen = []
    for _ in range(12):
        watched.page.keyboard.press("Tab")
        where = watched.page.evaluate("""() => {
            const one = document.activeElement;
            if (one === document.body) return null;
            const box = one.getBoundingClientRect(), style = getComputedStyle(one);
            return {name: one.id || one.className || one.tagName, seen: style.outlineStyle !== "none" && box.width > 0
                && box.left >= 0, label: one.getAttribute("aria-label") || one.getAttribute("aria-labelledby")
                || one.textContent.trim()};
        }""")
        if where is None:
            break
        seen.append(where)
    assert [one["name"] for one in seen] == ["skip", "theme", "scroll", "scroll", "events"]
    assert all(one["seen"] and one["label"] for one in seen), seen
    watched.page.reload()
    watched.page.wait_for_selector("#services table tbody tr")
    watched.page.keyboard.press("Tab")
    watched.page.keyboard.press("Enter")
    watched.page.keyboard.press("Tab")
    assert watched.page.evaluate("document.activeElement.closest('#services') !== null")
    watched.page.locator("#theme").focus()
    watched.page.keyboard.press("Enter")
    assert text(watched, "#theme") == "Theme: light"


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_screen_reader(scene: Scene, open_page: Open, size: tuple[int, int]) -> None:
    """Roles and names as a reader of the screen gets them, on a narrow one too."""
    scene.trouble()
    watched = open_page(scene.address, size)
    page = watched.page
    wait_text(watched, "#verdict", "2 things")
    table = page.get_by_role("table", name="Servers of ns7")
    assert table.count() == 1
    assert page.get_by_role("columnheader").first.inner_text().lower() == "state"
    assert table.get_by_role("row").count() == 3
    assert table.get_by_role("rowheader").count() == 2
    assert table.get_by_role("cell").first.inner_text().startswith("up")
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("heading", level=2).count() >= 5
    assert page.get_by_role("main").count() == page.get_by_role("banner").count() == 1
    assert page.get_by_role("status").count() == 2
    assert page.evaluate("""() => [...document.querySelectorAll("[role=img], [role=region], button, section")]
        .filter((one) => !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby")
            || one.textContent.trim())).length""") == 0
    assert page.evaluate("""() => [...document.querySelectorAll("[id]")].map((one) => one.id)
        .filter((id, place, all) => all.indexOf(id) !== place)""") == []
    assert page.evaluate("""() => [...document.querySelectorAll("svg")]
        .filter((one) => one.getAttribute("aria-hidden") !== "true").length""") == 0
    assert page.evaluate("document.documentElement.lang") == "en"
    shares = page.get_by_role("img", name=re.compile("Shares of the last minute"))
    assert shares.count() == 1


def test_no_state_by_colour_alone(scene: Scene, open_page: Open) -> None:
    """Each state has a shape of its own and its word beside it."""
    scene.trouble()
    watched = open_page(scene.address)
    wait_text(watched, "#services tbody tr:nth-child(2)", "^down")
    marks = watched.page.evaluate("""() => [...document.querySelectorAll(".mark")].map((one) => (
        [one.dataset.look, one.querySelector("path").getAttribute("d"), one.querySelector(".word").textContent]))""")
    shapes = {look: shape for look, shape, _ in marks}
    assert len(set(shapes.values())) == len(shapes)
    assert {"good", "bad"} <= shapes.keys()
    assert all(word for _, _, word in marks)
