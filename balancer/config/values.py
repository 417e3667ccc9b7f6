"""Values as the operator writes them ("250ms", "16MiB", "[::1]:53") and as ns7 uses them. No pydantic.

A `Rule` turns one raw TOML value into the value used, or raises ValueError with what is allowed.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB)")
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_V4_ENDPOINT = re.compile(r"([0-9.]+):([0-9]{1,5})")
_V6_ENDPOINT = re.compile(r"\[([0-9A-Fa-f:.]+)\]:([0-9]{1,5})")
_PREFIX = re.compile(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?")
_HOST_PORT = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?):([0-9]{1,5})")
_MAIL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=~-]{0,63}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,125}[A-Za-z0-9])?")
_SOCKET_PATH_MAX = 107          # sun_path has 108 bytes, the last one is NUL
_PATH_MAX = 4000                # PATH_MAX, and room for a file name


class Endpoint(NamedTuple):
    """An IP address, in its canonical text, and a port."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class MailServer(NamedTuple):
    """A host name, or an IP address in its canonical text, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Rule:
    """What one setting may be: `allowed` says it in words, calling it checks and converts a raw value."""

    def __init__(self, allowed: str, convert: Callable[[Any], Any]) -> None:
        self.allowed = allowed
        self._convert = convert

    def __call__(self, value: Any) -> Any:
        return self._convert(value)


def _text(value: Any, allowed: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a string: {allowed}")
    return value


def _address(text: str, allowed: str) -> IPv4Address | IPv6Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"must be {allowed}") from None
    if isinstance(address, IPv6Address):
        # Zones cannot be carried in Endpoint; a mapped address is an IPv4 one in a second spelling.
        if address.scope_id is not None:
            raise ValueError("an address with a zone is not supported")
        if address.ipv4_mapped is not None:
            raise ValueError(f"write the IPv4 address itself, {address.ipv4_mapped}")
    return address


def parse_duration(value: Any) -> float:
    allowed = 'a duration such as "250ms", "2s" or "1m"'
    match = _DURATION.fullmatch(_text(value, allowed))
    if match is None:
        raise ValueError(f"must be {allowed}")
    return float(Decimal(match[1]) * _SECONDS[match[2]])


def parse_size(value: Any) -> int:
    allowed = 'a size such as "64KiB", "16MiB" or "1GiB"'
    match = _SIZE.fullmatch(_text(value, allowed))
    if match is None:
        raise ValueError(f"must be {allowed}")
    return int(match[1]) * _BYTES[match[2]]


def parse_endpoint(value: Any) -> Endpoint:
    allowed = '"ADDRESS:PORT", such as "192.0.2.1:53" or "[2001:db8::1]:53"'
    text = _text(value, allowed)
    match = _V4_ENDPOINT.fullmatch(text) or _V6_ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError(f"must be {allowed}")
    address = _address(match[1], allowed)
    if (address.version == 6) != text.startswith("["):
        raise ValueError(f"must be {allowed}")
    port = int(match[2])
    if not 1 <= port <= 65535:
        raise ValueError("port must be 1 to 65535")
    if address.is_multicast or str(address) == "255.255.255.255":
        raise ValueError("must be the address of one host")
    return Endpoint(str(address), port)


def parse_server(value: Any) -> Endpoint:
    """An endpoint that something can be sent to."""
    endpoint = parse_endpoint(value)
    if ip_address(endpoint.host).is_unspecified:
        raise ValueError("must be the address of one host")
    return endpoint


def parse_address(value: Any) -> str:
    allowed = 'an IP address, such as "192.0.2.1" or "2001:db8::1"'
    address = _address(_text(value, allowed), allowed)
    if address.is_unspecified or address.is_multicast:
        raise ValueError("must be the address of one host")
    return str(address)


def parse_prefix(value: Any) -> IPv4Network | IPv6Network:
    allowed = 'a prefix, such as "192.0.2.0/24" or "2001:db8::/32"'
    text = _text(value, allowed)
    if _PREFIX.fullmatch(text) is None:
        raise ValueError(f"must be {allowed}")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"must be {allowed}") from None
    if str(ip_address(text.partition("/")[0])) != str(network.network_address):
        raise ValueError(f'has bits set after the prefix (did you mean "{network}"?)')
    return network


def parse_name(value: Any) -> str:
    allowed = "1 to 63 letters, digits, '.', '_' or '-', the first one a letter or digit"
    text = _text(value, allowed)
    # lower() alone could turn a foreign letter (the Kelvin sign) into an ASCII one.
    if not text.isascii() or _NAME.fullmatch(text.lower()) is None:
        raise ValueError(f"must be {allowed}")
    return text.lower()


def _path(longest: int) -> Rule:
    allowed = f"an absolute path of at most {longest} bytes"

    def convert(value: Any) -> str:
        text = _text(value, allowed)
        if not text.startswith("/") or "\0" in text or len(text.encode()) > longest:
            raise ValueError(f"must be {allowed}")
        return text

    return Rule("an absolute path", convert)


def parse_mail_server(value: Any) -> MailServer:
    allowed = '"HOST:PORT", such as "mail.example.com:25", "192.0.2.1:25" or "[2001:db8::1]:25"'
    text = _text(value, allowed)
    match = _HOST_PORT.fullmatch(text)
    if match is None or match[1].rpartition(".")[2].isdigit():         # no name ends like an IPv4 address
        return MailServer(*parse_server(text))
    if not 1 <= int(match[2]) <= 65535:
        raise ValueError("port must be 1 to 65535")
    return MailServer(match[1].lower(), int(match[2]))


def parse_mail_address(value: Any) -> str:
    allowed = 'a mail address, such as "admin@example.com"'
    text = _text(value, allowed)
    if _MAIL.fullmatch(text) is None or ".." in text or ".@" in text:
        raise ValueError(f"must be {allowed}")
    return text


def parse_text(value: Any) -> str:
    allowed = "1 to 255 characters"
    text = _text(value, allowed)
    if not 1 <= len(text) <= 255 or not text.isprintable():
        raise ValueError(f"must be {allowed}")
    return text


def parse_command(value: Any) -> tuple[str, ...]:
    allowed = "a list: the absolute path of a program, then its arguments"
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) and "\0" not in word for word in value):
        raise ValueError(f"must be {allowed}")
    if value and not value[0].startswith("/"):
        raise ValueError(f"must be {allowed}")
    return tuple(value)


def whole(low: int, high: int) -> Rule:
    allowed = f"a whole number from {low} to {high}"

    def convert(value: Any) -> int:
        # bool is an int in Python; in TOML it is not.
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be {allowed}")
        return value

    return Rule(allowed, convert)


def _between(parse: Callable[[Any], Any], low: str, high: str) -> Rule:
    least, most = parse(low), parse(high)

    def convert(value: Any) -> Any:
        result = parse(value)
        if not least <= result <= most:
            raise ValueError(f"must be from {low} to {high}")
        return result

    return Rule(f"from {low} to {high}", convert)


def duration(low: str, high: str) -> Rule:
    return _between(parse_duration, low, high)


def size(low: str, high: str) -> Rule:
    return _between(parse_size, low, high)


def auto_or(rule: Rule) -> Rule:
    """The rule, or "auto", which becomes 0."""
    allowed = f'"auto" or {rule.allowed}'

    def convert(value: Any) -> Any:
        if value == "auto":
            return 0.0
        try:
            return rule(value)
        except ValueError as error:
            raise ValueError(f'{error}, or be "auto"') from None

    return Rule(allowed, convert)


def choice(*words: str) -> Rule:
    allowed = "one of " + ", ".join(words)

    def convert(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"must be {allowed}")
        return value

    return Rule(allowed, convert)


NAME = Rule("letters, digits, '.', '_' and '-', at most 63; upper case is the same as lower case", parse_name)
LISTEN = Rule('"IPV4:PORT" or "[IPV6]:PORT"', parse_endpoint)
SERVER = Rule('"IPV4:PORT" or "[IPV6]:PORT"', parse_server)
ADDRESS = Rule("an IP address", parse_address)
PREFIX = Rule("IPv4 and IPv6 prefixes", parse_prefix)
SOCKET_PATH = _path(_SOCKET_PATH_MAX)
PATH = _path(_PATH_MAX)
MAIL_SERVER = Rule('"HOST:PORT"', parse_mail_server)
MAIL_ADDRESS = Rule("a mail address", parse_mail_address)
TEXT = Rule("1 to 255 characters", parse_text)
COMMAND = Rule("the absolute path of a program, then its arguments", parse_command)
