"""Movers on hosts of their own over a line that breaks in mid-transfer: the task goes on where it was.

Each test makes one fault on a real network while blocks are moving. The transfer must end with the right tree, what was
sent again must be no more than a window for each break, and the disk must come back bit for bit.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from holdfast_agent.channel.data_connection import DEFAULT_WINDOW_BYTES
from holdfast_agent.errors import ConnectionLost, Unreachable
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.link import LinkTimeouts
from holdfast_agent.model.rules import Compression, TransferRules
from holdfast_agent.model.stats import bottleneck, joined
from holdfast_agent.model.units import MIB
from holdfast_agent.wire.movers import Begin, Connected, Finished, Listening, Progressed
from holdfast_agent.wire.specs import BackupOrder, ReaderSpec, RestoreOrder, SourceSpec, TargetSpec, WriterSpec
from lab.movers import Mover, Site
from lab.network import Host, network

SIZE = 24 * MIB
RATE = 16 * MIB
PATIENCE_S = 60.0
LINK = LinkTimeouts(silence_s=1.0, stall_s=30.0, resume_s=30.0)
MOST_RSS = 250 * MIB


class Hosts(NamedTuple):
    """In two networks; the vault tells its addresses in both."""

    proxy: Host
    vault: Host


class Ground(NamedTuple):
    """A repository and a disk of random bytes that both hosts see, as if on shared storage."""

    site: Site
    disk: Path
    hosts: Hosts


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with network(["proxy", "vault"], networks=2) as (proxy, vault):
        yield Hosts(proxy, vault)


@pytest.fixture
def ground(tmp_path: Path, hosts: Hosts) -> Iterator[Ground]:
    site = Site(tmp_path)
    disk = tmp_path / "disks" / "disk"
    disk.write_bytes(random.Random(3).randbytes(SIZE))
    yield Ground(site, disk, hosts)
    for host in hosts:
        host.heal()


def heard_at(vault: Host) -> dict[str, object]:
    """A listening mover's configuration: at all its addresses, also those that it gets later."""
    return {"listen_address": "0.0.0.0", "advertised_addresses": vault.addresses}  # noqa: S104 - a host of the test's


@contextlib.contextmanager
def movers(
    ground: Ground, sid: str, rate: int | None = RATE, link: LinkTimeouts = LINK
) -> Iterator[tuple[Mover, Mover]]:
    """A connected source on the proxy and target on the vault."""
    secret = secrets.token_bytes(32)
    vault, proxy = ground.hosts.vault, ground.hosts.proxy
    ground.site.mover_number += 1
    host = ground.site.host(**heard_at(vault), link=link)
    repository = str(ground.site.folder / "repository")
    spec = TargetSpec(task_id="t", secret=secret, repository=repository, sid=sid, mover=ground.site.mover_number)
    rules = TransferRules(bandwidth_bytes_per_s=rate, compression=Compression.NONE, streams=2)
    with Mover(spec, host, vault.command()) as target:
        endpoints = target.expect(Listening).endpoints
        assert len(endpoints) == 2
        leads = SourceSpec(task_id="t", secret=secret, endpoints=endpoints, keys=ground.site.keys, rules=rules)
        with Mover(leads, host, proxy.command()) as source:
            for mover in (source, target):
                mover.expect(Connected)
            yield source, target


def begin(ground: Ground, source: Mover, share: float = 0.3) -> None:
    """Start the backup of the disk, and wait until this share of it has been sent."""
    url = f"file:{ground.disk}"
    source.send(Begin(order=BackupOrder(geometry=Geometry(SIZE), disks=(url,), mode=ChangeMode.FULL)))
    while source.expect(Progressed).counters.sent_bytes < share * SIZE:
        pass


@contextlib.contextmanager
def standing(mover: Mover) -> Iterator[None]:
    """It does nothing meanwhile: a transfer is not over before its line is broken, however long that takes."""
    mover.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        mover.process.send_signal(signal.SIGCONT)


