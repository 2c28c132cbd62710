"""The role that a user of Holdfast needs on a vCenter, and what a user lacks of it.

The names are those of the API (Privileges Reference of the vSphere Web Services API); docs/vsphere.md has the same list
in the words of the vSphere Client.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .connection import Connection
from .watch import Entity

OF_VMS = (
    "VirtualMachine.State.CreateSnapshot",
    "VirtualMachine.State.RemoveSnapshot",
    "VirtualMachine.Config.ChangeTracking",
    "VirtualMachine.Provisioning.DiskRandomRead",
    "VirtualMachine.Provisioning.GetVmFiles",
)
OF_DATASTORES = ("Datastore.Browse", "Datastore.FileManagement")
_AT_ONCE = 200
_SHOWN = 3
Granted = Mapping[str, Mapping[str, bool]]
"""By object id and privilege."""


def missing_rights(connection: Connection, entities: Mapping[str, Entity]) -> Sequence[str]:
    """A sentence for each privilege that backups need and the user lacks somewhere among what it can see."""
    missing = []
    for kind, privileges in (("VirtualMachine", OF_VMS), ("Datastore", OF_DATASTORES)):
        names = {moid: entity.text("name") for moid, entity in entities.items() if entity.kind == kind}
        granted: dict[str, Mapping[str, bool]] = {}
        for some in _cut(sorted(names)):
            granted |= _asked(connection, [connection.object(kind, moid) for moid in some], privileges)
        missing += sentences(granted, privileges, names)
    return missing


def sentences(granted: Granted, privileges: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """What is missing, for people. ``names``: by object id. What nobody has told of is missing."""
    lacking: defaultdict[str, list[str]] = defaultdict(list)
    for moid, name in sorted(names.items(), key=lambda item: item[1]):
        for privilege in privileges:
            if not granted.get(moid, {}).get(privilege):
                lacking[privilege].append(name)
    return [
        f"{privilege} on {_places(lacking[privilege], len(names))}" for privilege in privileges if lacking[privilege]
    ]


def _places(places: Sequence[str], of: int) -> str:
    if len(places) == of:
        return "all" if of > 1 else places[0]
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return ", ".join(places[:_SHOWN]) + more


def _asked(connection: Connection, entities: Sequence[Any], privileges: Sequence[str]) -> Granted:
    wanted = list(privileges)

    def question(content: Any) -> Granted:
        manager, session = content.authorizationManager, content.sessionManager.currentSession.key
        if connection.is_vcenter:
            answers = manager.HasPrivilegeOnEntities(entities, session, wanted)
            return {
                each.entity._GetMoId(): {told.privId: bool(told.isGranted) for told in each.privAvailability}
                for each in answers
            }
        return {
            entity._GetMoId(): dict(zip(wanted, manager.HasPrivilegeOnEntity(entity, session, wanted), strict=True))
            for entity in entities
        }

    return connection.read(question)


def _cut(identifiers: Sequence[str]) -> Iterable[Sequence[str]]:
    return (identifiers[at : at + _AT_ONCE] for at in range(0, len(identifiers), _AT_ONCE))
