"""Metrics as Prometheus reads them: the text format, version 0.0.4. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

_PLACE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]+):([0-9]{1,5})")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricKind(StrEnum):
    """A counter only grows, and begins anew with its process; a gauge goes up and down."""

    COUNTER = "counter"
    GAUGE = "gauge"


class Sample(msgspec.Struct, frozen=True):
    """One number. ``labels`` tell apart the samples of one metric."""

    value: float
    labels: dict[str, str] = {}


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """``name``: [a-z_]+, a counter's ends in "_total"; ``text`` says what it is, with the unit. Labels differ."""

    name: str
    text: str
    kind: MetricKind = MetricKind.GAUGE
    samples: tuple[Sample, ...] = ()


def parse_place(text: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:9469" or "[::1]:9469", where metrics are told. Raises ``ValueError``."""
    match = _PLACE.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise ValueError(f"{text!r} is not ADDRESS:PORT, such as 127.0.0.1:9469")
    return match[1].strip("[]"), int(match[2])


def gauge(name: str, text: str, value: float | Iterable[Sample]) -> Metric:
    """A gauge of one number, or of several samples."""
    return Metric(name=name, text=text, samples=_samples(value))


def counter(name: str, text: str, value: float | Iterable[Sample]) -> Metric:
    """A counter of one number, or of several samples."""
    return Metric(name=name, text=text, kind=MetricKind.COUNTER, samples=_samples(value))


def exposition(metrics: Iterable[Metric]) -> bytes:
    """What a scrape is answered. A metric without samples is left out."""
    lines: list[str] = []
    for metric in metrics:
        if metric.samples:
            lines += [f"# HELP {metric.name} {_escaped(metric.text)}", f"# TYPE {metric.name} {metric.kind}"]
            lines += [f"{metric.name}{_labels(sample.labels)} {_number(sample.value)}" for sample in metric.samples]
    return "".join(f"{line}\n" for line in lines).encode()


def _samples(value: float | Iterable[Sample]) -> tuple[Sample, ...]:
    return (Sample(value),) if isinstance(value, (int, float)) else tuple(value)


def _labels(labels: Mapping[str, str]) -> str:
    told = ",".join(f'{name}="{_escaped(value, quoted=True)}"' for name, value in labels.items())
    return f"{{{told}}}" if told else ""


def _escaped(text: str, quoted: bool = False) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
    return escaped.replace('"', '\\"') if quoted else escaped


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
