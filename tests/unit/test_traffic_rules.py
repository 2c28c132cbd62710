"""Which rule covers what, and when; by which address a mover connects."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_manager.catalog.values import RepositoryEntry, TrafficRule
from holdfast_manager.schedules.windows import Window, parse_window
from holdfast_manager.traffic.routes import Way, host_of, ordered, streams_for
from holdfast_manager.traffic.rules import Limits, Transfer, in_force, limits_of, matches

MIB = 1 << 20
BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = datetime(2026, 3, 2, tzinfo=BERLIN)


def _rule(name: str = "wan", **fields: object) -> TrafficRule:
    return TrafficRule(name=name, **{"bandwidth_bytes_per_s": MIB, **fields})  # type: ignore[arg-type]


def _berlin(day: int, hour: int, minute: int = 0, month: int = 3, fold: int = 0) -> float:
    return datetime(2026, month, day, hour, minute, tzinfo=BERLIN, fold=fold).timestamp()


def test_a_rule_speaks_of_both_halves_of_a_copy_through_a_third_host() -> None:
    through = Transfer(source="10.2.0.1", target="10.3.0.1", fed_source="10.1.0.1", fed_target="10.2.0.1")
    assert matches(_rule(source=("10.1.0.0/16",), target=("10.2.0.0/16",)), through)
    assert matches(_rule(source=("10.2.0.0/16",), target=("10.3.0.0/16",)), through)
    assert not matches(_rule(source=("10.1.0.0/16",), target=("10.3.0.0/16",)), through)
    assert not matches(_rule(source=("10.2.0.0/16",), target=("10.1.0.0/16",), one_way=True), through)
    usual = Transfer(source="10.2.0.1", target="10.3.0.1")
    assert not matches(_rule(source=("0.0.0.0/0",), target=("10.2.0.0/16",), one_way=True), usual)


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("mon-fri 08:00-18:00", Window(frozenset(range(5)), 480, 1080)),
        ("Sat,Sun", Window(frozenset({5, 6}), 0, 1440)),
        ("fri-mon,wed 22:30-06:00", Window(frozenset({4, 5, 6, 0, 2}), 1350, 360)),
        ("00:00-24:00", Window(frozenset(range(7)), 0, 1440)),
    ],
)
def test_windows_are_read_as_people_write_them(text: str, window: Window) -> None:
    assert parse_window(text) == window


@pytest.mark.parametrize(
    "text",
    ["", "  ", "always", "mon-", "mon-tue-wed", "moon 08:00-10:00", "8:00-10:00", "08:00-25:00", "08:60-09:00",
     "08:00-08:00", "24:00-08:00", "08:00", "mon 08:00-10:00 tue"],
)  # fmt: skip
def test_what_is_no_window_is_refused_with_a_word(text: str) -> None:
    with pytest.raises(ValueError, match=r"write for example|no time window|names no days|no time of day"):
        parse_window(text)


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    rule = _rule(windows=("fri 22:00-06:00",), time_zone="Europe/Berlin")
    friday = 6
    assert not in_force(rule, _berlin(friday, 5))
    assert not in_force(rule, _berlin(friday, 21, 59))
    assert in_force(rule, _berlin(friday, 22))
    assert in_force(rule, _berlin(friday + 1, 5, 59))
    assert not in_force(rule, _berlin(friday + 1, 6))
    assert not in_force(rule, _berlin(friday + 1, 23))


def test_a_rule_goes_by_the_clock_of_its_zone_when_the_clocks_change() -> None:
    rule = _rule(windows=("08:00-18:00",), time_zone="Europe/Berlin")
    for day in (28, 29, 30):  # on the 29th there is no hour from two to three
        assert not in_force(rule, _berlin(day, 7, 59))
        assert in_force(rule, _berlin(day, 8))
        assert not in_force(rule, _berlin(day, 18))
    night = _rule(windows=("02:00-03:00",), time_zone="Europe/Berlin")
    skipped = datetime(2026, 3, 29, 1, tzinfo=UTC).timestamp()
    assert not in_force(night, skipped - 1)
    assert not in_force(night, skipped), "three o'clock follows on one fifty-nine"
    twice = [_berlin(25, 2, 30, month=10, fold=fold) for fold in (0, 1)]
    assert twice[1] - twice[0] == 3600
    assert all(in_force(night, each) for each in twice)


@given(st.integers(0, 366 * 24 * 60), st.sampled_from(["Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "UTC"]))
def test_windows_that_share_a_week_hold_one_at_a_time(minute: int, zone: str) -> None:
    """Together these four cover each minute of a week exactly once, so one of them holds at any time of any year."""
    parts = ("mon-fri 08:00-18:00", "mon-thu 18:00-08:00", "fri 18:00-24:00", "sat,sun", "mon 00:00-08:00")
    now = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)).timestamp()
    held = [part for part in parts if in_force(_rule(windows=(part,), time_zone=zone), now)]
    assert len(held) == 1


def test_a_rule_without_windows_always_holds_unless_disabled() -> None:
    assert in_force(_rule(), 0)
    assert not in_force(_rule(enabled=False), 0)


# --- whom a rule covers -----------------------------------------------------------------------------------------------


def test_networks_match_in_both_directions_unless_one_way() -> None:
    there = Transfer(source="10.0.0.5", target="192.168.1.9")
    back = Transfer(source="192.168.1.9", target="10.0.0.5")
    rule = _rule(source=("10.0.0.0/24",), target=("192.168.0.0/16", "172.16.0.1"))
    assert matches(rule, there)
    assert matches(rule, back)
    one_way = _rule(source=("10.0.0.0/24",), target=("192.168.0.0/16",), one_way=True)
    assert matches(one_way, there)
    assert not matches(one_way, back)
    assert not matches(rule, Transfer(source="10.0.1.5", target="192.168.1.9"))
    assert matches(_rule(), Transfer())
    assert not matches(_rule(source=("0.0.0.0/0",)), Transfer()), "an unknown address is in no network"
    assert matches(_rule(source=("10.0.0.0/24",)), Transfer(source="::ffff:10.0.0.7"))
    assert matches(_rule(target=("fd00::/8",)), Transfer(source="fe80::1", target="fd00::1"))


def test_all_kinds_of_limits_cover_a_transfer() -> None:
    store = RepositoryEntry(name="main", agent="a", path="/p", repository_id="", encrypted=True)
    stores = [
        msgspec.structs.replace(store, write_limit_bytes_per_s=7000),
        msgspec.structs.replace(store, name="old", read_limit_bytes_per_s=5000),
    ]
    rules = [_rule("wan", target=("10.1.0.0/16",)), _rule("streams", bandwidth_bytes_per_s=None, streams=4)]
    transfers = {
        1: Transfer(source="10.0.0.1", target="10.1.0.1", writes="main", job="web"),
        2: Transfer(source="10.0.0.1", target="10.2.0.1", reads="old", writes="main"),
        3: Transfer(reads="main", job="free"),
    }
    assert limits_of(transfers, rules, stores, {"web": 9000}, 0) == Limits(
        {
            "traffic rule wan": MIB,
            "write limit of main": 7000,
            "bandwidth of job web": 9000,
            "read limit of old": 5000,
        },
        {
            1: ("traffic rule wan", "write limit of main", "bandwidth of job web"),
            2: ("read limit of old", "write limit of main"),
            3: (),
        },
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"source": ("10.0.0.1/8",)}, "host bits set"),
        ({"target": ("office",)}, "write a network such as"),
        ({"windows": ("noon",)}, "no time window"),
        ({"time_zone": "Berlin"}, "not known"),
        ({"bandwidth_bytes_per_s": None}, "says something"),
    ],
)
def test_a_rule_that_is_wrong_is_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        _rule(**fields)


# --- ways -------------------------------------------------------------------------------------------------------------

WAYS = tuple(
    Way(endpoint, host_of(endpoint))
    for endpoint in ("tcp://172.16.0.9:8440", "tcp://10.0.0.9:8440", "tcp://[fd00::9]:8440", "tcp://vault.example:8440")
)


def test_the_first_preferred_network_that_both_hosts_have_comes_first() -> None:
    ours = ("192.168.1.5", "10.0.0.5", "fd00::5")
    assert ordered(WAYS, ours, ()) == WAYS
    assert ordered(WAYS, ours, ("192.168.1.0/24", "10.0.0.0/24"))[0] == WAYS[1]
    assert ordered(WAYS, ours, ("fd00::/64", "10.0.0.0/24"))[:2] == (WAYS[2], WAYS[1])
    assert ordered(WAYS, ("10.0.1.5",), ("10.0.0.0/24",)) == WAYS, "only the other host is in that network"
    assert ordered(WAYS, (), ("10.0.0.0/8",)) == WAYS
    assert sorted(ordered(WAYS, ours, ("0.0.0.0/0",))) == sorted(WAYS), "no way is lost"


def test_the_fewest_streams_of_the_rules_in_force_count() -> None:
    ways = [Transfer(source="10.0.0.5", target="10.9.0.1")]
    wide = _rule("wide", streams=8)
    line = _rule("line", streams=5, target=("10.9.0.0/16",))
    off = _rule("off", streams=1, enabled=False)
    elsewhere = _rule("elsewhere", streams=1, target=("10.8.0.0/16",))
    assert streams_for([wide, line, off, elsewhere], ways, 0) == 5
    assert streams_for([_rule()], ways, 0) is None
    assert host_of("tcp://[fd00::9]:1") == "fd00::9"
