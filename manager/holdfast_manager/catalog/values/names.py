"""Names and numbers that many values have."""

from __future__ import annotations

from typing import Annotated

import msgspec

from holdfast_agent.model.strict import NAME_PATTERN

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
"""Names of servers, agents, repositories and jobs: 1 to 64 letters, digits, dots, dashes and underscores."""
PERCENT = r"^(100|[0-9]{1,2}(\.[0-9]+)?) %$"
Slots = Annotated[int, msgspec.Meta(ge=1, le=1024)]
Rate = Annotated[int, msgspec.Meta(ge=1024)]
"""A limit in bytes per second. Less than 1 KiB/s would be a stop, not a limit."""
Milliseconds = Annotated[float, msgspec.Meta(gt=0, le=10_000)]
