"""What a generation is: its number, its files with sha256 and mode, its zones with serials; signed. Pure.

Written by the publisher, last of all, and read by the pullers, to whom nothing in it is true before the signature is.
The signature is an HMAC-SHA256 (RFC 2104) over the text with the secret that publisher and pullers share; a manifest
is one JSON document in one line, then a line with the signature.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from typing import Any, NamedTuple

from balancer.errors import Ns7Error

FORMAT = 1
MOST_BYTES = 256 << 20
MOST_PATH = 400
CONF = "named.conf"             # the published configuration, below the tree like the zones
_CONTEXT = b"ns7 sync manifest\n"           # the key signs other things, too: none is good for another
_HASH = re.compile(r"[0-9a-f]{64}")
# No component may be "." or "..", be empty, or begin with "-" or ".": not a way out, an option, or a hidden file.
_PATH = re.compile(r"(?:[A-Za-z0-9_%*][A-Za-z0-9_.%*-]*)(?:/[A-Za-z0-9_%*][A-Za-z0-9_.%*-]*)*")
_NAME = re.compile(r"\.|[a-z0-9_/*-]+(?:\.[a-z0-9_/*-]+)*")
_VIEW = re.compile(r"[A-Za-z0-9_.-]{0,64}")


class ManifestError(Ns7Error):
    """A manifest that is not the publisher's, or not one at all."""


class File(NamedTuple):
    """size in bytes; mode: the permission bits."""

    size: int
    sha256: str
    mode: int


class Zone(NamedTuple):
    """path: of its file; records: how many, -1 where that cannot be counted (raw format)."""

    path: str
    serial: int
    records: int


class Manifest(NamedTuple):
    """generation grows with every change; time is in seconds since 1970; zones by (view, name), files by path.

    forced: the newest generation, up to this one, whose suspicious changes the publisher's operator has said are meant,
    0 for none. config: sha256 of what
    named must have read on the publisher (`named-checkconf -p`), so that it notices other changes, too.
    """

    generation: int
    time: float
    forced: int
    config: str
    files: dict[str, File]
    zones: dict[tuple[str, str], Zone]


EMPTY = Manifest(0, 0.0, 0, "", {}, {})


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sign(body: bytes, secret: bytes) -> bytes:
    return hmac.new(secret, _CONTEXT + body, hashlib.sha256).hexdigest().encode()


def encode(manifest: Manifest, secret: bytes) -> bytes:
    """The manifest as it is published."""
    body = json.dumps({
        "format": FORMAT, "generation": manifest.generation, "time": manifest.time, "forced": manifest.forced,
        "config": manifest.config, "files": [[path, *file] for path, file in sorted(manifest.files.items())],
        "zones": [[*key, *zone] for key, zone in sorted(manifest.zones.items())],
    }, separators=(",", ":")).encode() + b"\n"
    return body + _sign(body, secret) + b"\n"


def decode(data: bytes, secret: bytes) -> Manifest:
    """The manifest in these bytes; ManifestError when it is not signed with this secret, or says what cannot be."""
    if len(data) > MOST_BYTES:
        raise ManifestError(f"the manifest has more than {MOST_BYTES >> 20} MiB")
    body, newline, rest = data.partition(b"\n")
    body += newline
    if not hmac.compare_digest(rest.strip(), _sign(body, secret)):
        raise ManifestError("the manifest is not signed with our key: was it tampered with, or are the keys not equal?")
    return parse(body)


def parse(data: bytes) -> Manifest:
    """The manifest in bytes that are trusted, as those on our own disk; ManifestError when it says what cannot be."""
    try:
        raw = json.loads(data.partition(b"\n")[0])
        if raw["format"] != FORMAT:
            raise ManifestError(f"the manifest has format {json.dumps(raw['format'])[:20]}, this ns7 knows {FORMAT}: "
                                "publisher and pullers need the same version")
        files = {_path(path): _file(*rest) for path, *rest in raw["files"]}
        zones = {(_text(view, _VIEW), _text(name, _NAME)): _zone(*rest) for view, name, *rest in raw["zones"]}
        manifest = Manifest(_whole(raw["generation"], 1 << 62), float(raw["time"]),
                            _whole(raw["forced"], 1 << 62), _text(raw["config"], _HASH), files, zones)
    except ManifestError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ManifestError(f"not a manifest: {error!r}"[:200]) from error
    if manifest.generation == 0 or len(files) != len(raw["files"]) or len(zones) != len(raw["zones"]):
        raise ManifestError("not a manifest: something is in it twice, or its number is 0")
    paths = {zone.path for zone in zones.values()}
    if CONF not in files or len(paths) != len(zones) or paths != files.keys() - {CONF}:
        raise ManifestError("not a manifest: zones and files are not the same")
    folders = {path[:at] for path in files for at in range(len(path)) if path[at] == "/"}
    if folders & files.keys():
        raise ManifestError("not a manifest: a file is a folder, too")
    return manifest


def _text(raw: Any, pattern: re.Pattern[str]) -> str:
    if not isinstance(raw, str) or pattern.fullmatch(raw) is None:
        raise ValueError(f"not what is expected: {json.dumps(raw)[:80]}")
    return raw


def _path(raw: Any) -> str:
    path = _text(raw, _PATH)
    if len(path) > MOST_PATH:
        raise ValueError("a path that is too long")
    return path


def _whole(raw: Any, most: int, least: int = 0) -> int:
    if type(raw) is not int or not least <= raw <= most:
        raise ValueError(f"not a number from {least} to {most}: {json.dumps(raw)[:80]}")
    return raw


def _file(size: Any, digest: Any, mode: Any) -> File:
    return File(_whole(size, 1 << 40), _text(digest, _HASH), _whole(mode, 0o777))


def _zone(path: Any, serial: Any, records: Any) -> Zone:
    return Zone(_path(path), _whole(serial, 0xFFFFFFFF), _whole(records, 1 << 40, -1))
