"""What rsync and BIND get wrong on their own (and what people do to zone files): two real named, a real rsyncd.

Publisher and puller are driven directly, without their processes, so that each step is seen. Whatever goes wrong, what
was served before is served after.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.rcode
import dns.rdatatype
import pytest

from sync.manifest import CONF, encode, sha256
from sync.publish import Publisher
from sync.pull import Failure, Puller
from sync.store import Store
from tests.helpers.disk import small_disk
from tests.helpers.waiting import wait_for
from tests.helpers.zones import SECRET, Field, field, zone_text

SHARED = base64.b64decode(SECRET)


class Pair:
    """A publisher and a puller over one field."""

    def __init__(self, one: Field) -> None:
        self.field, self.at, self.to = one, one.publisher, one.puller
        self.published, self.pulled = Store(str(one.stores["publish"])), Store(str(one.stores["pull"]))
        self.published.open()
        self.pulled.open()
        self.publisher = Publisher(one.config("publish"), SHARED, self.published)
        self.puller = Puller(one.config("pull"), SHARED, self.pulled)

    async def refresh(self, full: bool = False, force: bool = False) -> dict[str, Any]:
        """One that must work."""
        result = await self.publisher.refresh(full, force)
        assert result["ok"], result
        return result

    async def refused(self) -> str:
        """A refresh that publishes nothing; what it says."""
        before = self.published.published()
        result = await self.publisher.refresh(False, False)
        assert not result["ok"], result
        assert self.published.published() == before
        return "\n".join(result["errors"])

    async def sync(self, force: bool = False) -> dict[str, Any]:
        """Publish and pull."""
        result = await self.refresh(force=force)
        await self.puller.pull()
        self.examine()
        return result

    async def fails(self, label: str, **options: bool) -> Failure:
        """A pull that fails so, and changes nothing that is served."""
        before, current = self.field.served(), self.pulled.current()
        with pytest.raises(Failure) as caught:
            await self.puller.pull(**options)
        assert caught.value.label == label, caught.value
        assert self.field.served() == before and self.pulled.current() == current
        assert not self.pulled.staging.exists()
        return caught.value

    def examine(self) -> None:
        """The puller serves all that is published."""
        expected = {name: zone.serial for (_, name), zone in self.publisher.published().zones.items()}
        assert {name: self.to.serial(name) for name in expected} == expected

    def forget(self, name: str) -> None:
        """Take a zone away at the publisher."""
        del self.at.zones[name]
        self.at.write_conf()


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with field(tmp_path_factory.mktemp("sync") / "field", zones=6) as one:
        yield one


@pytest.fixture
async def pair(ground: Field) -> Pair:
    one = Pair(ground)
    await one.publisher.refresh(False, True)
    await one.puller.pull(force=True)
    one.examine()
    return one


def bump(pair: Pair, name: str = "z0.example", **more: Any) -> int:
    """An edit as it should be; the new serial."""
    serial = pair.at.next_serial(name)
    pair.at.edit(name, serial, **more)
    return serial


async def test_relative_and_absolute_files(pair: Pair) -> None:
    """z0 is named by a relative path on the publisher, z1 by an absolute one; both arrive, and nothing else moves."""
    serials = bump(pair, "z0.example"), bump(pair, "z1.example")
    loaded = pair.to.log.read_text().count("zone z2.example/IN: loaded serial")
    assert (await pair.sync())["changes"] == "2 changed (z0.example, z1.example)"
    assert (pair.to.serial("z0.example"), pair.to.serial("z1.example")) == serials
    assert pair.to.log.read_text().count("zone z2.example/IN: loaded serial") == loaded
    assert (await pair.puller.pull())["changes"] == "nothing new"
    assert (await pair.refresh())["changes"] == "nothing changed"


async def test_file_older_than_what_is_loaded(pair: Pair) -> None:
    """named passes over a file whose time is before its last load: the publisher's is touched, the puller's is new."""
    serial = bump(pair)
    os.utime(pair.at.file("z0.example"), (1_000_000_000, 1_000_000_000))
    await pair.sync()
    assert pair.at.serial("z0.example") == pair.to.serial("z0.example") == serial


async def test_directory_that_leads_elsewhere(pair: Pair) -> None:
    """named resolved relative paths when it read its configuration: a swapped link alone silently serves old data."""
    folder, link = pair.at.folder, pair.at.folder / "link"
    for name in ("one", "two"):
        shutil.copytree(folder / "zones", folder / name / "zones")
    link.symlink_to("one")
    text = pair.at.conf.read_text()
    pair.at.conf.write_text(text.replace(f'directory "{folder}"', f'directory "{link}"'))
    await pair.sync()
    serial = pair.at.next_serial("z0.example")
    (folder / "two/zones/z0.example.zone").write_text(zone_text("z0.example", serial))
    (folder / "new").symlink_to("two")
    (folder / "new").rename(link)
    await pair.sync()
    assert pair.at.serial("z0.example") == pair.to.serial("z0.example") == serial
    pair.at.edit("z0.example", serial)
    pair.at.conf.write_text(text)
    await pair.sync()


async def test_configuration_that_named_has_not_read(pair: Pair) -> None:
    """Only zones have changed, and the puller's named does not know ours: it is told to read its configuration."""
    text = pair.to.conf.read_text()
    pair.to.conf.write_text(text.replace(pair.to.more, ""))
    pair.to.order("reconfig")
    assert pair.to.ask("z0.example").rcode() == dns.rcode.REFUSED
    pair.to.conf.write_text(text)
    serial = bump(pair)
    await pair.sync()
    assert pair.to.serial("z0.example") == serial


