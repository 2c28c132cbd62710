"""A real agent and a real service tell their metrics; the agent tells its manager how it is."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.installation import Installation
from lab.ports import free_port
from lab.services import service
from lab.waiting import wait_until


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    made.metrics = {"agent": free_port(), "service": free_port()}  # type: ignore[attr-defined]
    for file, who in ((made.agent_config, "agent"), (made.manager_config, "service")):
        with file.open("a") as config:
            config.write(f'[metrics]\nlisten = "127.0.0.1:{made.metrics[who]}"\n')  # type: ignore[attr-defined]
    try:
        made.enrol()
        yield made
    finally:
        made.stop_agent()


def scrape(port: int) -> dict[str, list[tuple[dict[str, str], float]]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = answer.read().decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_metrics_of_agent_and_service_and_health_of_the_agent(house: Installation) -> None:
    agent, leader = (house.metrics[who] for who in ("agent", "service"))  # type: ignore[attr-defined]
    house.add_repository("main", encrypted=False)
    disk = house.vms / "web" / "disk.raw"
    disk.parent.mkdir()
    disk.write_bytes(os.urandom(1 << 20))
    house.add_job("web", repository="main", include="web")
    with service(house):
        wait_until(lambda: scrapes(leader), "the service to lead")
        house.run_job("web")
        told = scrape(leader)
        assert ({"kind": "backup", "result": "success"}, 1.0) in told["holdfast_sessions_ended_total"]
        assert told["holdfast_points"] == [({"repository": "main"}, 1.0)]
        assert told["holdfast_job_newest_point_timestamp_seconds"][0][0] == {"job": "web"}

    def ended() -> set[tuple[str, str]]:
        numbers = scrape(agent).get("holdfast_agent_movers_ended_total", [])
        return {(labels["role"], labels["outcome"]) for labels, _ in numbers}

    wait_until(lambda: ("pair", "done") in ended(), "the end of the movers")
    told = scrape(agent)
    assert ({"role": "proxy"}, 2.0) in told["holdfast_agent_slots"]
    assert {labels["path"] for labels, free in told["holdfast_agent_free_bytes"] if free > 0} >= {str(house.home)}
    assert not scrapes(leader), "who does not lead tells nothing"

    (listed,) = house.holdfast("agent", "list", "--check")["agents"]
    assert abs(listed["clock_ahead_s"]) <= 30  # it is the same clock, but a busy machine answers late
    assert listed["health"]["movers"] == 0
    (space,) = [each for each in listed["health"]["space"] if each["purpose"] == "repository"]
    found = os.statvfs(house.home)
    assert space["size_bytes"] == found.f_blocks * found.f_frsize
    assert 0 < space["free_bytes"] <= space["size_bytes"]


def scrapes(port: int) -> bool:
    try:
        scrape(port)
    except OSError:
        return False
    return True
