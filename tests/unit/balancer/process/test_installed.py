"""Files of another version in the running one's folder are noticed before a process is needed."""

from __future__ import annotations

from pathlib import Path

from balancer.process.installed import FILE, Installed


def install(folder: Path, text: str) -> None:
    new = folder / "new"
    new.write_text(text)
    new.replace(folder / FILE)


def test_replaced_removed_and_back(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    install(tmp_path, '__version__ = "1.0"\n')
    told: list[tuple[str, str, str]] = []
    installed = Installed(lambda *what: told.append(what), str(tmp_path), "1.0")
    installed.look()
    install(tmp_path, '"""Built anew, the same."""\n\n__version__ = "1.0"\n')
    installed.look()
    assert told == []
    install(tmp_path, '__version__ = "1.1"\n')
    for _ in range(3):
        installed.look()
    (tmp_path / FILE).unlink()
    installed.look()
    install(tmp_path, "nonsense\n")
    installed.look()
    install(tmp_path, '__version__ = "1.0"\n')
    installed.look()
    assert [what[:2] for what in told] == [("same", "differs"), ("differs", "missing"), ("missing", "differs"),
                                           ("differs", "same")]
    assert told[0][2].startswith("version 1.1 was installed where version 1.0 runs: `ns7 upgrade`")
    assert "gone" in told[1][2] and "another version" in told[2][2]
