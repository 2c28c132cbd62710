"""What all messages of the control channel are."""

from __future__ import annotations

import msgspec

from holdfast_agent.errors import ErrorRecord


class Message(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of all messages; the tag on the wire is the class name under the key "type"."""


class Request(Message, frozen=True, tag=True, kw_only=True):
    """Base of what a manager may ask."""


class Reply(Message, frozen=True, tag=True, kw_only=True):
    """Base of what an agent answers."""


class Push(Message, frozen=True, tag=True, kw_only=True):
    """Base of what an agent tells unasked."""


class Done(Reply, frozen=True, tag=True, kw_only=True):
    """Carried out; nothing to say."""


class Failure(Reply, frozen=True, tag=True, kw_only=True):
    """The request failed; the receiver raises ``errors.from_record(error)``."""

    error: ErrorRecord
