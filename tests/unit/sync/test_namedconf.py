"""What is read of named's configuration, as `named-checkconf -p` prints it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.namedconf import ConfError, Statement, Word, parse, render
from sync.namedconf import Layout, count_records, layout, read_key

CONF = """
acl "in" { 10.0.0.0/8; !192.168.0.1/32; key "k"; };
controls { inet 127.0.0.1 port 953 allow { "any"; } keys { "rndc"; }; };
options { directory "/var/named"; listen-on port 53 { 192.0.2.88/32; }; };
primaries "pp" port 53 { 192.0.2.1 key "k"; };
key "k" { algorithm "hmac-sha256"; secret "c2VjcmV0"; };
zone "Relative.Example." { type master; file "a.zone"; journal "a.jnl"; allow-transfer  { "in"; }; };
zone "absolute.example" IN { type primary; file "/srv/b.zone"; allow-update { "none"; }; };
zone "0/25.2.0.192.in-addr.arpa" { type primary; file "c.zone"; };
zone "update.example" { type primary; file "d.zone"; allow-update { key "k"; }; };
zone "policy.example" { type primary; file "d2.zone"; update-policy local; };
zone "signed.example" { type primary; file "e.zone"; inline-signing yes; dnssec-policy "default"; };
zone "second.example" { type slave; file "s.bak"; masters { 192.0.2.1; }; };
zone "chaos.example" CH { type primary; file "ch.zone"; };
zone "odd\\" name.example" { type primary; file "w;{}.zone"; };
zone "localhost" { type master; file "db.local"; };
zone "." { type hint; file "root"; };
zone "away.example" { type forward; forwarders { 192.0.2.3; }; };
"""
VIEWS = """
options { directory "/var/named"; };
view "inside" { match-clients { 10.0.0.0/8; }; zone "a.example" { type master; file "in/a"; };
  zone "u.example" { type master; file "u"; allow-update { "any"; }; }; recursion yes; };
view "outside" in { match-clients { "any"; }; zone "a.example" { type master; file "out/a"; };
  zone "b.example" { in-view "inside"; }; zone "c.example" { in-view "outside"; }; };
view "empty" { match-clients { 192.0.2.1/32; }; };
"""


def read(text: str) -> Layout:
    return layout(text, ["localhost", "."], "192.0.2.88")


def test_zones_that_are_copied() -> None:
    zones = {zone.name: zone for zone in read(CONF).zones}
    assert zones.keys() == {"relative.example", "absolute.example", "0/25.2.0.192.in-addr.arpa"}
    assert zones["relative.example"].file == "/var/named/a.zone"
    assert zones["absolute.example"].file == "/srv/b.zone"
    assert zones["0/25.2.0.192.in-addr.arpa"].path == "zones/0%2f25.2.0.192.in-addr.arpa"


def test_zones_that_named_writes_are_told_with_what_a_puller_needs() -> None:
    left = {each.name: each for each in read(CONF).left}
    assert left.keys() == {"update.example", "policy.example", "signed.example", "second.example", "chaos.example",
                           'odd\\" name.example'}
    assert "allow-update" in left["update.example"].reason
    assert "update-policy" in left["policy.example"].reason
    assert "dnssec-policy" in left["signed.example"].reason
    assert parse(left["update.example"].stanza) == parse(
        'zone "update.example" { type secondary; primaries { 192.0.2.88; }; file "update.example.secondary"; };')
    assert "masters" in left["second.example"].stanza


@pytest.mark.parametrize("option", ["allow-update { any; };", "dnssec-policy default;"])
def test_options_hold_for_every_zone(option: str) -> None:
    text = f'options {{ {option} }}; zone "a" {{ type primary; file "a"; }};'
    assert [each.name for each in read(text).left] == ["a"]
    own = 'zone "a" { type primary; file "a"; allow-update { none; }; dnssec-policy none; };'
    assert [each.name for each in read(f"options {{ {option} }}; {own}").zones] == ["a"]


def test_what_is_published() -> None:
    found = read(CONF)
    text = found.conf([("", "relative.example"), ("", "0/25.2.0.192.in-addr.arpa")])
    assert [each[:2] for each in parse(text)] == [
        (Word("acl"), Word("in", True)), (Word("primaries"), Word("pp", True)),
        (Word("zone"), Word("Relative.Example.", True)), (Word("zone"), Word("0/25.2.0.192.in-addr.arpa", True))]
    assert 'file "@TREE@/zones/relative.example";' in text
    assert "secret" not in text and "journal" not in text and "listen-on" not in text


def test_views() -> None:
    found = read(VIEWS)
    assert [(zone.view, zone.name, zone.file, zone.path) for zone in found.zones] == [
        ("inside", "a.example", "/var/named/in/a", "zones/inside/a.example"),
        ("outside", "a.example", "/var/named/out/a", "zones/outside/a.example")]
    text = found.conf([(zone.view, zone.name) for zone in found.zones])
    assert "u.example" not in text and "empty" not in text and "recursion yes" in text
    assert "b.example" not in text, "what refers to a zone that is not there goes with it"
    only = found.conf([("outside", "a.example")])
    assert '"inside"' not in only


@pytest.mark.parametrize("text", ['zone "a', "zone { a;", "zone } ;", "a", "a {b};", "x { " * 40])
def test_what_is_no_configuration(text: str) -> None:
    with pytest.raises(ConfError):
        parse(text)


def test_comments_and_quotes() -> None:
    text = 'a "x;{}\\"y"; // one\n# two\n/* three ; */ b 1.2.3.0/24;'
    assert parse(text) == [(Word("a"), Word('x;{}\\"y', True)), (Word("b"), Word("1.2.3.0/24"))]


words = st.builds(Word, st.from_regex(r"[A-Za-z0-9_.!:-]+", fullmatch=True)) | st.builds(
    Word, st.from_regex(r"([^\"\\\x00]|\\.)*", fullmatch=True), st.just(True))
statements: st.SearchStrategy[Statement] = st.recursive(
    st.tuples(words, words), lambda inner: st.tuples(words, st.lists(inner, max_size=3)), max_leaves=8)


@given(st.lists(statements, max_size=4))
def test_what_is_rendered_is_read_back(block: list[Statement]) -> None:
    assert parse(render(block)) == block


@pytest.mark.parametrize(("text", "count"), [
    ("", 0),
    ("$TTL 60\n$ORIGIN x.\n; nothing\n\n   \n", 0),
    ("@ SOA ns h (\n 1 ; serial\n 2 3 4 5 )\n@ NS ns\n  A 192.0.2.1\n", 3),
    ('a TXT "no ( bracket"\nb TXT ( "a"\n\n; x )\n"b" )\nc A 192.0.2.1', 3),
    ("a A 192.0.2.1 ; (\nb A 192.0.2.1\n", 2),
    (") \na A 192.0.2.1\n", 2),
    ('a TXT "\\" ("\nb A 192.0.2.2\n', 2),
])
def test_records_are_counted(text: str, count: int) -> None:
    assert count_records(text) == count


@given(st.text())
def test_any_text_is_counted(text: str) -> None:
    assert 0 <= count_records(text) <= len(text)


def test_key() -> None:
    assert read_key('key "sync" {\n\talgorithm hmac-sha256;\n\tsecret "c2VjcmV0";\n};\n') == (
        "sync", "hmac-sha256", "c2VjcmV0")
    one = 'key "a" { algorithm x; secret y; };'
    for text in ("", "hello", 'key "a" { };', one + one.replace('"a"', '"b"')):
        with pytest.raises(ConfError):
            read_key(text)
