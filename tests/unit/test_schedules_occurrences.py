"""When jobs start: compared with systemd's and cron's own reading, and with all minutes in which clocks change."""

from __future__ import annotations

import os
import random
import re
import subprocess
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_manager.schedules.cron import parse_cron
from holdfast_manager.schedules.occurrences import Calendar, Every
from holdfast_manager.schedules.starts import parse_start
from holdfast_manager.schedules.systemd import parse_systemd
from lab.tools import require_tool

BERLIN = ZoneInfo("Europe/Berlin")
HAVANA = ZoneInfo("America/Havana")  # changes its clocks at midnight, so that a day may begin at 01:00
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # by half an hour
ZONES = (BERLIN, HAVANA, LORD_HOWE, ZoneInfo("UTC"), ZoneInfo("Asia/Kathmandu"))
YEAR_S = 366 * 86400
_ELAPSE = re.compile(r"(?:Next elapse|Iter\. #\d+): (?:\w{3} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC|(never))")


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def told(text: str, begin: str, count: int, zone: ZoneInfo = BERLIN) -> list[str]:
    """The next so many starts, as a clock in the zone shows them."""
    moment, found = at(begin, zone), []
    occurrences = parse_start(text)
    for _ in range(count):
        moment = occurrences.after(moment, zone)
        found.append(f"{datetime.fromtimestamp(moment, zone):%a %m-%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("daily 22:00", ["Fri 10-30 22:00", "Sat 10-31 22:00", "Sun 11-01 22:00"]),
        ("daily 06:00, 18:00", ["Fri 10-30 18:00", "Sat 10-31 06:00", "Sat 10-31 18:00"]),
        ("Mon-Fri 22:00", ["Fri 10-30 22:00", "Mon 11-02 22:00", "Tue 11-03 22:00"]),
        ("sat,sun 04:30", ["Sat 10-31 04:30", "Sun 11-01 04:30", "Sat 11-07 04:30"]),
        ("monthly 1, 15 03:00", ["Sun 11-01 03:00", "Sun 11-15 03:00", "Tue 12-01 03:00"]),
        ("monthly last 03:00", ["Sat 10-31 03:00", "Mon 11-30 03:00", "Thu 12-31 03:00"]),
        ("monthly first sat 03:00", ["Sat 11-07 03:00", "Sat 12-05 03:00", "Sat 01-02 03:00"]),
        ("monthly last fri 23:15", ["Fri 10-30 23:15", "Fri 11-27 23:15", "Fri 12-25 23:15"]),
        ("every 4 h", ["Fri 10-30 16:00", "Fri 10-30 20:00", "Sat 10-31 00:00"]),
        ("every 5h", ["Fri 10-30 15:00", "Fri 10-30 20:00", "Sat 10-31 00:00"]),
        ("cron 30 6 * * 1", ["Mon 11-02 06:30", "Mon 11-09 06:30", "Mon 11-16 06:30"]),
        ("calendar *-*~02 01:00", ["Sun 11-29 01:00", "Wed 12-30 01:00", "Sat 01-30 01:00"]),
        ("calendar Mon 12:00 America/New_York", ["Mon 11-02 18:00", "Mon 11-09 18:00", "Mon 11-16 18:00"]),
    ],
)
def test_each_form_names_its_moments(text: str, expected: list[str]) -> None:
    assert told(text, "2026-10-30 12:00", 3) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "daily", "daily 24:00", "daily 2:00", "22:00", "mon-xyz 10:00", "monthly 03:00", "monthly 32 03:00",
        "monthly last sat", "monthly fifth sat 03:00", "every", "every 10 s", "every 25 h", "every 90.5 s", "cron",
        "cron 60 * * * *", "cron * * * *", "cron 5-1 * * * *", "cron */0 * * * *", "cron 0 0 L * *", "calendar",
        "calendar Sat..Mon", "calendar *-13-01", "calendar 12:00:00.5", "calendar */2:00", "calendar 22..2:00",
        "calendar *-*-~3", "calendar 12:00 Nowhere/City", "calendar *-*~0", "daily 06:00 18:30", "nightly 22:00",
        "calendar @0", "cron 1..5 * * * *", "calendar 1-5:00:00", "daily ²2:00", "cron ٣ * * * *x",
    ],
)  # fmt: skip
def test_what_is_no_start_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_start(text)


