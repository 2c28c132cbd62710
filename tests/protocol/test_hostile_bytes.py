"""Whatever bytes a parser is given: the value, or a typed error; never another exception, much memory or much time."""

from __future__ import annotations

import resource
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast_agent.errors import HoldfastError
from lab.mutations import hostile
from lab.parsers import PARSERS, Ground, Parser

MOST_BYTES = 24 << 20
"""What a parser may take besides a few times the length of its input: the largest record, decoded and copied."""

MOST_TIMES_INPUT = 24
MOST_RESIDENT_BYTES = 256 << 20
"""What C libraries take is not told by tracemalloc; argon2id takes 64 MiB here."""

MOST_CPU_S = 2.0
QUICK_EXAMPLES = 60
LONG_EXAMPLES = 10_000


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("parsers"))


@pytest.fixture(autouse=True)
def resident() -> Iterator[None]:
    before = _resident_bytes()
    yield
    assert _resident_bytes() - before < MOST_RESIDENT_BYTES


def _resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def parse(parser: Parser, ground: Ground, data: bytes) -> bool:
    """Whether ``data`` was taken for something."""
    began = time.thread_time()
    tracemalloc.start()
    try:
        parser.parse(ground, data)
        return True
    except HoldfastError as error:
        assert str(error)
        assert error.to_record().code
        return False
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST_BYTES + MOST_TIMES_INPUT * len(data), "it takes too much memory"
        assert time.thread_time() - began < MOST_CPU_S, "it takes too long"


def attack(parser: Parser, ground: Ground, examples: int, repeatable: bool) -> None:
    samples = parser.samples()
    for sample in samples:
        parser.parse(ground, sample)

    @settings(
        max_examples=max(5, examples // parser.cost),
        deadline=None,
        derandomize=repeatable,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=hostile(samples), mended=st.booleans())
    def property_(data: bytes, mended: bool) -> None:
        if mended and parser.mend is not None:
            parse(parser, ground, parser.mend(data))
        else:
            taken = parse(parser, ground, data)
            assert not (taken and parser.sealed) or data in samples, "damage was taken for data"

    property_()


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_every_parser_takes_samples_and_types_its_errors(parser: Parser, ground: Ground) -> None:
    attack(parser, ground, QUICK_EXAMPLES, repeatable=True)


@pytest.mark.soak
@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_every_parser_for_long(parser: Parser, ground: Ground) -> None:
    attack(parser, ground, LONG_EXAMPLES, repeatable=False)


def test_every_sealed_parser_finds_each_flipped_byte(ground: Ground) -> None:
    """Not a matter of chance: each byte of each sample, and each length that it could be cut to."""
    for parser in PARSERS:
        if not parser.sealed or parser.cost > 1:
            continue
        for sample in parser.samples():
            step = max(1, len(sample) // 600)
            for place in range(0, len(sample), step):
                altered = sample[:place] + bytes([sample[place] ^ 1 << place % 8]) + sample[place + 1 :]
                for damaged in (altered, sample[:place], sample + sample[: place + 1]):
                    with pytest.raises(HoldfastError):
                        parser.parse(ground, damaged)
