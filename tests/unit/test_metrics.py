"""Metrics are read as they were meant, by Prometheus's own parser; no reader can do harm."""

from __future__ import annotations

import http.client
import math
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from holdfast_agent.channel import metrics_endpoint
from holdfast_agent.channel.metrics_endpoint import MetricsEndpoint
from holdfast_agent.model.metrics import Metric, Sample, counter, exposition, gauge, parse_place
from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.values import SessionKind, SessionResult
from holdfast_manager.scheduler.slots import SlotLedger, Wish
from holdfast_manager.service.metrics import ServiceMetrics

NAMES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r"), max_size=20)


def read(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Name and labels → value, by Prometheus's parser."""
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


@given(NAMES, st.dictionaries(NAMES, st.floats(allow_nan=False)))
def test_a_parser_reads_what_was_written(text: str, values: dict[str, float]) -> None:
    samples = [Sample(value, {"name": name}) for name, value in values.items()]
    found = read(exposition([gauge("holdfast_x", text, samples), counter("holdfast_y_total", text, 5)]))
    wanted = {("holdfast_x", frozenset({("name", name)})): value for name, value in values.items()}
    assert found.pop(("holdfast_y_total", frozenset())) == 5
    assert found.keys() == wanted.keys()
    assert all(math.isclose(found[key], value, rel_tol=1e-15, abs_tol=0) for key, value in wanted.items())


@pytest.mark.parametrize("place", ["", "9469", "host", "host:70000", "::1:80", "http://host:80", "a b:80"])
def test_a_place_is_an_address_and_a_port(place: str) -> None:
    assert parse_place("[::1]:0") == ("::1", 0)
    with pytest.raises(ValueError, match="ADDRESS:PORT"):
        parse_place(place)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsEndpoint]:
    monkeypatch.setattr(metrics_endpoint, "_REQUEST_S", 0.2)
    made = MetricsEndpoint("127.0.0.1:0", lambda: [gauge("holdfast_x", "It.", 1)])
    yield made
    made.close()
    made.close()


def ask(port: int, method: str = "GET", path: str = "/metrics") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_metrics_are_at_one_place(endpoint: MetricsEndpoint) -> None:
    status, body = ask(endpoint.port)
    assert (status, read(body)) == (200, {("holdfast_x", frozenset()): 1})
    assert ask(endpoint.port, path="/metrics?name=x") == (status, body)
    assert ask(endpoint.port, "HEAD") == (200, b"")
    assert ask(endpoint.port, path="/")[0] == ask(endpoint.port, path="/../../etc/passwd")[0] == 404
    assert ask(endpoint.port, "POST")[0] == 405


@pytest.mark.parametrize(
    "bad", [b"", b"\r\n\r\n", b"GET", b"\x16\x03\x01" + bytes(500), b"x" * 20_000, b"GET /metrics"]
)
def test_bad_readers_leave_it_as_it_was(endpoint: MetricsEndpoint, bad: bytes) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.port)) as reader:
        reader.sendall(bad)
    with socket.create_connection(("127.0.0.1", endpoint.port)) as silent:
        assert ask(endpoint.port)[0] == 200
        assert silent.recv(10) == b"", "it was waited for no longer than a moment"


def test_what_cannot_be_collected_costs_one_scrape() -> None:
    answers = iter([ZeroDivisionError(), [gauge("holdfast_x", "It.", 1)]])

    def collect() -> list[Metric]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    endpoint = MetricsEndpoint("127.0.0.1:0", collect)
    assert (ask(endpoint.port)[0], ask(endpoint.port)[0]) == (503, 200)
    endpoint.close()
    with pytest.raises(ConnectionRefusedError):
        ask(endpoint.port)


@pytest.mark.both_databases
def test_the_service_tells_what_the_catalogue_knows(stocked: Catalog, clock) -> None:
    ended = stocked.sessions.end(stocked.sessions.begin_job("web").id, SessionResult.SUCCESS)
    old = stocked.sessions.begin(SessionKind.VERIFY, {}).id
    metrics = ServiceMetrics(stocked)
    ledger = SlotLedger(stocked, clock)
    session = stocked.sessions.begin_job("web").id
    for task in range(4):
        ledger.request(session, task, Wish(proxies=(("a",),), repository="main"))
    ledger.poll(session)
    stocked.obligations.write(session, "lab", "images", "snapshot", {})

    def value(name: str, **labels: str) -> float | None:
        return read(exposition(metrics.collect())).get((name, frozenset(labels.items())))

    assert value("holdfast_sessions", kind="backup") == 1
    assert value("holdfast_job_last_result", job="web", result="success") == 1
    assert value("holdfast_job_last_result", job="web", result="failed") == 0
    assert value("holdfast_job_last_end_timestamp_seconds", job="web") == ended.ended
    assert value("holdfast_slots", resource="proxy a") == value("holdfast_slots_used", resource="proxy a") == 2
    assert value("holdfast_tasks_waiting") == 2
    assert value("holdfast_obligations", server="lab") == 1
    assert value("holdfast_sessions_ended_total", kind="backup", result="success") is None, "that was before"
    stocked.sessions.end(session, SessionResult.PARTIAL)
    stocked.sessions.end(old, SessionResult.FAILED)
    for _ in range(2):
        assert value("holdfast_sessions_ended_total", kind="backup", result="partial") == 1
        assert value("holdfast_sessions_ended_total", kind="verify", result="failed") == 1
    stocked.sessions.end(stocked.sessions.begin_job("web").id, SessionResult.PARTIAL)
    assert value("holdfast_sessions_ended_total", kind="backup", result="partial") == 2
    assert value("holdfast_slots_used", resource="proxy a") == 0