# --- clocks that change -------------------------------------------------------------------------------------------


def test_a_time_that_clocks_skip_is_made_up_for_at_once() -> None:
    assert told("daily 02:30", "2026-03-28 12:00", 2) == ["Sun 03-29 03:00", "Mon 03-30 02:30"]
    assert told("daily 00:30", "2026-03-07 12:00", 2, HAVANA) == ["Sun 03-08 01:00", "Mon 03-09 00:30"]


def test_a_time_that_clocks_show_twice_counts_once_unless_every_hour_counts() -> None:
    assert told("daily 02:30", "2026-10-24 12:00", 2) == ["Sun 10-25 02:30", "Mon 10-26 02:30"]
    assert parse_start("daily 02:30").after(at("2026-10-24 12:00"), BERLIN) == at("2026-10-25 02:30", fold=0)
    assert told("cron 30 * * * *", "2026-10-25 01:45", 3) == ["Sun 10-25 02:30", "Sun 10-25 02:30", "Sun 10-25 03:30"]
    assert told("every 1 h", "2026-10-25 01:45", 3) == ["Sun 10-25 02:00", "Sun 10-25 02:00", "Sun 10-25 03:00"]


parts = st.builds(
    Calendar,
    weekdays=st.one_of(st.just(frozenset(range(7))), st.frozensets(st.integers(0, 6), min_size=1)),
    days=st.one_of(st.just(frozenset(range(1, 32))), st.frozensets(st.integers(1, 31), min_size=5)),
    last_days=st.frozensets(st.integers(1, 31), max_size=3),
    hours=st.one_of(st.just(frozenset(range(24))), st.frozensets(st.integers(0, 23), min_size=1)),
    minutes=st.frozensets(st.sampled_from((0, 5, 29, 30, 59)), min_size=1),
    either=st.booleans(),
)
changes = st.sampled_from(
    ["2026-03-29", "2026-10-25", "2026-03-08", "2026-11-01", "2026-04-05", "2026-10-04", "2026-06-01"]
)