def hold(seconds: float, mover: Mover) -> None:
    """Let a fault last for so long, reading what the mover tells meanwhile."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            mover.next(deadline - time.monotonic())


def backed_up(ground: Ground, break_line: Callable[[Mover], None], rate: int | None = RATE) -> Finished:
    """Back up over a line that ``break_line`` breaks in mid-transfer; all is as it must be after it."""
    proxy = ground.hosts.proxy
    before = sum(proxy.sent_bytes(each) for each in range(2))
    with ground.site.session() as session, movers(ground, session.sid, rate) as (source, target):
        begin(ground, source)
        break_line(source)
        done = source.expect(Finished, PATIENCE_S)
        stored = target.expect(Finished, PATIENCE_S)
        assert done.result.root == stored.result.root is not None
        assert stored.counters.stored_bytes < 1.01 * SIZE, "a block was stored twice"
        counters = done.counters
        assert counters.transferred_bytes < 1.01 * SIZE
        assert counters.resent_bytes <= counters.resumed * (DEFAULT_WINDOW_BYTES + 5 * MIB)
        went = sum(proxy.sent_bytes(each) for each in range(2)) - before
        # What was in the kernel's buffers when the line broke was sent as well, and is in nobody's count.
        assert went < 1.1 * (SIZE + counters.resent_bytes) + (1 + counters.resumed) * 8 * MIB
        for mover in (source, target):
            assert mover.process.wait(PATIENCE_S) == 0
            assert mover.most_rss_bytes < MOST_RSS
        restored = ground.site.folder / "disks" / "restored"
        assert done.result.root is not None
        ground.site.restore(done.result.root, Geometry(SIZE), f"file:{restored}")
        assert subprocess.run(["cmp", ground.disk, restored], check=False).returncode == 0
    return done


def test_a_cable_that_is_pulled_for_some_seconds(ground: Ground) -> None:
    def pull(source: Mover) -> None:
        with standing(source):
            ground.hosts.vault.cut()
        hold(2.0, source)
        ground.hosts.vault.heal()

    done = backed_up(ground, pull)
    assert done.counters.resumed >= 1


def test_a_silent_partition_that_heals(ground: Ground) -> None:
    def part(source: Mover) -> None:
        with standing(source):
            for host in ground.hosts:
                host.black_hole()
        hold(2.5, source)
        for host in ground.hosts:
            host.heal()

    done = backed_up(ground, part)
    assert done.counters.resumed >= 1


@pytest.mark.soak
def test_a_silent_partition_of_one_direction_leaves_the_other_network(ground: Ground) -> None:
    """Acknowledgements come no more; TCP alone would notice after a quarter of an hour."""

    def deafen(source: Mover) -> None:
        ground.hosts.proxy.run("iptables", "-w", "-A", "INPUT", "-i", "eth0", "-j", "DROP")

    done = backed_up(ground, deafen)
    assert done.counters.resumed == 1


def test_a_partition_that_does_not_heal_ends_both_movers_in_time(ground: Ground) -> None:
    short = LinkTimeouts(silence_s=1.0, stall_s=300.0, resume_s=1.5)
    with ground.site.session() as session, movers(ground, session.sid, link=short) as (source, target):
        begin(ground, source)
        with standing(source):
            for host in ground.hosts:
                host.black_hole()
        for mover in (source, target):
            error = mover.failure(PATIENCE_S)
            assert isinstance(error, ConnectionLost) and error.retryable
            assert mover.process.wait(60) == 1
        for host in ground.hosts:
            host.heal()
        # The retry is told what had arrived: nobody need send it again.
        with movers(ground, session.sid, rate=None) as (again, second):
            begin(ground, again, 0)
            done = again.expect(Finished, PATIENCE_S)
            second.expect(Finished, PATIENCE_S)
            assert done.counters.deduplicated_bytes > SIZE // 6


@pytest.mark.parametrize("share", [0.02, pytest.param(0.05, marks=pytest.mark.soak)])
def test_a_line_that_loses_packets(ground: Ground, share: float) -> None:
    def spoil(_source: Mover) -> None:
        for host in ground.hosts:
            host.lose(share)

    backed_up(ground, spoil)


def test_a_line_whose_connections_are_reset(ground: Ground) -> None:
    def reset(source: Mover) -> None:
        with standing(source):
            ground.hosts.vault.reject()
        hold(0.6, source)
        ground.hosts.vault.heal()

    done = backed_up(ground, reset)
    assert done.counters.resumed >= 1


@pytest.mark.parametrize("whose", ["vault", "proxy"])
def test_a_host_that_changes_its_address(ground: Ground, whose: str) -> None:
    """The vault is then found in the other network; the proxy goes on from its new address. Either way is told."""
    host = ground.hosts.vault if whose == "vault" else ground.hosts.proxy
    moved: list[Mover] = []

    def move(source: Mover) -> None:
        with standing(source):
            host.readdress("10.66.0.77")
        moved.append(source)

    done = backed_up(ground, move)
    host.readdress(host.address)
    assert done.counters.resumed == 1
    way = moved[0].routes[-1]
    if whose == "vault":
        assert way.repository == ground.hosts.vault.addresses[1]
    else:
        assert way.proxy in ("10.66.0.77", ground.hosts.proxy.addresses[1])  # whichever is tried first


def test_a_restore_over_a_line_that_breaks_goes_on_where_it_was(ground: Ground) -> None:
    vault, site = ground.hosts.vault, ground.site
    root = site.backup(f"file:{ground.disk}", Geometry(SIZE)).repository.root
    assert root is not None
    before = sum(vault.sent_bytes(each) for each in range(2))
    host, secret = site.host(**heard_at(vault), link=LINK), secrets.token_bytes(32)
    rules = TransferRules(bandwidth_bytes_per_s=RATE, streams=2)
    spec = ReaderSpec(task_id="t", secret=secret, repository=str(site.folder / "repository"), rules=rules)
    to = site.folder / "disks" / "restored"
    with Mover(spec, host, vault.command()) as reader:
        endpoints = reader.expect(Listening).endpoints
        leads = WriterSpec(task_id="t", secret=secret, endpoints=endpoints, keys=site.keys, rules=rules)
        with Mover(leads, host, ground.hosts.proxy.command()) as writer:
            writer.expect(Connected)
            writer.send(Begin(order=RestoreOrder(geometry=Geometry(SIZE), root=root, disk=f"file:{to}")))
            while writer.expect(Progressed).counters.processed_bytes < 0.3 * SIZE:
                pass
            with standing(reader):
                vault.reject()
            hold(0.6, writer)
            vault.heal()
            ends = [mover.expect(Finished, PATIENCE_S).counters for mover in (writer, reader)]
    counters = joined(*ends)
    assert counters.resumed >= 1
    assert counters.resent_bytes <= counters.resumed * (DEFAULT_WINDOW_BYTES + 5 * MIB)
    went = sum(vault.sent_bytes(each) for each in range(2)) - before
    assert went < 1.1 * (SIZE + counters.resent_bytes) + (1 + counters.resumed) * 8 * MIB
    assert subprocess.run(["cmp", ground.disk, to], check=False).returncode == 0


@pytest.mark.soak
def test_a_line_that_breaks_again_and_again(ground: Ground) -> None:
    def flap(source: Mover) -> None:
        for _ in range(8):
            ground.hosts.vault.reject()
            hold(0.3, source)
            ground.hosts.vault.heal()
            hold(1.0, source)

    done = backed_up(ground, flap, 2 * MIB)
    assert done.counters.resumed >= 4


def test_a_thin_line_with_large_blocks_is_not_a_silent_one(ground: Ground) -> None:
    """A block of 1 MiB takes longer than the time after which silence is noticed."""

    ground.hosts.proxy.slow(256 << 10)
    with ground.site.session() as session, movers(ground, session.sid, rate=None) as (source, target):
        begin(ground, source, 0)
        hold(5.0, source)
        ground.hosts.proxy.heal()
        done = source.expect(Finished, PATIENCE_S)
        target.expect(Finished, PATIENCE_S)
    assert done.counters.elapsed_s > 5.0
    assert done.counters.resumed == 0
    assert done.counters.stages.network_s > 4.0, "the line was the bottleneck, and is told so"
    assert bottleneck(done.counters.stages) == "network"


@contextlib.contextmanager
def throttled(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let a mover work for a tenth of the time only, as on a machine or a disk that is far too slow."""
    ends = threading.Event()

    def hinder() -> None:
        while not ends.is_set():
            process.send_signal(signal.SIGSTOP)
            ends.wait(0.18)
            process.send_signal(signal.SIGCONT)
            ends.wait(0.02)

    thread = threading.Thread(target=hinder)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


