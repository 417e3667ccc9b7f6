"""The status page: its files, as they lie here, read once. Runs in the admin process.

What stands in this folder is all there is: no build step, nothing from outside. `uplot` is somebody else's and is kept
as it came, see its README. Only the page's script names components, to show what each of them says of itself.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from balancer.admin.replies import accepts_gzip, reply

FOLDER = Path(__file__).parent
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
         ".js": "text/javascript; charset=utf-8"}
START = "index.html"


class File(NamedTuple):
    """One file. packed: the same as gzip; tag: what tells it from any other version (ETag)."""

    body: bytes
    packed: bytes
    kind: str
    tag: str

    def reply(self, request: web.BaseRequest) -> web.Response:
        """A browser asks each time whether it has changed, and is mostly told that it has not."""
        headers = {"Cache-Control": "no-cache", "ETag": self.tag, "Vary": "Accept-Encoding"}
        if request.headers.get("If-None-Match") == self.tag:
            return reply(b"", self.kind, 304, headers)
        if accepts_gzip(request):
            return reply(self.packed, self.kind, headers={**headers, "Content-Encoding": "gzip"})
        return reply(self.body, self.kind, headers=headers)


def load() -> dict[str, File]:
    """By path: `/` is the page, `/page/NAME` what it needs."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in TYPES:
            body = path.read_bytes()
            name = path.relative_to(FOLDER).as_posix()
            found["/" if name == START else f"/page/{name}"] = File(
                body, gzip.compress(body, 9, mtime=0), TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:20]}"')
    return found
