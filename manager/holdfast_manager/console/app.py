"""Which page is where, who is let in, and what becomes of what pages raise."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from holdfast_agent.errors import Denied, HoldfastError, Locked, NotFound, UsageError
from holdfast_manager.reports.html import element
from holdfast_manager.rights.actor import Actor
from holdfast_manager.rights.errors import AccessRefused
from holdfast_manager.rights.roles import Right

from .certificate import names_of
from .guard import Guard
from .layout import document
from .logins import Login
from .pages import files, jobs, login, overview, points, resources, sessions, storage, vms
from .parts import link
from .visit import Console, Visit

log = logging.getLogger(__name__)
_STATIC = Path(__file__).parent / "static"
_STATUS: tuple[tuple[type[HoldfastError], int], ...] = (
    (NotFound, 404), (UsageError, 400), (Denied, 403), (Locked, 409),
)  # fmt: skip
Answer = str | bytes | tuple[str, bool] | Response


def application(console: Console) -> ASGIApp:
    """The whole of it, behind the guard."""
    bound = _Doors(console)
    routes = [
        Route("/login", bound.login_form, methods=["GET"]),
        Route("/login", bound.login, methods=["POST"]),
        bound.post("/logout", login.logout),
        bound.get("/", overview.overview),
        bound.get("/live", overview.overview_live),
        bound.get("/vms", vms.vms),
        bound.get("/vm", vms.vm),
        bound.get("/points/{sid:str}", points.point),
        bound.get("/points/{sid:str}/screen", points.picture),
        bound.get("/points/{sid:str}/files", files.files),
        bound.get("/points/{sid:str}/file", files.download),
        bound.get("/sessions", sessions.sessions),
        bound.get("/sessions/{number:int}", sessions.session),
        bound.get("/sessions/{number:int}/live", sessions.session_live),
        bound.post("/sessions/stop", jobs.stop_session),
        bound.get("/jobs", jobs.jobs),
        bound.post("/jobs/run", jobs.run),
        bound.post("/jobs/enable", jobs.enable),
        bound.post("/jobs/disable", jobs.disable),
        bound.get("/storage", storage.storage),
        bound.get("/storage/{name:str}", storage.repository),
        bound.get("/resources", resources.resources),
        bound.get("/resources/live", resources.resources_live),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    inner = Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _defect})
    return Guard(inner, names_of(console.settings.console))


class _Doors:
    """Lets in who is logged in, with the rights of this moment."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def login_form(self, request: Request) -> Response:
        return login.login_form(self._console, request)

    async def login(self, request: Request) -> Response:
        body = await request.body()
        return await run_in_threadpool(_answered, lambda: login.login(self._console, request, body))

    def get(self, path: str, function: Callable[[Visit], Answer]) -> Route:
        """A page, or a part of one."""
        return self._route(path, function, "GET")

    def post(self, path: str, function: Callable[[Visit], Answer]) -> Route:
        """What changes something, and tells where to go on."""
        return self._route(path, lambda visit: _onwards(function(visit)), "POST")

    def _route(self, path: str, function: Callable[[Visit], Answer], method: str) -> Route:
        async def endpoint(request: Request) -> Response:
            body = await request.body() if method == "POST" else b""
            return await run_in_threadpool(_answered, lambda: self._visit(request, body, function))

        return Route(path, endpoint, methods=[method])

    def _visit(self, request: Request, body: bytes, function: Callable[[Visit], Answer]) -> Answer:
        known = self._console.logins.find(request.cookies.get(login.COOKIE, ""))
        actor = None if known is None else self._actor(request, known)
        if known is None or actor is None:
            if request.url.path.endswith("/live"):
                return Response(status_code=401)
            wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            onwards = f"?next={quote(wanted, safe='')}" if request.method == "GET" and wanted != "/" else ""
            return RedirectResponse(f"/login{onwards}", 303)
        visit = Visit(self._console, request, known, actor, body)
        visit.require(Right.VIEW, "use the console")
        return function(visit)

    def _actor(self, request: Request, known: Login) -> Actor | None:
        """None when the user or the token is no more, was disabled, or has another password since."""
        users = self._console.catalog.users
        try:
            user = users.by_token(known.token) if known.token else users.get(known.user)
        except (AccessRefused, NotFound):
            user = None
        if user is None or not user.enabled or not (known.token or users.mark(user.name) == known.mark):
            self._console.logins.end(request.cookies.get(login.COOKIE, ""))
            return None
        return Actor.of(user, login.place_of(request))


def _answered(work: Callable[[], Answer]) -> Response:
    try:
        answer = work()
    except HoldfastError as error:
        return _error(error)
    match answer:
        case Response():
            return answer
        case bytes():
            return Response(answer, media_type="image/png")
        case (str(part), bool(over)):
            return HTMLResponse(part, headers={"X-Over": "1"} if over else {})
        case _:
            return HTMLResponse(str(answer))


def _onwards(answer: Answer) -> Response:
    return answer if isinstance(answer, Response) else RedirectResponse(str(answer), 303)


def _error(error: HoldfastError) -> Response:
    status = next((number for kind, number in _STATUS if isinstance(error, kind)), 503 if error.retryable else 500)
    if status == 500:
        log.warning("a page could not be made: %s", error)
    return _told(error.text, error.advice, status)


def _told(text: str, advice: str, status: int) -> Response:
    more = element("p", advice) if advice else ""
    back = element("p", link("/", "To the overview"))
    main = element("main", element("h1", f"{text[:1].upper()}{text[1:]}"), more, back, id="content", tabindex="-1")
    return HTMLResponse(document(f"Error {status}", main), status)


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _told("There is no such page" if status == 404 else "This cannot be asked for so", "", status)


async def _defect(_request: Request, _error: Exception) -> Response:
    """What it was stands in the log: the server logs what is raised."""
    return _told("This is a defect of the console", "Please report it with the service's log.", 500)