@settings(max_examples=60, deadline=None)
@given(parts, changes, st.sampled_from(ZONES), st.integers(0, 1440))
def test_no_moment_is_missed_and_none_is_made_up(calendar: Calendar, day: str, zone: ZoneInfo, minute: int) -> None:
    """Compared with a look at the clock in each minute of three days."""
    begin = at(day, zone) - 86400 + minute * 60
    begin -= begin % 60
    end = begin + 3 * 86400
    expected, shown = [], set()
    for moment in range(int(begin) + 60, int(end) + 1, 60):
        here = datetime.fromtimestamp(moment, zone)
        before = datetime.fromtimestamp(moment - 60, zone)
        jump = here.replace(tzinfo=None) - before.replace(tzinfo=None)
        # what clocks have skipped between the last minute and this one, and this one
        walls = [
            before.replace(tzinfo=None) + timedelta(minutes=n)
            for n in range(1, max(1, int(jump.total_seconds() // 60)))
        ]
        wall = here.replace(tzinfo=None)
        again = wall in shown or (here.fold == 1)
        shown.add(wall)
        if ((not again or len(calendar.hours) == 24) and fits(calendar, wall)) or any(fits(calendar, w) for w in walls):
            expected.append(float(moment))
    found, moment = [], begin
    while (moment := calendar.after(moment, zone) or end + 1) <= end:
        found.append(moment)
    assert found == expected


def fits(calendar: Calendar, wall: datetime) -> bool:
    return wall.hour in calendar.hours and wall.minute in calendar.minutes and calendar.has_day(wall.date())


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 1440), changes, st.sampled_from(ZONES), st.integers(0, 86400))
def test_intervals_never_pause_for_longer_and_meet_every_midnight(
    minutes: int, day: str, zone: ZoneInfo, second: int
) -> None:
    moment = at(day, zone) - 86400 + second
    for _ in range(40):
        following = Every(minutes * 60).after(moment, zone)
        assert moment < following <= moment + minutes * 60
        moment = following
        if moment > at(day, zone) + 2 * 86400:
            break


def test_what_never_comes_is_known_at_once() -> None:
    assert parse_start("cron 0 0 30 2 *").after(at("2026-01-01"), BERLIN) is None
    assert parse_start("calendar 2020-01-01").after(at("2026-01-01"), BERLIN) is None
    assert told("calendar Sun *-02-29", "2026-01-01", 1) == ["Sun 02-29 00:00"]
    assert parse_start("daily 03:00").after(-1e9, BERLIN) is not None


# --- others' reading of the same --------------------------------------------------------------------------------


def test_systemd_reads_its_expressions_in_the_same_way() -> None:
    program = require_tool("systemd-analyze", "systemd")
    rng = random.Random(7)
    expressions = [
        "minutely",
        "hourly",
        "daily",
        "weekly",
        "monthly",
        "yearly",
        "quarterly",
        "semiannually",
        "annually",
    ]
    expressions += ["01:00..03", "10-15", "0/8:10", "2026-12-24 18:00", "Mon", "Tue..Thu", "Mon *-*~07/1 10:00"]
    expressions += [_systemd_expression(rng) for _ in range(120)]
    begin = "2026-02-27 10:17:23"
    ran = subprocess.run(
        [program, "calendar", "--iterations=6", f"--base-time={begin}", *expressions],
        capture_output=True, text=True, check=True, env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
    )  # fmt: skip
    blocks = ran.stdout.strip().split("\n\n")
    assert len(blocks) == len(expressions)
    for expression, block in zip(expressions, blocks, strict=True):
        expected = [found[1] for found in _ELAPSE.finditer(block) if found[1]]
        moment, mine = datetime.fromisoformat(begin).replace(tzinfo=UTC).timestamp(), []
        while len(mine) < 6 and (moment := parse_systemd(expression).after(moment, ZoneInfo("UTC"))) is not None:
            mine.append(f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S}")
        assert mine[: len(expected)] == expected, expression
        assert len(mine) == len(expected) or datetime.fromtimestamp(moment, UTC).year > 2150, expression


def _systemd_expression(rng: random.Random) -> str:
    days = rng.choice(["", "", "Mon ", "Mon..Fri ", "Sat,Sun ", "Tue,Thu..Sat "])
    year = rng.choice(["*", "*", "2026..2028", "2026/2"])
    month = rng.choice(["*", "*", "02", "1,7", "3..9/3", "4/4"])
    day = rng.choice(["-*", "-*", "-01", "-1,15", "-10..20", "-5/7", "~01", "~07/1", "~3", "-31"])
    hour, minute, second = (_systemd_part(rng, top) for top in (23, 59, 59))
    time = rng.choice(["", f" {hour}:{minute}", f" {hour}:{minute}:{second}"])
    return f"{days}{year}-{month}{day}{time}"


def _systemd_part(rng: random.Random, top: int) -> str:
    low, high = sorted(rng.sample(range(top + 1), 2))
    return rng.choice(["*", f"{low:02}", f"{low},{high}", f"{low}..{high}", f"{low}/{rng.randint(1, 9)}", "0/5"])


def test_cron_expressions_mean_what_others_make_of_them() -> None:
    rng = random.Random(11)
    begin = datetime(2026, 2, 27, 10, 17, 23, tzinfo=UTC)
    for _ in range(200):
        expression = _cron_expression(rng)
        theirs = croniter(expression, begin)
        moment = begin.timestamp()
        for _ in range(5):
            moment = parse_cron(expression).after(moment, ZoneInfo("UTC"))
            assert datetime.fromtimestamp(moment, UTC) == theirs.get_next(datetime), expression


def _cron_expression(rng: random.Random) -> str:
    def part(low: int, high: int) -> str:
        first, last = sorted(rng.sample(range(low, high + 1), 2))
        return rng.choice(["*", str(first), f"{first},{last}", f"{first}-{last}", f"{first}-{last}/2"])

    day = rng.choice(["*", "1", "1,15", "10-20", "28"])
    weekday = rng.choice(["*", "1-5", "0", "7", "sat,sun", "mon"])
    minute, hour, month = (rng.choice(each) for each in (("*/7", part(0, 59)), ("*/5", part(0, 23)), ("*", "jan-jun")))
    return f"{minute} {hour} {day} {month} {weekday}"