async def test_only_what_changed_is_loaded(pair: Pair) -> None:
    """Other content: named reads neither its configuration nor another zone."""
    before = pair.to.log.read_text()
    bump(pair)
    await pair.sync()
    said = pair.to.log.read_text()[len(before):]
    assert said.count(": loaded serial") == 1 and "loading configuration" not in said


async def test_many_zones_at_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a few are loaded by one order."""
    monkeypatch.setattr("sync.pull.RELOAD_EACH", 2)
    monkeypatch.setattr("sync.named.RELOAD_EACH", 2)
    for name in list(pair.at.zones)[:4]:
        bump(pair, name)
    before = len(pair.to.log.read_text())
    await pair.sync()
    assert pair.to.log.read_text()[before:].count("received control channel command 'reload'") == 1


async def test_same_size_in_the_same_second(pair: Pair) -> None:
    """rsync's quick check misses it; content does not lie."""
    bump(pair)
    await pair.sync()
    file = pair.at.file("z0.example")
    before = file.stat()
    serial = bump(pair)
    os.utime(file, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    await pair.sync()
    assert pair.to.serial("z0.example") == serial


@pytest.mark.long
async def test_going_back_to_older_files(pair: Pair) -> None:
    """A rollback's files are older than what is loaded; what was rolled back from is not pulled again."""
    first = pair.pulled.current()
    old = pair.to.serial("z0.example")
    serial = bump(pair)
    await pair.sync()
    second = pair.pulled.current()
    assert (await pair.puller.rollback(None)) == {"generation": first, "before": second}
    assert pair.to.serial("z0.example") == old
    assert "rolled back" in str(await pair.fails("bad"))
    await pair.puller.pull(force=True)
    assert pair.to.serial("z0.example") == serial
    await pair.puller.rollback(first)
    bump(pair, "z1.example")
    await pair.sync()
    assert pair.to.serial("z0.example") == serial


async def test_serial_that_goes_backwards(pair: Pair) -> None:
    pair.at.edit("z0.example", 0)
    assert "the serial has gone backwards: z0.example" in await pair.refused()
    await pair.sync(force=True)
    assert pair.to.serial("z0.example") == 0
    bump(pair)
    await pair.sync()


@pytest.mark.long
async def test_other_content_under_the_same_serial(pair: Pair) -> None:
    serial = pair.at.serial("z3.example") or 0
    pair.at.edit("z3.example", serial, more="new A 192.0.2.99\n")
    result = await pair.sync()
    assert "secondaries will not notice: z3.example" in result["warnings"][0]
    assert pair.to.ask("new.z3.example", "A").rcode() == dns.rcode.NOERROR


async def test_zone_cut_in_a_record(pair: Pair) -> None:
    """Refused as a whole; forced, the good zones go out and the bad one stays as it was."""
    old, good = pair.to.serial("z0.example"), bump(pair, "z1.example")
    text = zone_text("z0.example", 99)
    pair.at.file("z0.example").write_text(text[:text.index("h7 A") + 8])
    said = await pair.refused()
    assert "z0.example" in said and "near" in said
    assert (await pair.sync(force=True))["changes"] == "1 changed (z1.example)"
    assert (pair.to.serial("z0.example"), pair.to.serial("z1.example")) == (old, good)
    bump(pair)
    await pair.sync()


async def test_zone_cut_at_the_end_of_a_line(pair: Pair) -> None:
    """It loads, and named-checkzone is content: only the records are gone."""
    bump(pair, records=1)
    assert "z0.example would lose most of its records (23 before, 4 now)" in await pair.refused()
    bump(pair)
    await pair.sync()


async def test_empty_and_missing_files(pair: Pair) -> None:
    """A missing file is fine to named-checkconf; after a reload its zone would be SERVFAIL."""
    text = pair.at.file("z0.example").read_text()
    pair.at.file("z0.example").write_text("")
    assert "is empty" in await pair.refused()
    pair.at.file("z0.example").unlink()
    assert "No such file" in await pair.refused()
    pair.at.file("z0.example").write_text(text)
    await pair.sync()


@pytest.mark.long
async def test_configuration_that_is_not_right(pair: Pair) -> None:
    pair.at.conf.write_text(pair.at.conf.read_text() + "nonsense;\n")
    assert "unknown option 'nonsense'" in await pair.refused()
    pair.at.write_conf()
    await pair.sync()


async def test_zones_come_and_go(pair: Pair) -> None:
    pair.at.add("new.example", 7)
    pair.at.write_conf()
    assert (await pair.sync())["changes"] == "1 added (new.example)"
    assert pair.to.serial("new.example") == 7
    pair.forget("new.example")
    assert (await pair.sync())["changes"] == "1 removed (new.example)"
    assert pair.to.ask("new.example").rcode() == pair.at.ask("new.example").rcode() == dns.rcode.REFUSED


@pytest.mark.long
async def test_most_zones_vanish(pair: Pair) -> None:
    kept = dict(pair.at.zones)
    pair.at.zones = dict(list(kept.items())[:1])
    pair.at.write_conf()
    assert "zones would vanish" in await pair.refused()
    pair.at.zones = kept
    pair.at.write_conf()
    await pair.refresh()


async def test_zones_that_named_writes(pair: Pair) -> None:
    """Named, explained, never copied; and neither are journals, nor what else lies beside the zones."""
    pair.at.add("dyn.example", options="allow-update { 127.0.0.1; };")
    pair.at.write_conf()
    pair.at.file("z0.example").with_suffix(".zone.jnl").write_bytes(b"journal")
    (pair.at.folder / "zones" / "Kz0.example.+013+00001.private").write_text("secret")
    bump(pair)
    result = await pair.sync()
    (left,) = result["left"]
    assert left["name"] == "dyn.example" and "allow-update" in left["reason"] and "secondary" in left["stanza"]
    assert pair.to.ask("dyn.example").rcode() == dns.rcode.REFUSED
    tree = pair.pulled.tree(pair.pulled.current())
    assert {path.name for path in (tree / "zones").iterdir()} == pair.at.zones.keys() - {"dyn.example"}
    assert SECRET not in (tree / CONF).read_text(), "keys stay where they are"
    pair.forget("dyn.example")
    await pair.sync()


async def test_files_that_include_others(pair: Pair) -> None:
    """A puller gets one text; a change of what is included is a change."""
    part = pair.at.folder / "zones" / "part"
    part.write_text("part A 192.0.2.77\n")
    serial = bump(pair, "z4.example", more="$INCLUDE zones/part\n")
    await pair.sync()
    assert pair.to.serial("z4.example") == serial
    answer = pair.to.ask("part.z4.example", "A").answer
    part.write_text("part A 192.0.2.78\n")
    bump(pair, "z4.example", more="$INCLUDE zones/part\n")
    await pair.sync()
    assert pair.to.ask("part.z4.example", "A").answer != answer
    bump(pair, "z4.example")
    await pair.sync()


@pytest.mark.long
async def test_marker_for_old_pullers(pair: Pair) -> None:
    marker = pair.at.folder / "null"
    before = marker.read_text()
    await pair.refresh()
    assert marker.read_text() == before, "nothing changed"
    bump(pair)
    result = await pair.refresh()
    assert marker.read_text().split()[0] == str(result["generation"])


async def test_unreachable_publisher(pair: Pair) -> None:
    bump(pair)
    await pair.refresh()
    pair.field.stop_rsyncd()
    failure = await pair.fails("unreachable")
    assert failure.again and "cannot be reached" in str(failure)
    pair.field.start_rsyncd()
    await pair.puller.pull()
    pair.examine()


async def test_generation_that_goes_while_it_is_copied(pair: Pair) -> None:
    """The publisher has pruned it meanwhile: the newer one is taken, not half of the old one."""
    pair.publisher.config = pair.field.config("publish", keep=2)
    bump(pair)
    await pair.refresh()
    fetch = pair.puller._fetch_manifest
    newer: list[int] = []

    async def fetched() -> bytes:
        data = await fetch()
        if not newer:
            for _ in range(3):
                newer.append(bump(pair))
                await pair.refresh()
                await pair.publisher.rest()         # what is too old has gone
        return data

    pair.puller._fetch_manifest = fetched       # type: ignore[method-assign]
    await pair.puller.pull()
    assert pair.to.serial("z0.example") == newer[-1]
    pair.examine()


async def test_puller_whose_own_configuration_is_not_right(pair: Pair) -> None:
    """Nothing is switched before named's own file is right, and names ours."""
    text = pair.to.conf.read_text()
    serial = bump(pair)
    await pair.refresh()
    pair.to.conf.write_text(text + "nonsense;\n")
    assert "unknown option 'nonsense'" in str(await pair.fails("conf"))
    pair.to.conf.write_text(text.replace(pair.to.more, ""))
    failure = await pair.fails("conf")
    assert "does not include the zones" in str(failure) and pair.to.more.strip() in str(failure)
    pair.to.conf.write_text(text)
    await pair.puller.pull()
    assert pair.to.serial("z0.example") == serial


async def test_backup_of_the_puller_s_configuration(pair: Pair) -> None:
    bump(pair)
    await pair.sync()
    kept = pair.pulled.conf(pair.pulled.current()).with_name("host.conf")
    assert kept.read_bytes() == pair.to.conf.read_bytes()


async def test_part_of_a_generation_is_missing(pair: Pair) -> None:
    """rsync ends with code 23."""
    bump(pair)
    generation = (await pair.refresh())["generation"]
    file = pair.published.tree(generation) / "zones/z0.example"
    data = file.read_bytes()
    file.unlink()
    assert "code 23" in str(await pair.fails("partial"))
    file.write_bytes(data)
    await pair.puller.pull()
    pair.examine()


async def test_manifest_and_files_that_were_tampered_with(pair: Pair) -> None:
    bump(pair)
    generation = (await pair.refresh())["generation"]
    file = pair.published.tree(generation) / "zones/z0.example"
    good = file.read_bytes()
    file.write_bytes(good.replace(b"192.0.2.1", b"192.0.2.6"))
    assert "content is not what the manifest says" in str(await pair.fails("damaged"))
    file.write_bytes(good[:-40])
    assert "bytes, expected" in str(await pair.fails("damaged"))
    file.write_bytes(good)
    path = pair.published.root / "manifest"
    manifest = path.read_bytes()
    path.write_bytes(manifest.replace(b'"forced":', b'"forced": '))
    failure = await pair.fails("manifest")
    assert not failure.again and "not signed with our key" in str(failure)
    path.write_bytes(manifest)
    await pair.puller.pull()
    pair.examine()


async def test_older_generation_is_not_taken(pair: Pair) -> None:
    """A replayed manifest, or a publisher that lost its store."""
    path = pair.published.root / "manifest"
    old = path.read_bytes()
    bump(pair)
    await pair.sync()
    new = path.read_bytes()
    path.write_bytes(old)
    assert "older than" in str(await pair.fails("old"))
    path.write_bytes(new)


def forge(pair: Pair, name: str, text: str, serial: int) -> int:
    """Sign a generation in which a zone is wrong, as no refresh would."""
    manifest = pair.publisher.published()
    store, path = pair.published, manifest.zones["", name].path
    generation = manifest.generation + 1
    store.begin()
    store.keep_all(manifest, manifest)
    (store.staging / "tree" / path).unlink()
    files = {**manifest.files, path: store.put(path, text.encode(), 0o644)}
    zones = {**manifest.zones, ("", name): manifest.zones["", name]._replace(serial=serial)}
    data = encode(manifest._replace(generation=generation, files=files, zones=zones), SHARED)
    store.adopt(generation, data)
    store.publish(data)
    return generation


@pytest.mark.parametrize(("text", "word"), [
    ("broken", "z5.example"), (zone_text("z5.example", 7), "serial 7, the manifest says 9"),
])
async def test_zone_that_is_not_as_it_will_be(pair: Pair, text: str, word: str) -> None:
    """Signed and whole, but wrong: checked again here, and not tried a second time."""
    generation = forge(pair, "z5.example", text, 9)
    failure = await pair.fails("zones")
    assert word in str(failure) and not failure.again
    assert generation in pair.pulled.state().bad
    assert word in str(await pair.fails("bad"))
    bump(pair, "z5.example")
    await pair.sync(force=True)


async def test_what_a_puller_doubts(pair: Pair) -> None:
    """The guard holds at both ends; what was forced at the publisher is meant."""
    serial = pair.at.next_serial("z5.example")
    manifest = pair.publisher.published()
    zone = manifest.zones["", "z5.example"]
    forge(pair, "z5.example", zone_text("z5.example", serial), serial)
    data = pair.publisher.published()
    few = {**data.zones, ("", "z5.example"): zone._replace(serial=serial, records=1)}
    pair.published.publish(encode(data._replace(zones=few), SHARED))
    assert "would lose most of its records" in str(await pair.fails("suspicious"))
    pair.published.publish(encode(data._replace(zones=few, forced=data.generation), SHARED))
    await pair.puller.pull()
    assert pair.to.serial("z5.example") == serial


async def test_named_does_not_load_it(pair: Pair) -> None:
    """The check is content and named is not: back to the generation before, seen to be served, and not tried again."""
    text = pair.to.conf.read_text()
    pair.to.conf.write_text(text.replace("notify no;", "notify no; max-zone-ttl 3600;"))
    pair.to.order("reconfig")
    pair.puller.config = pair.field.config("pull", serve_timeout="1s")
    old = pair.to.serial("z0.example")
    current = pair.pulled.current()
    serial = bump(pair, more="long 7200 A 192.0.2.7\n")
    await pair.refresh()
    failure = await pair.fails("named")
    assert not failure.again and f"went back to generation {current}" in str(failure)
    assert f"expected {serial}" in str(failure) and pair.to.serial("z0.example") == old
    assert pair.pulled.state().loading == 0
    await pair.fails("bad")
    pair.to.conf.write_text(text)
    pair.to.order("reconfig")
    await pair.puller.pull(force=True)
    assert pair.to.serial("z0.example") == serial


@pytest.mark.long
async def test_zone_that_the_puller_has_already(pair: Pair) -> None:
    """named is never told of a configuration that it would refuse."""
    text = pair.to.conf.read_text()
    pair.to.add("both.example", 3)
    pair.to.write_conf()
    pair.to.order("reconfig")
    pair.at.add("both.example", 4)
    pair.at.write_conf()
    await pair.refresh()
    assert "both.example" in str(await pair.fails("named"))
    del pair.to.zones["both.example"]
    pair.to.conf.write_text(text)
    pair.to.order("reconfig")
    await pair.puller.pull(force=True)
    assert pair.to.serial("both.example") == 4
    pair.forget("both.example")
    await pair.sync()


async def test_named_does_not_run(pair: Pair) -> None:
    bump(pair)
    await pair.refresh()
    pair.to.stop()
    with pytest.raises(Failure, match="rndc status") as caught:
        await pair.puller.pull()
    assert caught.value.again
    pair.to.start()
    await pair.puller.pull()
    pair.examine()


async def test_run_that_died_after_the_switch(pair: Pair) -> None:
    """The next one ends what it had begun, before anything else."""
    serial = bump(pair)
    generation = (await pair.refresh())["generation"]

    class Died(BaseException):
        pass

    async def die(*_: object) -> None:
        raise Died

    pair.puller._load = die     # type: ignore[method-assign]
    with pytest.raises(Died):
        await pair.puller.pull()
    assert pair.pulled.state().loading == pair.pulled.current() == generation
    await Pair(pair.field).puller.pull()
    assert pair.to.serial("z0.example") == serial and pair.pulled.state().loading == 0


async def test_state_that_was_lost(pair: Pair) -> None:
    """What is current is loaded as a whole, and nothing is copied anew."""
    (pair.pulled.root / "state").write_text("{")
    assert (await pair.puller.pull())["changes"] == "nothing new"
    assert pair.pulled.state().served == pair.pulled.current()
    pair.examine()


@pytest.mark.long
async def test_file_that_was_damaged_here(pair: Pair) -> None:
    """A full pull finds it, and fetches it again."""
    path = pair.pulled.tree(pair.pulled.current()) / "zones/z2.example"
    path.write_text("rubbish")
    await pair.puller.pull(full=True)
    path = pair.pulled.tree(pair.pulled.current()) / "zones/z2.example"
    assert sha256(path.read_bytes()) == pair.publisher.published().files["zones/z2.example"].sha256
    pair.examine()


@pytest.mark.long
async def test_modes_and_owners(pair: Pair) -> None:
    pair.at.file("z0.example").chmod(0o600)
    bump(pair)
    await pair.sync()
    assert (pair.pulled.tree(pair.pulled.current()) / "zones/z0.example").stat().st_mode & 0o777 == 0o600
    assert (pair.pulled.conf(pair.pulled.current())).stat().st_mode & 0o777 == 0o644
    pair.at.file("z0.example").chmod(0o644)
    bump(pair)
    await pair.sync()


@pytest.mark.long
async def test_old_generations_go(pair: Pair) -> None:
    pair.publisher.config, pair.puller.config = (pair.field.config(role, keep=2) for role in ("publish", "pull"))
    for _ in range(2):
        bump(pair)
        await pair.sync()
    await pair.publisher.rest()
    for store in (pair.published, pair.pulled):
        assert len([each for each in store.generations() if each]) == 2
    assert CONF in {path.name for path in pair.pulled.current_path.resolve().iterdir()}


async def test_the_disk_is_full(pair: Pair, tmp_path: Path) -> None:
    """Nothing changes, nothing is left behind, and it is tried again."""
    with small_disk(tmp_path / "small", 256) as small:
        store = Store(str(small / "store"))
        store.open()
        conf = tmp_path / "named.conf"
        conf.write_text(pair.to.conf.read_text().replace(str(pair.pulled.root), str(small / "store")))
        puller = Puller(pair.field.config("pull", store=str(small / "store"), named_conf=str(conf)), SHARED, store)
        pair.at.add("large.example", 1, records=20_000)
        pair.at.write_conf()
        await pair.refresh()
        with pytest.raises(Failure) as caught:
            await puller.pull()
        assert caught.value.label == "disk" and caught.value.again, caught.value
        assert store.current() == 0 and not store.staging.exists()
    pair.forget("large.example")
    await pair.sync()


async def test_ten_refreshes_at_once(pair: Pair) -> None:
    """A web panel calls it for each edit: at most two generations, and each call's edit is in the one it returns."""
    names = list(pair.at.zones)[:5]
    edits = []

    async def call(number: int) -> None:
        await asyncio.sleep(0.002 * number)
        name = names[number % 5]
        serial = serial_in(pair.at.file(name)) + 1
        pair.at.edit(name, serial)
        result = await pair.refresh()
        edits.append((result["generation"], name, serial))

    first = asyncio.create_task(pair.refresh())
    await asyncio.gather(*(call(number) for number in range(10)))
    await first
    assert len({generation for generation, _, _ in edits}) <= 2
    for generation, name, serial in edits:
        assert serial_in(pair.published.tree(generation) / "zones" / name) >= serial
    await pair.puller.pull()
    pair.examine()


def serial_in(file: Path) -> int:
    words = file.read_text().split()
    return int(words[words.index("hostmaster") + 1])


@pytest.mark.long
async def test_hup_instead_of_rndc(pair: Pair) -> None:
    pair.publisher.config, pair.puller.config = (pair.field.config(role, reload="hup") for role in ("publish", "pull"))
    serial = bump(pair)
    await pair.sync()
    assert pair.at.serial("z0.example") == pair.to.serial("z0.example") == serial
    (pair.to.folder / "named.pid").rename(pair.to.folder / "away")
    bump(pair)
    await pair.refresh()
    assert "sync.pid_file" in str(await pair.fails("named"))
    (pair.to.folder / "away").rename(pair.to.folder / "named.pid")


@pytest.mark.long
async def test_key_that_was_changed(pair: Pair) -> None:
    """The same zones are published anew under the new key; what is on our own disks is believed."""
    pair.publisher = Publisher(pair.field.config("publish"), b"another secret of good length", pair.published)
    result = await pair.refresh()
    assert result["changes"] == "nothing changed"
    await pair.fails("manifest")
    pair.publisher = Publisher(pair.field.config("publish"), SHARED, pair.published)
    assert (await pair.refresh())["generation"] > result["generation"]
    await pair.puller.pull()
    pair.examine()


@pytest.mark.long
async def test_manifests_that_were_damaged_on_disk(pair: Pair) -> None:
    """Everything is published, and taken over, anew."""
    (pair.published.root / "manifest").write_bytes(b"rubbish")
    assert "added" in (await pair.refresh())["changes"]
    (pair.pulled.conf(pair.pulled.current()).parent / "manifest").write_bytes(b"rubbish")
    await pair.puller.pull()
    pair.examine()


async def test_views(tmp_path: Path) -> None:
    """One name, two zones: each has its own file and its own serial."""
    with field(tmp_path / "field", zones=0) as one:
        pair = Pair(one)
        for view, serial in (("inside", 5), ("outside", 6)):
            pair.at.file(view).write_text(zone_text("v.example", serial))
        pair.at.more = "".join(
            f'view "{view}" {{ match-clients {{ {clients}; }}; zone "v.example" {{ type primary; '
            f'file "zones/{view}.zone"; }}; }};\n' for view, clients in (("inside", "127.0.0.1"), ("outside", "any")))
        pair.at.write_conf()
        pair.at.order("reconfig")
        # The guard against named serving something else looks at views through rndc.
        await pair.refresh()
        await pair.puller.pull()
        assert pair.to.serial("v.example") == 5
        pair.at.file("outside").write_text(zone_text("v.example", 7))
        assert (await pair.refresh())["changes"] == "1 changed (v.example (view outside))"
        await pair.puller.pull()
        assert "serial: 7" in pair.to.order("zonestatus", "v.example", "IN", "outside")
        wait_for("unchanged", lambda: pair.to.serial("v.example") == 5)
