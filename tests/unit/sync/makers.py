"""Manifests for the tests of the pure parts."""

from __future__ import annotations

from sync.manifest import CONF, File, Manifest, Zone, sha256

SECRET = b"a secret that only tests know"
DIGEST = sha256(b"")


def manifest(generation: int, zones: dict[str, tuple[int, int]], forced: int = 0, salt: str = "") -> Manifest:
    """A generation of zones by name: (serial, records). The content of a zone is its serial and `salt`."""
    files = {CONF: File(10, sha256(" ".join(zones).encode()), 0o644)}
    entries = {}
    for name, (serial, records) in zones.items():
        path = f"zones/{name}"
        files[path] = File(100 * max(records, 1), sha256(f"{name} {serial} {salt}".encode()), 0o640)
        entries["", name] = Zone(path, serial, records)
    return Manifest(generation, 1.5, forced, DIGEST, files, entries)
