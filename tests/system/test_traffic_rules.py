"""Traffic rules with real programs: between hosts, between sessions, for all that reads and writes a repository."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from holdfast_agent.config.settings import DataSettings
from lab.contents import assert_same
from lab.estate import Estate, estate
from lab.installation import Installation, another_proxy, installed
from lab.network import Host

MIB = 1 << 20
PATIENCE_S = 60.0
_NETWORKS = ("127.0.0.1", "127.2.0.1", "127.3.0.1")


def _disk(house: Installation, vm: str, mib: int) -> bytes:
    content = random.Random(vm).randbytes(mib * MIB)
    (house.vms / vm).mkdir()
    (house.vms / vm / "disk.raw").write_bytes(content)
    return content


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"


class Rate(NamedTuple):
    least: float
    most: float


def _rate(count: Callable[[], int], seconds: float = 2.0) -> Rate:
    """Bytes per second by a host's own counter of an interface, at least and at most.

    A program reads it, at any moment of its run, which may be long on a busy machine.
    """
    began, before, read = time.monotonic(), count(), time.monotonic()
    time.sleep(seconds)  # nothing is waited for: this is how long is measured
    again, after, ended = time.monotonic(), count(), time.monotonic()
    return Rate((after - before) / (ended - began), (after - before) / (again - read))


def _sends(host: Host) -> Rate:
    return _rate(host.sent_bytes, 1.0)


# --- between hosts ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    """Two proxies and a repository in two networks; one proxy has room for a second repository."""
    roles = {"one": "proxy", "two": "proxy repository", "vault": "repository"}
    with estate(tmp_path_factory.mktemp("wide"), roles, networks=2) as made:
        made.add_plain_repository("main", "vault")
        yield made


def _start(house: Installation, job: str) -> int:
    number: int = house.holdfast("job", "run", job, "--detach")["session"]
    return number


def _disks(house: Installation, session: int) -> list[dict[str, Any]]:
    shown: dict[str, Any] = house.holdfast("session", "show", str(session))
    return list(shown["disks"])


def _transferring(house: Installation, session: int) -> bool:
    return any(disk["counters"]["transferred_bytes"] > 0 for disk in _disks(house, session))


def test_sessions_of_two_proxies_share_a_rule_and_obey_its_changes(wide: Estate) -> None:
    vault = wide.hosts["vault"]
    wide.holdfast("network", "rule", "add", "line", "--target", f"{vault.address}/32", "--bandwidth", "2 MiB")
    sessions = {}
    for vm, proxy in (("left", "one"), ("right", "two")):
        _disk(wide, vm, 100)
        wide.add_job(vm, "--proxy", proxy, "--compression", "none", repository="main", include=vm)
        sessions[vm] = _start(wide, vm)
    _until(lambda: all(_transferring(wide, each) for each in sessions.values()), "both transfer")

    # Headers of packets are not counted by the limit. A busy machine may send less for a while, but never more.
    assert _rate(vault.received_bytes).least < 1.08 * 2 * MIB
    _until(lambda: _rate(vault.received_bytes).most > 0.95 * 2 * MIB, "all of the limit is used")
    wide.holdfast("network", "rule", "edit", "line", "--bandwidth", "6 MiB")
    _until(lambda: _rate(vault.received_bytes).most > 0.95 * 6 * MIB, "all of the edited limit is used")
    assert _rate(vault.received_bytes).least < 1.08 * 6 * MIB
    both = (wide.hosts["one"], wide.hosts["two"])
    _until(
        lambda: all(sends.most > 2.5 * MIB and sends.least < 3.5 * MIB for sends in map(_sends, both)), "equal shares"
    )

    process = wide.holdfast("session", "show", str(sessions["left"]))["process"]
    os.kill(int(process.split()[1]), signal.SIGKILL)
    one, two = wide.hosts["one"], wide.hosts["two"]
    _until(lambda: _sends(one).most < 0.2 * MIB < 5.5 * MIB < _sends(two).most, "the share of the dead comes back")
    wide.holdfast("network", "rule", "disable", "line")
    _until(lambda: wide.holdfast("session", "show", str(sessions["right"]))["result"] == "success", "it ends")
    (disk,) = _disks(wide, sessions["right"])
    assert disk["counters"]["throttled_by"]["traffic rule line"] > 5
    wide.holdfast("network", "rule", "remove", "line")


def test_movers_connect_by_the_preferred_network_and_fall_over_to_the_next(wide: Estate) -> None:
    vault = wide.hosts["vault"]
    _disk(wide, "way", 1)
    wide.add_job("way", "--compression", "none", repository="main", include="way")
    wide.holdfast("network", "rule", "add", "wide", "--target", f"{vault.addresses[1]}/32", "--streams", "3")

    (usual,) = wide.run_job("way")["disks"]
    assert (usual["target"], usual["streams"]) == (vault.addresses[0], 1)
    wide.holdfast("network", "prefer", "10.66.1.0/24", "10.66.0.0/24")
    (preferred,) = wide.run_job("way")["disks"]
    assert (preferred["target"], preferred["streams"]) == (vault.addresses[1], 3)
    assert preferred["source"].startswith("10.66.1.")
    vault.run("iptables", "-w", "-A", "INPUT", "-i", "eth1", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")
    try:
        (fallen,) = wide.run_job("way")["disks"]
    finally:
        vault.heal()
    assert fallen["target"] == vault.addresses[0]


def test_a_rule_holds_between_the_repositories_of_a_copy(wide: Estate) -> None:
    """It is stored where it is decoded, so that the way from the other repository is the only one."""
    _disk(wide, "doubled", 6)
    wide.add_job("doubled", "--compression", "none", "--proxy", "one", repository="main", include="doubled")
    (point,) = wide.run_job("doubled")["points"]
    wide.add_plain_repository("far", "two")
    everywhere = "10.66.0.0/16"  # both networks: which of them is preferred is another test's business
    wide.holdfast(
        "network", "rule", "add", "away", "--source", everywhere, "--target", everywhere, "--bandwidth", "2 MiB"
    )
    copied = wide.holdfast("repository", "copy", "main", "far", "--point", point["sid"], "--proxy", "two")
    wide.holdfast("network", "rule", "remove", "away")
    assert copied["total"]["throttled_by"]["traffic rule away"] > 0.1


def test_a_rule_holds_on_the_first_half_of_a_copy_through_a_third_host(wide: Estate) -> None:
    _disk(wide, "handed", 6)
    wide.add_job("handed", "--compression", "none", "--proxy", "one", repository="main", include="handed")
    (point,) = wide.run_job("handed")["points"]
    wide.add_plain_repository("farther", "two")
    vault, one = wide.hosts["vault"].addresses, wide.hosts["one"].addresses
    between = [
        each
        for end, hosts in (("--source", vault), ("--target", one))
        for host in hosts
        for each in (end, f"{host}/32")
    ]
    wide.holdfast("network", "rule", "add", "first", *between, "--bandwidth", "2 MiB")
    copied = wide.holdfast("repository", "copy", "main", "farther", "--point", point["sid"], "--proxy", "one")
    wide.holdfast("network", "rule", "remove", "first")
    assert copied["total"]["throttled_by"]["traffic rule first"] > 0.1


# --- on one host ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Two agents in three networks of the loopback."""
    home = tmp_path_factory.mktemp("house")
    made = Installation(home)
    advertised = f'listen_address = "0.0.0.0"\nadvertised_address = {json.dumps(_NETWORKS)}'
    made.agent_config.write_text(made.agent_config.read_text().replace('listen_address = "127.0.0.1"', advertised))
    try:
        made.enrol()
        made.add_repository("main", encrypted=False)
        with another_proxy(made, data=DataSettings(advertised_address=_NETWORKS)):
            yield made
    finally:
        made.stop_agent()


