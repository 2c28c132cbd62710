"""The options of a server."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

import msgspec

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class ProxmoxOptions(msgspec.Struct, frozen=True):
    """``host`` and ``port``: any node of the cluster. ``user`` with its realm and ``token_name`` name the API token,
    whose value is the credential ``token``. ``ca_file``: whom to trust, if not the system's authorities. ``node`` and
    ``storage``: where restored VMs go, if not where they came from. ``timeout``: seconds for an answer;
    ``task_timeout``: for a task of the cluster, such as the removal of a snapshot.
    """

    host: str
    user: Annotated[str, msgspec.Meta(pattern=r"^[^@:!\s]{1,60}@[A-Za-z0-9._-]{1,32}$")]
    token_name: Name
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 8006
    ca_file: str = ""
    node: Name | None = None
    storage: Name | None = None
    timeout: Annotated[int, msgspec.Meta(ge=1, le=600)] = 30
    task_timeout: Annotated[int, msgspec.Meta(ge=1, le=86400)] = 3600

    def __post_init__(self) -> None:
        if self.ca_file and not PurePosixPath(self.ca_file).is_absolute():
            raise ValueError("ca_file must be an absolute path")
