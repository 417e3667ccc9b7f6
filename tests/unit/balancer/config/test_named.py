"""`ns7 sample-config named`: BIND takes it, and it is made for the servers of the file."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from balancer.config.named import sample
from tests.helpers.need import require_program
from tests.unit.balancer.config.files import PLAIN, load_text

MORE = """
[[service.server]]
name = "six"
address = "[2001:db8::1]:53"
source = "2001:db8::9"
tcp_connections = 300
"""


@pytest.mark.parametrize("config", ["", PLAIN, PLAIN + MORE])
def test_bind_takes_it(config: str, tmp_path: Path) -> None:
    file = tmp_path / "named.conf"
    file.write_text(sample(load_text(config) if config else None))
    checker = require_program("named-checkconf", "bind9-utils")
    done = subprocess.run([checker, file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_says_what_the_file_says() -> None:
    text = sample(load_text(PLAIN + MORE, "six"))
    assert re.search(r"listen-on-v6 \{ ::1; 2001:db8::1; \};", text)
    assert re.search(r"exempt-clients \{ 127.0.0.1; 2001:db8::9; \};", text)
    assert "tcp-clients 450;" in text
