"""Which VMs bear which tags: the tagging services of a vCenter, which only its REST interface has.

Tags change seldom and no filter tells of them, so they are read each time somebody asks: two requests, and one for
each tag and each category (vSphere Automation API, com.vmware.cis.tagging).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from holdfast_agent.errors import HypervisorUnreachable

from .connection import Connection

_BASE = "/rest/com/vmware/cis"
_MOST_BYTES = 64 << 20


class _Named(msgspec.Struct, frozen=True):
    name: str
    category_id: str = ""


class _Object(msgspec.Struct, frozen=True):
    type: str
    id: str


class _Attached(msgspec.Struct, frozen=True):
    tag_id: str
    object_ids: tuple[_Object, ...] | None = None


def tagged_vms(connection: Connection) -> Mapping[str, list[str]]:
    """By object id of a VM its tags, as "category/tag". Raises ``HypervisorUnreachable``."""
    tagged: defaultdict[str, list[str]] = defaultdict(list)
    with _session(connection) as rest:
        identifiers = rest.ask("GET", "/tagging/tag", list[str] | None)
        if not identifiers:
            return {}
        tags = {each: rest.ask("GET", f"/tagging/tag/id:{quote(each, safe=':')}", _Named) for each in identifiers}
        categories = {
            each: rest.ask("GET", f"/tagging/category/id:{quote(each, safe=':')}", _Named).name
            for each in {tag.category_id for tag in tags.values()}
        }
        path = "/tagging/tag-association?~action=list-attached-objects-on-tags"
        for attached in rest.ask("POST", path, list[_Attached] | None, {"tag_ids": identifiers}) or ():
            tag = tags[attached.tag_id]
            for bearer in attached.object_ids or ():
                if bearer.type == "VirtualMachine":
                    tagged[bearer.id].append(f"{categories[tag.category_id]}/{tag.name}")
    return tagged


class _Rest:
    """One session with the REST interface. Not thread-safe."""

    def __init__(self, http_connection: http.client.HTTPSConnection, server: str) -> None:
        self._http = http_connection
        self._server = server
        self.headers = {"Content-Type": "application/json"}

    def ask(self, method: str, path: str, kind: Any, body: Any = None) -> Any:
        """The value of an answer, checked to be of ``kind``. Raises ``HypervisorUnreachable``."""
        data = msgspec.json.encode(body) if body is not None else None
        try:
            self._http.request(method, _BASE + path, data, self.headers)
            response = self._http.getresponse()
            text = response.read(_MOST_BYTES)
            if response.status != 200:
                raise HypervisorUnreachable(server=self._server, reason=f"asked for tags it answers {response.status}")
            value = msgspec.json.decode(text, type=dict[str, msgspec.Raw])["value"]
            return msgspec.json.decode(value, type=kind)
        except (OSError, http.client.HTTPException, msgspec.MsgspecError, KeyError) as error:
            raise HypervisorUnreachable(server=self._server, reason=f"its tags: {error}"[:300]) from error


@contextlib.contextmanager
def _session(connection: Connection) -> Iterator[_Rest]:
    http_connection = connection.web()
    user, password = connection.credentials
    try:
        rest = _Rest(http_connection, connection.server)
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        rest.headers["Authorization"] = f"Basic {token}"
        identifier = rest.ask("POST", "/session", str)
        del rest.headers["Authorization"]
        rest.headers["vmware-api-session-id"] = identifier
        try:
            yield rest
        finally:
            with contextlib.suppress(OSError, http.client.HTTPException):
                http_connection.request("DELETE", f"{_BASE}/session", headers=rest.headers)
                http_connection.getresponse().read(_MOST_BYTES)
    finally:
        http_connection.close()