def test_the_way_decides_which_rule_holds(house: Installation) -> None:
    _disk(house, "ways", 3)
    house.add_job("ways", "--proxy", "other", "--compression", "none", repository="main", include="ways")
    house.holdfast("network", "rule", "add", "two", "--target", "127.2.0.0/16", "--bandwidth", "2 MiB")
    house.holdfast("network", "prefer", "127.3.0.0/16")
    (free,) = house.run_job("ways")["disks"]
    assert (free["target"], free["counters"]["throttled_by"]) == ("127.3.0.1", {})
    house.holdfast("network", "prefer", "127.2.0.0/16")
    _disk(house, "more", 3)
    house.add_job("more", "--proxy", "other", "--compression", "none", repository="main", include="more")
    (ruled,) = house.run_job("more")["disks"]
    assert ruled["target"] == "127.2.0.1"
    assert 0.1 < ruled["counters"]["throttled_by"]["traffic rule two"] < 3  # a busy machine holds it back, too
    house.holdfast("network", "rule", "remove", "two")


@pytest.mark.parametrize("proxy", ["local", "other"])
def test_restores_verifications_and_copies_obey_the_read_limit_and_backups_the_write_limit(
    house: Installation, proxy: str
) -> None:
    """With the movers of a task in one process (but for a copy's reader), and in two."""
    vm = f"kept-{proxy}"
    content = _disk(house, vm, 3)
    house.holdfast("repository", "edit", "main", "--write-limit", "2 MiB")
    house.add_job(vm, "--compression", "none", "--proxy", proxy, repository="main", include=vm)
    report = house.run_job(vm)
    assert 0.1 < report["total"]["throttled_by"]["write limit of main"] < 3  # a busy machine holds it back, too

    point = ("--point", report["points"][0]["sid"])
    house.holdfast("repository", "edit", "main", "--reset", "write-limit", "--read-limit", "2 MiB")
    house.restore_disk(vm, point[1], house.out / f"{vm}.raw", "--proxy", proxy)
    assert_same((house.out / f"{vm}.raw").read_bytes(), content)
    house.holdfast("repository", "verify", "main", "--level", "2", *point, "--proxy", proxy)
    house.add_repository(f"second-{proxy}", encrypted=False)
    house.holdfast("repository", "copy", "main", f"second-{proxy}", *point, "--proxy", proxy)
    house.holdfast("repository", "edit", "main", "--reset", "read-limit")
    for session in house.holdfast("session", "list")["sessions"][:3]:
        (disk,) = _disks(house, session["id"])
        assert 0.1 < disk["counters"]["throttled_by"]["read limit of main"] < 3, session["kind"]
        assert disk["counters"]["stages"]["throttled_s"] > 0.1

    house.add_repository(f"third-{proxy}", encrypted=False)
    copied = house.holdfast(
        "repository", "copy", "main", f"third-{proxy}", "--bandwidth", "2 MiB", *point, "--proxy", proxy
    )
    ((limit, held_s),) = copied["total"]["throttled_by"].items()
    assert limit == f"bandwidth of session {copied['id']}"
    assert held_s > 0.1


def test_a_limit_smaller_than_a_block_a_second_is_no_stall(tmp_path: Path) -> None:
    with installed(tmp_path) as made:
        made.add_repository("main", encrypted=False)
        _disk(made, "slow", 1)
        made.add_job("slow", "--compression", "none", "--bandwidth", "300 KiB", repository="main", include="slow")
        (disk,) = made.run_job("slow")["disks"]
        assert disk["attempt"] == 1
        assert disk["counters"]["elapsed_s"] > 2.8
