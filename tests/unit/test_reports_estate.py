"""The report over everything: who is protected, what happened, how it grew; one page that does no harm."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_agent.model.ids import new_sid
from holdfast_agent.model.stats import StageTimes, TransferCounters
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.overview import Overview, Stored, Totals, VmPoints, Worked
from holdfast_manager.catalog.values import (
    JobSpec,
    PointEntryRow,
    PointState,
    SessionKind,
    SessionResult,
    TaskEntry,
)
from holdfast_manager.cli.main import run
from holdfast_manager.reports.charts import Series, columns, lines
from holdfast_manager.reports.estate import EstateReport, estate_report
from holdfast_manager.reports.estate_html import estate_html
from holdfast_manager.reports.protection import VmState, vm_lines
from holdfast_plugins.api import VmRef
from lab.pages import assert_harmless

NOW, DAY, HOUR = 1_800_000_000.0, 86400.0, 3600.0
EVIL = "</td><script>alert(1)</script>&\"'\x1b[0m"


def known(vm_id: str, last_good: float | None, server: str = "lab") -> VmPoints:
    return VmPoints(server=server, vm_id=vm_id, vm_name=f"vm {vm_id}", count=2, suspect=1, last_good=last_good)


def test_who_is_protected() -> None:
    points = [
        known("fresh", NOW - HOUR),
        known("edge", NOW - DAY),
        known("old", NOW - DAY - 1),
        known("doubtful", None),
        known("removed", NOW - HOUR),
        known("elsewhere", NOW - HOUR, "silent"),
    ]
    inventory = {"lab": [VmRef(name, name) for name in ("fresh", "edge", "old", "doubtful", "new")]}
    found = {line.vm_id: line.state for line in vm_lines(points, inventory, NOW, DAY)}
    assert found == {
        "new": VmState.UNPROTECTED, "doubtful": VmState.UNPROTECTED, "old": VmState.LATE, "fresh": VmState.PROTECTED,
        "edge": VmState.PROTECTED, "elsewhere": VmState.PROTECTED, "removed": VmState.GONE,
    }  # fmt: skip
    assert list(found)[:3] == ["new", "doubtful", "old"] or list(found)[:3] == ["doubtful", "new", "old"]


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.none() | st.floats(0, NOW)),
    st.none() | st.sets(st.sampled_from("abcdef")),
    st.floats(1, NOW),
)
def test_every_vm_has_one_line(points: dict[str, float | None], there: set[str] | None, rpo_s: float) -> None:
    inventory = {} if there is None else {"lab": [VmRef(name, name) for name in sorted(there)]}
    found = vm_lines([known(name, last) for name, last in points.items()], inventory, NOW, rpo_s)
    assert sorted(line.vm_id for line in found) == sorted(points.keys() | (there or set()))
    for line in found:
        if line.state is VmState.PROTECTED:
            assert line.last_good is not None
            assert NOW - line.last_good <= rpo_s


@pytest.fixture
def report() -> EstateReport:
    counters = TransferCounters(read_bytes=100, elapsed_s=2, stages=StageTimes(source_s=1, target_s=2))
    return estate_report(
        since=NOW - 2 * DAY,
        until=NOW,
        rpo_s=DAY,
        vms=vm_lines([known(EVIL, None)], {}, NOW, DAY),
        sessions=(),
        stored=[Stored("main", NOW - 9 * DAY, 1000), Stored("main", NOW - DAY, 10), Stored(EVIL, NOW, 5)],
        worked=[Worked("web", counters, 3.0), Worked("web", counters, 1.0), Worked("idle", TransferCounters(), 0.0)],
        silent={"lab": EVIL},
    )


def test_growth_counts_what_was_there_before(report: EstateReport) -> None:
    assert len(report.days) == 3
    assert report.grown == {"main": [1000, 1010, 1010], EVIL: [0, 0, 5]}


def test_the_bottleneck_of_a_job_is_its_busiest_stage(report: EstateReport) -> None:
    idle, web = report.jobs
    assert (web.job, web.tasks, web.total.read_bytes, web.waited_s, web.bottleneck) == ("web", 2, 200, 4.0, "target")
    assert web.load == "Source 50% > Proxy 0% > Network 0% > Target 100%"
    assert (idle.bottleneck, idle.load) == ("", "")


def test_the_page_does_no_harm_and_says_what_is(report: EstateReport) -> None:
    page = estate_html(report)
    assert_harmless(page, "</td><script>alert(1)</script>")
    assert "\x1b" not in page
    assert "1 unprotected" in page
    nothing = estate_report(since=NOW, until=NOW, rpo_s=1, vms=[], sessions=[], stored=[], worked=[], silent={})
    assert_harmless(estate_html(nothing), "Nothing was backed up")


@given(st.lists(st.floats(0, 1e15), min_size=1, max_size=40))
def test_charts_stay_within_their_frame(values: list[float]) -> None:
    days = [str(number) for number in range(len(values))]
    series = [Series("a", "#000", tuple(values)), Series("b", "#111", tuple(values[::-1]))]
    for chart in (columns("c", days, series, str), lines("l", days, series, str)):
        assert_harmless(chart)
        assert "nan" not in chart
        assert "inf" not in chart
        for part in chart.split('y="')[1:]:
            assert -0.1 <= float(part.partition('"')[0]) <= 220.1


@pytest.mark.both_databases
def test_the_catalogue_is_asked_for_all_of_it(stocked: Catalog, clock) -> None:
    stocked.jobs.add(JobSpec(name="db", server="lab", include=("db*",), repository="main"))
    old = stocked.sessions.begin_job("db").id
    stocked.sessions.end(old, SessionResult.FAILED)
    clock.pass_time(DAY)
    session = stocked.sessions.begin_job("web").id
    task = TaskEntry(
        session=session, vm_id="v", vm_name="v", disk_id="d", disk_name="d", state="done", queue_wait_s=2.5
    )
    stocked.tasks.add([msgspec.structs.replace(task, counters=TransferCounters(read_bytes=7)), task])
    stocked.sessions.end(session, SessionResult.SUCCESS)
    verify = stocked.sessions.begin(SessionKind.VERIFY, {}).id
    stocked.tasks.add([msgspec.structs.replace(task, session=verify)])
    points = [
        PointEntryRow(
            sid=new_sid(), repository="main", server="lab", job="web", vm_id=vm_id, vm_name=vm_id, created=created,
            size_bytes=9, stored_bytes=3, state=state, undo_until=undo,
        )
        for vm_id, created, state, undo in (
            ("a", 5.0, PointState.OK, None),
            ("a", 7.0, PointState.SUSPECT, None),
            ("a", 9.0, PointState.OK, 99.0),
            ("b", 6.0, PointState.SUSPECT, None),
        )
    ]  # fmt: skip
    for point in points:
        stocked.points.add(point)
    overview = Overview(stocked.database)
    assert overview.vms() == (
        VmPoints(server="lab", vm_id="a", vm_name="a", count=2, suspect=1, last_good=5.0),
        VmPoints(server="lab", vm_id="b", vm_name="b", count=1, suspect=1, last_good=None),
    )
    assert overview.totals() == (Totals("main", points=3, size_bytes=27, stored_bytes=9),)
    assert [row.created for row in stocked.points.of_vm("lab", "a")] == [7.0, 5.0]
    assert overview.stored() == tuple(Stored("main", created, 3) for created in (5.0, 6.0, 7.0))
    assert [entry.id for entry in overview.sessions(clock.now - HOUR)] == [verify, session]
    assert [entry.id for entry in overview.sessions(0)] == [verify, session, old]
    assert [(each.job, each.counters.read_bytes, each.queue_wait_s) for each in overview.worked(clock.now - HOUR)] == [
        ("web", 7, 2.5), ("web", 0, 2.5),
    ]  # fmt: skip


def test_the_command_writes_a_page_and_asks_the_servers(
    stocked: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vms = tmp_path / "vms"
    (vms / "web").mkdir(parents=True)
    (vms / "web" / "disk.raw").write_bytes(bytes(1 << 20))
    stocked.servers.update(msgspec.structs.replace(stocked.servers.get("lab"), options={"path": str(vms)}))
    (tmp_path / "manager.toml").touch()
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOLDFAST_CONFIG", str(tmp_path / "manager.toml"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    page = tmp_path / "page.html"
    page.write_text("old")
    assert run(["report", str(page), "--output", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report"]["states"] == {"unprotected": 1, "late": 0, "protected": 0, "gone": 0}
    assert_harmless(page.read_text(), "unprotected")
    assert run(["report", str(tmp_path / "no" / "page.html")]) == 2
    assert run(["report", str(page), "--no-inventory", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"]["vms"] == []
    assert {path.name for path in tmp_path.iterdir()} == {"vms", "manager.toml", "home", "page.html"}
