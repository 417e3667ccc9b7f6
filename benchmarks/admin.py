"""What it costs to be looked at, and how soon one sees something: `./dev bench admin`.

A real ns7 before real NSDs. Whoever looks (scrapers, open pages, enemies) does so from a loop in a thread of its own.
`--rounds` is how often each thing is measured, `--seconds` the length of a load.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import resource
import shlex
import statistics
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Self

from benchmarks import goals, meter, ns7, servers
from benchmarks.lab import ROOT, Address, Lab, LabError, free_port
from benchmarks.load import run_dnsperf
from benchmarks.oneshot.process import Client
from benchmarks.report import at_most, told
from benchmarks.udp import Options, Run

SERVICE = "bench"
RATE = 20_000               # queries per second of the load beside which 50 pages are open
HOSTILE_RATE = 2000.0
PAGES = 50
IDLE = 1000                 # connections that say nothing
SLOW = 60                   # that say a byte of a header each second
PATIENCE = 20.0
CHROMIUM = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync")
# What no client of ours sends: whole requests, each on a connection of its own.
NONSENSE = (
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n"
    + b"z" * 500_000, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), b"GET\r\n\r\n", b"\r\n" * 10_000,
    b"GET / HTTP/9.9\r\n\r\n", b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 100_000,
    b"GET /page/..%2f..%2fhttp.py HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%2e%2e/%2e%2e/proc/self/environ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5000,
)

Work = Callable[[], Awaitable[None]]


class Others:
    """Runs coroutines, again and again until the end, in a loop of its own thread; a context manager."""

    def __init__(self, *works: Work) -> None:
        self._works = works
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="others", daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        tasks = [self._loop.create_task(self._for_ever(work)) for work in self._works]
        self._loop.run_forever()
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _for_ever(self, work: Work) -> None:
        while True:
            with contextlib.suppress(OSError, EOFError, TimeoutError):      # cut off, as it should be
                await work()
            await asyncio.sleep(0.01)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


class Stand:
    """One ns7 with its page open to loopback, before so many server addresses."""

    def __init__(self, lab: Lab, options: Options, run: Run, row: str) -> None:
        self.lab, self.options, self.run, self.row = lab, options, run, row
        self.listen, self.http = Address("127.0.0.1", free_port()), Address("127.0.0.1", free_port())
        self.farm: servers.Servers
        self.balancer: ns7.Balancer

    @contextlib.contextmanager
    def opened(self, count: int = 2) -> Iterator[None]:
        """Until it is ended: everything answers."""
        self.farm = servers.start(self.lab, addresses=count)
        service = ns7.Service(SERVICE, self.listen, [(address, 1) for address in self.farm.addresses])
        self.balancer = ns7.start(self.lab, f"ns7-{self.row}-{count}", [service], 1, self.options.ns7,
                                  {"admin": {"listen": f'["{self.http}"]'}})
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError, LabError):
                if self.fetch("/readyz")[0] == 200:
                    break
            if time.monotonic() > deadline:
                raise LabError(f"{self.row}: the admin process does not answer: {self.balancer.process.last_words()}")
            time.sleep(0.05)
        run_dnsperf(self.listen, self.farm.queries, 1.0, 2000)      # every counter has moved
        yield
        self.lab.stop(self.balancer.process)
        for process in self.farm.processes:
            self.lab.stop(process)

    def fetch(self, path: str) -> tuple[int, bytes]:
        """(status, body) of one request."""
        connection = http.client.HTTPConnection(self.http.host, self.http.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def timed(self, path: str) -> float:
        """Milliseconds until the whole answer is there."""
        begin = time.monotonic()
        status, _ = self.fetch(path)
        if status != 200:
            raise LabError(f"{path}: status {status}")
        return 1000 * (time.monotonic() - begin)

    @property
    def admin(self) -> int:
        """Its pid."""
        return int(self.balancer.status()["processes"]["admin"]["pid"])

    def note(self, what: str, values: list[float]) -> None:
        self.run.details.append({"row": self.row, "what": what, "values": values})

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.http.host, self.http.port, limit=1 << 20)

    async def scrape(self) -> None:
        """One scrape, then a second of rest."""
        await self.drain(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n", 10.0)
        await asyncio.sleep(1.0)

    async def page(self) -> None:
        """An open page: the stream that it follows."""
        await self.drain(b"GET /api/v1/events?overview&last=50 HTTP/1.1\r\nHost: bench\r\n\r\n", 3600.0)

    async def drain(self, request: bytes, seconds: float) -> None:
        """Send it, and read until the other side ends."""
        reader, writer = await self.connect()
        try:
            async with asyncio.timeout(seconds):
                writer.write(request)
                while await reader.read(1 << 16):
                    pass
        finally:
            writer.transport.abort()


def metrics(stand: Stand) -> None:
    """And what a scrape of very many servers delays."""
    for count, bar in goals.ADMIN_METRICS_MS.items():
        with stand.opened(count):
            took = [stand.timed("/metrics") for _ in range(5 + 2 * stand.options.rounds)][5:]
            stand.note(f"/metrics, {count} servers", took)
            stand.run.goals.append(
                at_most(f"/metrics, {count} servers, median", statistics.median(took), bar, " ms", 1))
            if count > 2:
                with Others(stand.scrape, stand.page, stand.page):
                    delays = []
                    for _ in range(20 * stand.options.rounds):
                        delays.append(stand.timed("/healthz"))
                        time.sleep(0.02)
                stand.note("/healthz meanwhile", delays)
                stand.run.goals.append(at_most(f"another page while {count} servers are read, slowest of {len(delays)}",
                                               max(delays), goals.ADMIN_DELAY_MS, " ms", 1))


def pages(stand: Stand) -> None:
    """The same load with and without anybody who looks, in turns."""
    cost: dict[bool, list[float]] = {False: [], True: []}
    core: dict[bool, list[float]] = {False: [], True: []}
    with stand.opened():
        admin, (worker,) = stand.admin, stand.balancer.workers()
        for number in range(2 * stand.options.rounds):
            looked_at = number % 2 == 1
            with Others(stand.scrape, *[stand.page] * PAGES) if looked_at else contextlib.nullcontext():
                time.sleep(1.5)
                before = meter.cpu_of_tree(worker), meter.cpu_of_tree(admin), time.monotonic()
                load = run_dnsperf(stand.listen, stand.farm.queries, stand.options.seconds, RATE)
                took = time.monotonic() - before[2]
                used = meter.cpu_between(before[0], meter.cpu_of_tree(worker)).clock
                core[looked_at].append(100 * meter.cpu_between(before[1], meter.cpu_of_tree(admin)).clock / 1e9 / took)
            cost[looked_at].append(used / load.completed / 1000)
            if load.lost:
                stand.run.fail(f"{stand.row}: {load.lost} queries lost")
    for looked_at, word in ((False, "alone"), (True, "looked at")):
        stand.note(f"µs per query, {word}", cost[looked_at])
        stand.note(f"admin, % of a core, {word}", core[looked_at])
    stand.run.goals += [
        told("the admin process, nobody looks", f"{statistics.median(core[False]):.1f} % of a core"),
        at_most(f"the admin process, a scrape each second and {PAGES} open pages", statistics.median(core[True]),
                goals.ADMIN_CORE_PERCENT, " % of a core", 1),
        told(f"a query at {RATE:,} qps, nobody looks; so looked at",
             f"{statistics.median(cost[False]):.2f}; {statistics.median(cost[True]):.2f} µs"),
        at_most("a query so looked at, to alone", statistics.median(cost[True]) / statistics.median(cost[False]),
                goals.CPU_TO_PEACE)]


def first(stand: Stand) -> None:
    """From the request until the servers are drawn, in a fresh profile each time."""
    from balancer.admin.page import load  # with aiohttp, which no other row needs

    stand.run.goals.append(at_most("the whole page, packed", sum(len(file.packed) for file in load().values()) / 1000,
                                   goals.ADMIN_PAGE_KB, " kB", 1))
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        stand.run.missing["chromium"] = "playwright is not there (pip install --group browser)"
        return
    seen = """new MutationObserver((_, all) => {
        if (document.querySelector("#services tbody tr")) {
            all.disconnect();
            requestAnimationFrame(() => requestAnimationFrame(() => { window.drawn = performance.now(); }));
        }
    }).observe(document, {childList: true, subtree: true});"""
    took: list[float] = []
    painted: list[float] = []
    with stand.opened(), sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        except Error as error:
            stand.run.missing["chromium"] = f"apt install chromium ({str(error).splitlines()[0]})"
            return
        for _ in range(1 + max(5, stand.options.rounds)):
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            page = context.new_page()
            page.add_init_script(seen)
            page.goto(f"http://{stand.http}/")
            page.wait_for_selector("#services tbody tr")
            while (drawn := page.evaluate("window.drawn")) is None:     # not awaited there: the page allows no eval
                time.sleep(0.02)
            took.append(float(drawn))
            painted.append(float(page.evaluate('performance.getEntriesByName("first-contentful-paint")[0].startTime')))
            context.close()
        browser.close()
    stand.note("ms until the servers are drawn", took)
    stand.note("ms until anything is", painted)
    stand.run.goals.append(at_most(f"the first picture is seen after, median of {len(took) - 1}",
                                   statistics.median(painted[1:]), goals.ADMIN_FIRST_MS, " ms", 0))
    stand.run.goals.append(told("the servers in it, median", f"{statistics.median(took[1:]):.0f} ms"))


def hostile(stand: Stand) -> None:
    """Idle and slow connections, nonsense as fast as it goes; honest clients and DNS beside it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    step = iter(range(10**9))

    async def idle() -> None:
        await stand.drain(b"", 3600.0)

    async def slow() -> None:
        reader, writer = await stand.connect()
        try:
            for byte in b"GET / HTTP/1.1\r\n" + b"X-Slow: " + b"y" * 3000:
                writer.write(bytes([byte]))
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 1.0)
                    return
        finally:
            writer.transport.abort()

    async def nonsense() -> None:
        await stand.drain(NONSENSE[next(step) % len(NONSENSE)], 0.5)

    with stand.opened():
        admin = stand.admin
        before = meter.memory(admin).rss
        client = Client(stand.lab, "client", stand.listen, stand.farm.queries, HOSTILE_RATE, stand.options.seconds)
        with Others(*[idle] * IDLE, *[slow] * SLOW, *[nonsense] * 4):
            honest, most = [], before
            while client.second < stand.options.seconds:
                honest.append(stand.timed("/healthz"))
                most = max(most, meter.memory(admin).rss)
                time.sleep(0.05)
        result = client.result()
        if stand.admin != admin:
            stand.run.fail(f"{stand.row}: the admin process was replaced")
    stand.note("/healthz meanwhile", honest)
    stand.run.details.append({"row": stand.row, "nonsense": next(step)})
    stand.run.goals += [
        told(f"{IDLE} idle, {SLOW} slow connections and", f"{next(step) / stand.options.seconds:.0f} nonsense/s"),
        at_most(f"queries lost meanwhile of {result.sent:,}", len(result.lost), goals.LOST, digits=0),
        at_most(f"an honest client waits, slowest of {len(honest)}", max(honest), goals.ADMIN_HONEST_MS, " ms", 0),
        at_most("the admin process grows by", (most - before) / 1e6, goals.ADMIN_GROWTH_MB, " MB", 1)]


def status(stand: Stand) -> None:
    """The command, from its start to its end."""
    with stand.opened():
        argv = [*shlex.split(stand.options.ns7), "status", "--socket", str(stand.balancer.control)]
        took = []
        for _ in range(3 + 2 * stand.options.rounds):
            begin = time.monotonic()
            done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
            took.append(1000 * (time.monotonic() - begin))
            if done.returncode or SERVICE not in done.stdout:
                raise LabError(f"ns7 status: exit code {done.returncode}: {done.stderr[-200:]}")
    stand.note("ns7 status", took)
    stand.run.goals.append(at_most(f"ns7 status, median of {len(took) - 3}", statistics.median(took[3:]),
                                   goals.ADMIN_STATUS_MS, " ms", 0))


ROWS: dict[str, Callable[[Stand], Any]] = {
    "metrics": metrics, "pages": pages, "first": first, "hostile": hostile, "status": status}


def admin(lab: Lab, options: Options) -> Run:
    """Measure the rows asked for."""
    run = Run()
    for name in options.rows or tuple(ROWS):
        try:
            ROWS[name](Stand(lab, options, run, name))
        except (LabError, OSError, AssertionError) as exc:
            run.fail(f"{name}: {exc}")
        lab.close()
    return run
