"""Kinds of settings: duration, size, endpoint… A kind stands in a setting's annotation.

It is the one place that knows what the setting allows: it checks values (through pydantic), words the error,
and describes itself to the sample file and the reference page.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic_core import core_schema

from balancer.config import values

T = TypeVar("T")


class Kind(ABC, Generic[T]):
    """Text for people: `noun` is the column "type", `allowed` the range or form with its unit."""

    noun: str

    @property
    @abstractmethod
    def allowed(self) -> str: ...

    @abstractmethod
    def parse(self, raw: object) -> T:
        """The value; ValueError says what is wrong and what is allowed."""

    @abstractmethod
    def spell(self, value: T) -> str:
        """The value as TOML."""

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)


@dataclass(frozen=True)
class Integer(Kind[int]):
    low: int
    high: int
    noun = "integer"

    @property
    def allowed(self) -> str:
        return f"{self.low} to {self.high}"

    def parse(self, raw: object) -> int:
        if not isinstance(raw, int) or isinstance(raw, bool):
            raise ValueError(f"not an integer; {self.allowed} is allowed")
        if not self.low <= raw <= self.high:
            raise ValueError(f"out of range; {self.allowed} is allowed")
        return raw

    def spell(self, value: int) -> str:
        return str(value)


class Written(Kind[T]):
    """A kind whose values are strings in the file."""

    def parse(self, raw: object) -> T:
        if not isinstance(raw, str):
            raise ValueError(f"not a string; {self.allowed} is allowed")
        return self.parse_text(raw)

    @abstractmethod
    def parse_text(self, text: str) -> T: ...

    def spell(self, value: T) -> str:
        return f'"{value}"'


@dataclass(frozen=True)
class Measured(Written[T]):
    """A number with a unit, in a range that is declared in the file's own spelling."""

    low: str
    high: str

    @property
    def allowed(self) -> str:
        return f'"{self.low}" to "{self.high}"'

    @abstractmethod
    def measure(self, text: str) -> T: ...

    def parse_text(self, text: str) -> T:
        try:
            value = self.measure(text)
        except ValueError as error:
            raise ValueError(f"{error}; {self.allowed} is allowed") from None
        if not self.measure(self.low) <= value <= self.measure(self.high):  # type: ignore[operator]
            raise ValueError(f"out of range; {self.allowed} is allowed")
        return value


class Duration(Measured[float]):
    """Seconds."""

    noun = "duration"

    def measure(self, text: str) -> float:
        return values.parse_duration(text)

    def spell(self, value: float) -> str:
        return f'"{values.format_duration(value)}"'


class Size(Measured[int]):
    """Bytes."""

    noun = "size"

    def measure(self, text: str) -> int:
        return values.parse_size(text)

    def spell(self, value: int) -> str:
        return f'"{values.format_size(value)}"'


@dataclass(frozen=True)
class Choice(Written[str]):
    choices: tuple[str, ...]
    noun = "word"

    @property
    def allowed(self) -> str:
        return ", ".join(f'"{choice}"' for choice in self.choices)

    def parse(self, raw: object) -> str:
        if not isinstance(raw, str) or raw not in self.choices:
            one = len(self.choices) == 1
            raise ValueError(f"only {self.allowed} is allowed" if one else f"not one of {self.allowed}")
        return raw

    def parse_text(self, text: str) -> str:
        return self.parse(text)


@dataclass(frozen=True)
class Text(Written[T]):
    """A string that one of `values`' functions reads."""

    noun: str
    form: str
    read: Callable[[str], T]

    @property
    def allowed(self) -> str:
        return self.form

    def parse_text(self, text: str) -> T:
        return self.read(text)


def read_socket_path(text: str) -> str:
    """The kernel takes 107 bytes (sun_path is 108 with its end); a relative path depends on who starts us."""
    if not text.startswith("/") or "\0" in text or len(text.encode()) > 107 or text.endswith("/"):
        raise ValueError("not a socket path; an absolute path of at most 107 bytes is allowed")
    return text


NAME = Text("name", "1 to 63 characters of a-z 0-9 - _ .", values.parse_name)
ADDRESS = Text("address", "an IPv4 or IPv6 address", values.parse_address)
LISTEN = Text("endpoint", '"IP:PORT" or "[V6]:PORT"', values.parse_endpoint)
SERVER = Text("endpoint", '"IP:PORT" or "[V6]:PORT"', values.parse_server_endpoint)
PREFIX = Text("prefix", '"NETWORK/LENGTH", no bits behind the length', values.parse_prefix)
SOCKET_PATH = Text("path", "an absolute path of at most 107 bytes", read_socket_path)