@pytest.fixture
def large(ground: Ground) -> Geometry:
    """The disk, fifteen times as large: more than a mover may take."""
    with ground.disk.open("ab") as file:
        for _ in range(14):
            file.write(os.urandom(SIZE))
    return Geometry(15 * SIZE)


def test_a_slow_target_and_a_slow_writer_make_nobody_grow(ground: Ground, large: Geometry) -> None:
    with ground.site.session() as session, movers(ground, session.sid, rate=None) as (source, target):
        with throttled(target.process):
            url = f"file:{ground.disk}"
            source.send(Begin(order=BackupOrder(geometry=large, disks=(url,), mode=ChangeMode.FULL)))
            held = {source.expect(Progressed).counters.sent_bytes for _ in range(4)}
        root = source.expect(Finished, PATIENCE_S).result.root
        target.expect(Finished, PATIENCE_S)
        assert min(held) < 15 * SIZE, "the target was not slow"
        assert max(source.most_rss_bytes, target.most_rss_bytes) < MOST_RSS
        assert root is not None
        secret = secrets.token_bytes(32)
        host = ground.site.host(**heard_at(ground.hosts.vault), link=LINK)
        spec = ReaderSpec(task_id="t", secret=secret, repository=str(ground.site.folder / "repository"))
        with Mover(spec, host, ground.hosts.vault.command()) as reader:
            endpoints = reader.expect(Listening).endpoints
            leads = WriterSpec(task_id="t", secret=secret, endpoints=endpoints, keys=ground.site.keys)
            with Mover(leads, host, ground.hosts.proxy.command()) as writer:
                writer.expect(Connected)
                to = ground.site.folder / "disks" / "restored"
                writer.send(Begin(order=RestoreOrder(geometry=large, root=root, disk=f"file:{to}")))
                with throttled(writer.process):
                    for _ in range(4):
                        reader.expect(Progressed)
                writer.expect(Finished, PATIENCE_S)
                reader.expect(Finished, PATIENCE_S)
                assert max(writer.most_rss_bytes, reader.most_rss_bytes) < MOST_RSS
        assert subprocess.run(["cmp", ground.disk, to], check=False).returncode == 0


def test_nobody_listens_at_any_address(ground: Ground) -> None:
    endpoints = tuple(f"tcp://{address}:9" for address in ground.hosts.vault.addresses)
    spec = SourceSpec(task_id="t", secret=bytes(32), endpoints=endpoints, keys=ground.site.keys)
    with Mover(spec, ground.site.host(connect_timeout_s=1.0), ground.hosts.proxy.command()) as source:
        assert isinstance(source.failure(), Unreachable)
