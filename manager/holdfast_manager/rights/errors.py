"""Errors of those who let people in."""

from __future__ import annotations

from holdfast_agent.errors import HoldfastError


class AccessRefused(HoldfastError):
    """Nobody who may be let in: unknown, disabled, or without the right proof. Never says which."""

    code = "access_refused"
    message = "{who} is not let in: {reason}"
    action = "An administrator sees by `holdfast user list` who is let in, and by what"
    exit_code = 13
