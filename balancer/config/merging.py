"""One file for several hosts: lays [nodes.NAME] over the file's own sections. Used while loading.

Tables are merged key by key; anything else, lists too, replaces what was there.
"""

from __future__ import annotations

from typing import Any

from balancer.config.positions import Path


class Merged:
    """The document of one host; knows for each of its paths where in the file that value was written."""

    def __init__(self, base: dict[str, Any], node_key: str | None, overrides: dict[str, Any]) -> None:
        self._origin: dict[Path, Path] = {}
        prefix: Path = () if node_key is None else ("nodes", node_key)
        self.document = self._merge(base, overrides, (), prefix)

    def _merge(self, base: dict[str, Any], over: dict[str, Any], at: Path, prefix: Path) -> dict[str, Any]:
        result = dict(base)
        for key, value in over.items():
            path = (*at, key)
            old = result.get(key)
            if isinstance(old, dict) and isinstance(value, dict):
                result[key] = self._merge(old, value, path, prefix)
            else:
                result[key] = value
                self._origin[path] = prefix + path
        return result

    def origin(self, path: Path) -> Path:
        """The path in the file of what is at `path` in the merged document."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._origin:
                return self._origin[path[:length]] + path[length:]
        return path
