"""Values: what is written comes back as the same value; what is refused says what is allowed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config import values
from balancer.config.values import Endpoint

ports = st.integers(1, 65535)


def unicast(address: Any) -> bool:
    if address.is_multicast or str(address) == "255.255.255.255":
        return False
    return address.version == 4 or (address.ipv4_mapped is None and address.scope_id is None)


addresses = st.ip_addresses().filter(unicast)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("2s", 2.0), ("1m", 60.0), ("1.5s", 1.5), ("0.05s", 0.05), ("300ms", 0.3), ("0s", 0.0)],
)
def test_duration(text: str, seconds: float) -> None:
    assert values.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "2", "2 s", "s", "-2s", "+2s", "2S", "1e3s", "2.s", ".5s", "\uff12s", "2s\n", 2, 2.0]
)
def test_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="2s"):
        values.parse_duration(text)


@given(st.integers(0, 10**9 - 1))
def test_durations_are_exact(milliseconds: int) -> None:
    assert values.parse_duration(f"{milliseconds}ms") == milliseconds / 1000


@pytest.mark.parametrize(("text", "size"), [
    ("0B", 0), ("7B", 7), ("64KiB", 65536), ("16MiB", 1 << 24), ("2GiB", 1 << 31)])
def test_size(text: str, size: int) -> None:
    assert values.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "16", "16MB", "16 MiB", "-1B", "1.5MiB", "16mib", 16])
def test_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="MiB"):
        values.parse_size(text)


@given(addresses, ports)
def test_endpoint_round_trip(address: Any, port: int) -> None:
    endpoint = Endpoint(str(address), port)
    assert values.parse_endpoint(str(endpoint)) == endpoint
    assert endpoint.family == (socket.AF_INET if address.version == 4 else socket.AF_INET6)


def test_endpoint_is_canonical() -> None:
    assert values.parse_endpoint("[2001:DB8:0:0::1]:53") == Endpoint("2001:db8::1", 53)
    assert str(Endpoint("::1", 53)) == "[::1]:53"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.01:53",
        "localhost:53",
        "::1:53",
        "[::1]",
        "[127.0.0.1]:53",
        "[::1]53",
        "224.0.0.1:53",
        "[ff02::1]:53",
        "255.255.255.255:53",
        "[::ffff:192.0.2.1]:53",
        "[fe80::1%eth0]:53",
        "127.0.0.1:53 ",
        " 127.0.0.1:53",
        "127.0.0.1:+5",
        "127.0.0.1:\uff15\uff13",
        53,
    ],
)
def test_no_endpoint(text: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        values.parse_endpoint(text)


@pytest.mark.parametrize("text", ["0.0.0.0:53", "[::]:53"])
def test_wildcard_is_no_server(text: str) -> None:
    values.parse_endpoint(text)
    with pytest.raises(ValueError, match="one host"):
        values.parse_server(text)


@given(addresses, st.data())
def test_prefix_round_trip(address: Any, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, address.max_prefixlen))
    network = ip_network(f"{address}/{length}", strict=False)
    assert values.parse_prefix(str(network)) == network


@given(addresses, st.data())
def test_host_bits_are_refused_with_the_right_prefix(address: Any, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, address.max_prefixlen))
    network = ip_network(f"{address}/{length}", strict=False)
    if network.network_address != address:
        with pytest.raises(ValueError, match="bits") as caught:
            values.parse_prefix(f"{address}/{length}")
        assert str(network) in str(caught.value)


def test_bare_address_is_a_prefix_of_one_host() -> None:
    assert values.parse_prefix("192.0.2.1") == IPv4Network("192.0.2.1/32")
    assert values.parse_prefix("2001:db8::1") == IPv6Network("2001:db8::1/128")


@pytest.mark.parametrize(
    "text", ["", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "::/129", "x/8", 10]
)
def test_no_prefix(text: object) -> None:
    with pytest.raises(ValueError, match="prefix"):
        values.parse_prefix(text)


@given(addresses.filter(lambda address: not address.is_unspecified))
def test_source_address_round_trip(address: Any) -> None:
    assert ip_address(values.parse_address(str(address))) == address


@pytest.mark.parametrize("name", ["a", "ns7", "ns1.example", "dns-1_x", "7", "x" * 63])
def test_name(name: str) -> None:
    assert values.parse_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 64, "a b", "ä", "a/b", 'a"', "a\n", "\u212a", 7, None])
def test_no_name(name: object) -> None:
    with pytest.raises(ValueError, match="63"):
        values.parse_name(name)


@pytest.mark.parametrize("path", ["/a", "/" + "x" * 106])
def test_socket_path(path: str) -> None:
    assert values.SOCKET_PATH(path) == path


@pytest.mark.parametrize("path", ["", "a", "./a", "/" + "x" * 107, "/" + "ä" * 54, "/a\0b", 3])
def test_no_socket_path(path: object) -> None:
    with pytest.raises(ValueError, match="107"):
        values.SOCKET_PATH(path)


@pytest.mark.parametrize("raw", [True, False, "1", 1.0, None, -1, 11])
def test_whole_numbers_are_strict(raw: object) -> None:
    with pytest.raises(ValueError, match="from 0 to 10"):
        values.whole(0, 10)(raw)


@pytest.mark.parametrize(
    ("make", "inside", "outside"),
    [
        (values.duration, ("50ms", "1m"), ("49ms", "61s")),
        (values.size, ("64KiB", "1GiB"), ("65535B", "2GiB")),
    ],
)
def test_ranges_include_their_ends(
    make: Callable[[str, str], values.Rule], inside: tuple[str, str], outside: tuple[str, str]
) -> None:
    rule = make(*inside)
    for text in inside:
        rule(text)
    for text in outside:
        with pytest.raises(ValueError, match=f"from {inside[0]} to {inside[1]}"):
            rule(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:25", "127.0.0.1", 25),
        ("[2001:DB8::1]:587", "2001:db8::1", 587),
        ("Mail.Example.com:25", "mail.example.com", 25),
        ("localhost:2525", "localhost", 2525),
    ],
)
def test_mail_server(text: str, host: str, port: int) -> None:
    assert values.parse_mail_server(text) == (host, port)
    assert values.parse_mail_server(str(values.parse_mail_server(text))) == (host, port)


@pytest.mark.parametrize("text", ["", "mail", "mail:", ":25", "mail:0", "mail:65536", "mail:x", "-mail:25", "a b:25",
                                  "mail\r\n:25", "1.2.3:25", "256.1.1.1:25", "0.0.0.0:25", "2001:db8::1:25",
                                  "ma_il:25", 25])
def test_no_mail_server(text: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        values.parse_mail_server(text)


@pytest.mark.parametrize("text", ["admin@example.com", "a.b+c_d-e=f~@x", "root@localhost", "0@0.kr"])
def test_mail_address(text: str) -> None:
    assert values.parse_mail_address(text) == text


@pytest.mark.parametrize("text", ["", "root", "@x", "a@", "a b@x", "a@x\n", "a\r\nRCPT TO:<b@x>@y", "<a@x>", "a@x, b@x",
                                  "a@@x", ".a@x", "a..b@x", "a.@x", "a@x.", "a@-x", "../a@x", "a/b@x", '"a"@x', "웹@x",
                                  "a" * 65 + "@x", "a@" + "x" * 200, 1])
def test_no_mail_address(text: object) -> None:
    with pytest.raises(ValueError, match="mail address"):
        values.parse_mail_address(text)


def test_command() -> None:
    assert values.parse_command([]) == ()
    assert values.parse_command(["/bin/x", "", "a b"]) == ("/bin/x", "", "a b")


@pytest.mark.parametrize(
    "value", ["/bin/x", ["x"], [""], ["./x"], ["/bin/x", 1], ["/bin/x", "a\0b"], [["/bin/x"]], {}, None]
)
def test_no_command(value: object) -> None:
    with pytest.raises(ValueError, match="absolute path of a program"):
        values.parse_command(value)


@pytest.mark.parametrize("value", ["", "x" * 256, "a\nb", 1])
def test_no_text(value: object) -> None:
    with pytest.raises(ValueError, match="characters"):
        values.parse_text(value)
