"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from holdfast_agent.config.load import DEFAULT_FILE, ENVIRONMENT_NAME

F = TypeVar("F", bound=Callable[..., object])


def config_option(command: F) -> F:
    """--config FILE, given to the command as ``config: Path | None``."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help=f"Configuration file  [default: ${ENVIRONMENT_NAME}, else {DEFAULT_FILE}]",
    )(command)
