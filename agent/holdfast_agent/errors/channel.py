"""Errors of the control channel and of the data channel between movers."""

from __future__ import annotations

from .base import HoldfastError


class ChannelError(HoldfastError):
    """Family: something between two processes of Holdfast went wrong."""


class Unreachable(ChannelError):
    """No answer from the other side within the time allowed, or refused in the CURVE handshake."""

    code = "unreachable"
    message = "no answer from {peer} within {timeout_s:g} s: {found}"
    action = (
        "Check that the agent runs, that a firewall lets {peer} through, "
        "and that each side has the other's public key (`holdfast-agent show`)"
    )
    retryable = True

    def __init__(self, *, peer: str, timeout_s: float, found: str = "") -> None:
        """``found``: what the network tells of it, where that was asked."""
        super().__init__(peer=peer, timeout_s=timeout_s, found=found or "it is silent")

    def known_as(self, peer: str) -> Unreachable:
        """The same of a peer whom people know by another name."""
        return Unreachable(**{**self.fields, "peer": peer})  # type: ignore[arg-type]  # its own fields


class ConnectionLost(ChannelError):
    code = "connection_lost"
    message = "the connection to {peer} was lost ({reason})"
    action = "The work is retried; if it keeps happening, look at the agent's log and the network"
    retryable = True


class AgentAway(ChannelError):
    """An agent was lost in the middle of the work and did not come back while what it did for us could live."""

    code = "agent_away"
    message = "the agent {agent} was lost and not back after {waited_s:g} s"
    action = (
        "See that it runs and that this host reaches it (`holdfast doctor`), then run this again; "
        "what it had begun ends by itself"
    )
    retryable = True


class RepositoryAway(AgentAway):
    """It kept the repository that was written to: write sessions there are over, their VMs start anew."""

    code = "repository_away"
    message = "the agent {agent}, which keeps the repository, was lost and not back after {waited_s:g} s"


class VersionMismatch(ChannelError):
    code = "version_mismatch"
    message = "protocol {theirs} of {peer} and protocol {ours} of this side differ in the major version"
    action = "Upgrade the older side"


class MalformedMessage(ChannelError):
    code = "malformed_message"
    message = "malformed message from {peer}: {reason}"
    action = "Use the same version of Holdfast on both sides; if it is, something else is talking on this port"


class MessageTooLarge(ChannelError):
    code = "message_too_large"
    message = "a message of {size_bytes} bytes from {peer} exceeds the limit of {limit_bytes}"
    action = "Use the same version of Holdfast on both sides; if it is, report this as a defect"


class UnknownMessage(ChannelError):
    code = "unknown_message"
    message = "the agent does not know the message {type!r}"
    action = "Upgrade the agent"


class NotAuthorised(ChannelError):
    """The peer's key is known, but it may not do this."""

    code = "not_authorised"
    message = "{peer} may not do this: {reason}"
    action = "Authorise the manager's key on the agent: `holdfast-agent authorize KEY`"
    exit_code = 13


class RoleMissing(ChannelError):
    code = "role_missing"
    message = "the agent {agent} does not have the role {role!r} that {type!r} needs"
    action = "Add the role to its configuration and restart it, or choose another agent"


class RecordRejected(ChannelError):
    """A record on the data channel failed authentication, came twice, or out of order. Ends the connection."""

    code = "record_rejected"
    message = "the data channel received a record that is not authentic ({reason})"
    action = "Somebody or something alters traffic between the movers; the task is retried on a new connection"
    retryable = True


class LeaseUnknown(ChannelError):
    """The lease was never opened here, ran out, or belongs to another manager."""

    code = "lease_unknown"
    message = "there is no lease {lease} on this agent for this manager"
    action = "Nothing has to be done: the task is started anew"
    retryable = True


class MoverDied(ChannelError):
    """A mover process ended without reporting a result."""

    code = "mover_died"
    message = "the {role} mover of task {task} ended unexpectedly ({reason})"
    action = "The task is retried; the agent's log has the details"
    retryable = True
