"""The parts of leaving out what nobody needs: checksums."""

from __future__ import annotations

from holdfast_agent.filesystems.crc32c import crc32c


def test_the_checksum_of_the_standard_s_example() -> None:
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283
    assert crc32c(b"6789", crc32c(b"12345")) == crc32c(b"123456789")
