"""Settings that contradict each other."""

from __future__ import annotations

import pytest

from tests.unit.balancer.config.files import only_problem, problems_of


def service(name: str, listen: str, *servers: str) -> str:
    lines = [f'[[service]]\nname = "{name}"\nlisten = [{listen}]\n']
    lines += [f"[[service.server]]\n{server}\n" for server in servers]
    return "".join(lines)


A = 'name = "a"\naddress = "192.0.2.1:53"'
B = 'name = "b"\naddress = "192.0.2.2:53"'
ONE, TWO = '"127.0.0.1:53"', '"127.0.0.2:53"'


def admin(listen: str, allow: str = "") -> str:
    return service("x", ONE, A) + f"[admin]\nlisten = [{listen}]\n" + (f"allow = [{allow}]\n" if allow else "")


def test_nothing_wrong() -> None:
    assert problems_of(service("x", ONE, A, B) + service("y", TWO, A, B)) == [], "services may share servers"
    assert problems_of(service("x", '"0.0.0.0:53", "127.0.0.1:53"', A)) == [], "one service, one owner"
    assert problems_of(service("x", '"0.0.0.0:53"', A) + service("y", '"127.0.0.1:54", "[::1]:53"', A)) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (service("x", ONE, A) + service("x", TWO, A), "service[1].name"),
        (service("x", ONE, A, B.replace('"b"', '"a"')), "service[0].server[1].name"),
        (service("x", ONE, A, B.replace("192.0.2.2", "192.0.2.1")), "service[0].server[1].address"),
        (service("x", f"{ONE}, {ONE}", A), "service[0].listen[1]"),
        (service("x", ONE, A) + service("y", f"{TWO}, {ONE}", A), "service[1].listen[1]"),
        (service("x", '"[::1]:53"', A) + service("y", '"[0:0::1]:53"', A), "service[1].listen[0]"),
        (service("x", '"192.0.2.1:53"', A), "service[0].server[0].address"),
        (service("x", ONE, A) + service("y", '"192.0.2.1:53"', B), "service[0].server[0].address"),
        (service("x", '"0.0.0.0:53"', A) + service("y", ONE, A), "service[1].listen[0]"),
        (service("x", ONE, A) + service("y", '"0.0.0.0:53"', A), "service[0].listen[0]"),
        (service("x", '"[::]:53"', A) + service("y", '"[::1]:53"', A), "service[1].listen[0]"),
        (service("x", ONE, A + '\nsource = "::1"'), "service[0].server[0].source"),
        (
            service("x", ONE, 'name = "a"\naddress = "[::1]:54"\nsource = "127.0.0.1"'),
            "service[0].server[0].source",
        ),
        (service("x", ONE), "service[0].server"),
        (admin(ONE), "admin.listen[0]"),
        (admin('"[::1]:80", "[0::1]:80"'), "admin.listen[1]"),
        (admin('"192.0.2.90:80"'), "admin.listen[0]"),
        (admin('"127.0.0.1:80", "192.0.2.90:80"', '"127.0.0.1/32"'), "admin.listen[1]"),
    ],
)
def test_contradictions(text: str, path: str) -> None:
    assert only_problem(text).path == path


@pytest.mark.parametrize(
    "text",
    [
        admin(""),
        admin('"127.0.0.1:53000", "[::1]:53000"'),
        admin('"0.0.0.0:80"'),
        admin('"192.0.2.90:80", "[2001:db8::1]:80"', '"192.0.2.0/24"'),
        admin('"192.0.2.90:80"', '"0.0.0.0/0"'),
        admin(TWO, '"127.0.0.0/8"'),
    ],
)
def test_admin_may_listen(text: str) -> None:
    assert problems_of(text) == []


def test_a_wrong_allow_is_told_once() -> None:
    assert only_problem(admin('"192.0.2.90:80"', '"192.0.2.0/99"')).path == "admin.allow[0]"


def test_the_other_place_is_told() -> None:
    problem = only_problem(service("x", ONE, A) + service("y", f"{TWO}, {ONE}", A))
    assert "service[0].listen[0]" in problem.message


def test_login_is_name_and_password() -> None:
    both = '[alerts]\nsmtp_user = "ns7"\nsmtp_password_file = "/etc/ns7/password"\n'
    assert problems_of(service("x", ONE, A) + both) == []
    for left in both.splitlines()[1:]:
        problem = only_problem(service("x", ONE, A) + "[alerts]\n" + left)
        assert problem.path == f"alerts.{left.split()[0]}"
        assert "beside it" in problem.message


@pytest.mark.parametrize(
    ("settings", "clear"),
    [
        ("", False),
        ('smtp = "[::1]:25"', False),
        ('smtp = "localhost:25"', False),
        ('smtp = "192.0.2.1:25"', True),
        ('smtp = "mail.example.com:25"\nsmtp_tls = "none"', True),
        ('smtp = "mail.example.com:25"\nsmtp_tls = "starttls"', False),
        ('smtp = "mail.example.com:465"\nsmtp_tls = "tls"', False),
    ],
)
def test_no_password_in_clear(settings: str, clear: bool) -> None:
    login = '[alerts]\nsmtp_user = "ns7"\nsmtp_password_file = "/etc/ns7/password"\n'
    found = problems_of(service("x", ONE, A) + login + settings)
    assert [problem.path for problem in found] == (["alerts.smtp_user"] if clear else [])
