"""What the peers and the name servers are told, and how the command line is read."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from benchmarks import ns7, peers, servers
from benchmarks.__main__ import compared, parser, plan, scaled
from benchmarks.lab import Address, LabError
from benchmarks.udp import Options
from benchmarks.workers import workers

LISTEN = Address("127.0.0.1", 15001)
SERVERS = [Address("127.0.1.1", 15002), Address("127.0.2.1", 15003)]


def test_ns7_config_is_toml() -> None:
    service = ns7.Service("bench", LISTEN, [(SERVERS[0], 1), (SERVERS[1], 3)], "wrr", "6s")
    text = ns7.config_text([service, ns7.Service("live", LISTEN, [])], 2, Path("/tmp/x.sock"))
    config = tomllib.loads(text)
    assert config["process"] == {"workers": 2, "state_dir": "/tmp/state"}
    assert config["admin"] == {"socket": "/tmp/x.sock", "listen": []}
    first = config["service"][0]
    assert (first["scheduler"], first["udp_timeout"], first["listen"]) == ("wrr", "6s", ["127.0.0.1:15001"])
    assert [(s["address"], s["weight"]) for s in first["server"]] == [
        ("127.0.1.1:15002", 1),
        ("127.0.2.1:15003", 3),
    ]


def test_ns7_config_with_more_listeners_and_tables() -> None:
    service = ns7.Service("bench", LISTEN, [(SERVERS[0], 1)], more=[SERVERS[1]])
    more = {"admin": {"listen": '["127.0.0.1:80"]'}, "health": {"zones": '["example"]'}}
    config = tomllib.loads(ns7.config_text([service], 4, Path("/tmp/x.sock"), more))
    assert config["service"][0]["listen"] == ["127.0.0.1:15001", "127.0.2.1:15003"]
    assert config["admin"] == {"socket": "/tmp/x.sock", "listen": ["127.0.0.1:80"]}
    assert config["health"] == {"zones": ["example"]}


def test_ns7_server_has_the_same_name_in_every_configuration() -> None:
    def names(servers: list[Address]) -> list[str]:
        service = ns7.Service("bench", LISTEN, [(server, 1) for server in servers])
        config = tomllib.loads(ns7.config_text([service], 1, Path("/tmp/x.sock")))
        return [server["name"] for server in config["service"][0]["server"]]

    assert names(SERVERS) == names(SERVERS[::-1])[::-1]
    assert len(set(names(SERVERS))) == 2


def test_ns7_status() -> None:
    status = {"services": [{"name": "bench", "servers": [{"queries": 3}, {"queries": 4}]}]}
    assert ns7.server_queries(status, "bench") == [3, 4]
    with pytest.raises(LabError):
        ns7.find_service(status, "other")


def test_dnsdist_listens_once_per_worker() -> None:
    one = peers.dnsdist_config(peers.Plan("d", LISTEN, SERVERS, 1))
    two = peers.dnsdist_config(peers.Plan("d", LISTEN, SERVERS, 2))
    assert "reusePort=true" not in one
    assert two.count("reusePort=true") == 2
    assert one.count("sockets=16") == 2
    assert "setMaxUDPOutstanding(65535)" in one


def test_sockets_follow_the_number_of_servers() -> None:
    assert [peers.sockets_per_server(n) for n in (2, 64, 256, 1024)] == [16, 16, 4, 2]


def test_nginx_names_all_servers() -> None:
    text = peers.nginx_config(peers.Plan("n", LISTEN, SERVERS, 2), Path("/tmp"), None)
    assert "worker_processes 2;" in text
    assert all(f"server {server} " in text for server in SERVERS)
    assert "load_module" not in text


def test_zone_and_queries_fit() -> None:
    zone, queries = servers.zone_text(20), servers.query_text(20).split("\n")[:-1]
    assert len(queries) == len(set(queries)) == 60
    for line in queries:
        name, kind = line.split()
        assert f"{name.removesuffix('.' + servers.ZONE)} {kind} " in zone


def test_nsd_listens_on_every_address() -> None:
    text = servers.config_text(Path("/tmp"), "nsd1", SERVERS)
    assert text.count("ip-address:") == 2
    assert "rrl-ratelimit: 0" in text


def test_standard_set_is_short_and_whole() -> None:
    options, cases = plan(parser().parse_args(["udp"]))
    assert cases == (compared, scaled)
    assert options == Options(seconds=6.0, rounds=3, rates=(0, 10_000, 20_000))


def test_options_asked_for_are_taken() -> None:
    words = [
        "udp",
        "--rate",
        "0",
        "--rate",
        "5000",
        "--servers",
        "64",
        "--workers",
        "2",
        "--peers",
        "ns7,dnsdist",
    ]
    options, cases = plan(parser().parse_args(words))
    assert cases == (compared,)
    assert options == Options(peers=("ns7", "dnsdist"), rates=(0, 5000), servers=64, workers=2)


def test_all_is_full_length() -> None:
    options, cases = plan(parser().parse_args(["all"]))
    assert (options.seconds, options.rounds, len(cases)) == (20.0, 5, 5)


def test_rows_asked_for_are_taken() -> None:
    options, cases = plan(parser().parse_args(["workers", "--row", "kill", "--row", "reload"]))
    assert cases == (workers,)
    assert options.rows == ("kill", "reload")
    assert plan(parser().parse_args(["workers"]))[0].rows == ()


@pytest.mark.parametrize(
    "words", [["udp", "--peers", "bind"], ["udp", "--seconds", "0"], ["workers", "--row", "live"], []]
)
def test_wrong_usage_exits_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(words)
    assert caught.value.code == 2
