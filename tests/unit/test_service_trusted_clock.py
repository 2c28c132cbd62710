"""The clock that cannot be turned forward."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_agent.errors import ConfigInvalid
from holdfast_agent.service.trusted_clock import DRIFT, MOST_AWAY_S, SAVE_EVERY_S, TrustedClock

DAY_S = 86400.0
START = 1_800_000_000.0


class Host:
    """A host whose clock can be set. ``real``: seconds that have really passed."""

    def __init__(self, file: Path) -> None:
        self.real = 0.0
        self.set_by = 0.0
        self.up_since = 0.0
        self.boot = "first"
        self.clock = TrustedClock(file, lambda: self.wall, lambda: self.real - self.up_since, lambda: self.boot)

    @property
    def wall(self) -> float:
        return START + self.real + self.set_by

    def restart(self, off_s: float) -> None:
        self.real += off_s
        self.up_since = self.real
        self.boot += "+"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "clock")


def test_it_is_the_hosts_clock_as_long_as_that_is_honest(host: Host) -> None:
    for passed_s in (0, 1, 3600, 40 * DAY_S):
        host.real += passed_s
        assert host.clock() == host.wall
    host.restart(off_s=3 * DAY_S)
    assert host.clock() == host.wall


def test_turned_forward_it_stays_with_what_has_passed(host: Host) -> None:
    host.clock()
    host.set_by = 365 * DAY_S
    for _ in range(3):
        host.real += DAY_S
        honest = START + host.real
        assert honest <= host.clock() <= honest + host.real * DRIFT + 1e-3


def test_turned_back_it_goes_back_and_comes_again(host: Host) -> None:
    host.clock()
    host.set_by = -10 * DAY_S
    assert host.clock() == host.wall
    host.real += DAY_S
    host.clock()
    host.set_by = 0.0
    assert host.clock() == host.wall, "a clock that was wrong for a while and was set right again is believed"


def test_a_restart_wins_a_week_at_most(host: Host) -> None:
    host.clock()
    host.set_by = 365 * DAY_S
    host.restart(off_s=60)
    assert host.clock() == START + MOST_AWAY_S
    host.real += DAY_S
    assert host.clock() <= START + MOST_AWAY_S + DAY_S * (1 + DRIFT) + 1e-3


def test_turned_back_before_a_restart_it_does_not_fall_behind(host: Host) -> None:
    host.real = 30 * DAY_S
    host.clock()
    host.set_by = -20 * DAY_S
    host.restart(off_s=60)
    host.clock()
    host.set_by = 0.0
    assert host.wall - host.clock() <= 60


def test_removing_the_file_accepts_the_hosts_time(host: Host, tmp_path: Path) -> None:
    host.clock()
    host.set_by = 365 * DAY_S
    (tmp_path / "clock").unlink()
    assert host.clock() == host.wall


@pytest.mark.parametrize("content", [b"", b"{", b'{"latest":1}', b"\0" * 5000])
def test_a_file_that_cannot_be_read_is_not_taken_for_none(host: Host, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clock").write_bytes(content)
    with pytest.raises(ConfigInvalid, match="remove the file"):
        host.clock()


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid):
        Host(tmp_path / "nowhere" / "clock").clock()


def test_it_writes_seldom_and_leaves_nothing_beside_its_file(host: Host, tmp_path: Path) -> None:
    host.clock()
    first = (tmp_path / "clock").stat().st_ino
    host.real += SAVE_EVERY_S / 2
    host.clock()
    assert (tmp_path / "clock").stat().st_ino == first
    host.real += SAVE_EVERY_S
    host.clock()
    assert (tmp_path / "clock").stat().st_ino != first
    assert [path.name for path in tmp_path.iterdir()] == ["clock"]
    assert (tmp_path / "clock").stat().st_mode & 0o777 == 0o600


@given(st.lists(st.tuples(st.sampled_from(["pass", "set", "restart"]), st.floats(0, 30 * DAY_S)), max_size=12))
def test_never_ahead_of_the_truth_by_more_than_its_bound(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, float]]
) -> None:
    host = Host(tmp_path_factory.mktemp("c") / "clock")
    host.clock()
    restarts = 0
    for step, amount in steps:
        match step:
            case "pass":
                host.real += amount
            case "set":
                host.set_by = amount - 15 * DAY_S
            case "restart":
                host.restart(amount)
                restarts += 1
        allowed = START + host.real * (1 + DRIFT) + restarts * MOST_AWAY_S
        assert host.clock() <= min(host.wall, allowed) + 1e-3
