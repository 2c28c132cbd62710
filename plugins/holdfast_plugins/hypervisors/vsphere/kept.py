"""What a restore point keeps of a VM's configuration: all of it, in the XML of the API, so that nothing is forgotten.

The configuration names networks by references that mean nothing elsewhere; their names are kept beside it.
"""

from __future__ import annotations

from typing import Any
from xml.parsers.expat import ExpatError

import msgspec

from holdfast_agent.errors import UsageError

from .connection import Connection


class KeptConfig(msgspec.Struct, frozen=True, tag="vsphere-1"):
    """The content of ``VmInfo.config``. ``xml``: a VirtualMachineConfigInfo. ``networks``: names by object id.

    ``folder``, ``pool``: the paths that it was at.
    """

    xml: str
    networks: dict[str, str] = {}
    folder: str = ""
    pool: str = ""


def kept_config(connection: Connection, config: Any) -> KeptConfig:
    """With the configuration alone."""
    from pyVmomi.SoapAdapter import SerializeToStr

    return KeptConfig(SerializeToStr(config, version=connection.version))


def parse_kept(config: bytes) -> KeptConfig | None:
    """None for what another kind of hypervisor has written."""
    try:
        return msgspec.json.decode(config, type=KeptConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def config_of(connection: Connection, kept: KeptConfig) -> Any:
    """The VirtualMachineConfigInfo again. Raises :class:`UsageError`."""
    from pyVmomi.SoapAdapter import Deserialize

    vim = connection.vim
    try:
        return Deserialize(kept.xml, vim.vm.ConfigInfo)
    except (ExpatError, AttributeError, TypeError, ValueError, KeyError) as error:
        raise UsageError(reason=f"the configuration in the restore point cannot be read: {error}"[:300]) from error
