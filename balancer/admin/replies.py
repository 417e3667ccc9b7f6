"""Responses that all pages have in common: security headers, errors as JSON (RFC 9457). Runs in the admin process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "ns7",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def reply(body: bytes, content_type: str, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A whole response."""
    return web.Response(body=body, status=status, headers={**HEADERS, "Content-Type": content_type, **(headers or {})})


def problem(status: int, detail: str, **headers: str) -> web.Response:
    """An error, RFC 9457."""
    told = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return reply(json_bytes(told), "application/problem+json", status, headers)


def accepts_gzip(request: web.BaseRequest) -> bool:
    """Whether the client says that it takes gzip; weights, which no browser gives, are not read."""
    codings = (coding.strip().lower() for coding in request.headers.get("Accept-Encoding", "").split(","))
    return "gzip" in codings


def cut(request: web.BaseRequest) -> None:
    """Close the request's connection now, whatever its client has not taken yet."""
    if request.transport is not None:
        request.transport.abort()


def json_bytes(value: Any) -> bytes:
    """One line of JSON."""
    return json.dumps(value).encode() + b"\n"
