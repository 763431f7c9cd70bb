"""The dashboard's one port: it serves both pages, behind a token.

optuna-dashboard has no prefix of its own, so it stays at the root and the page of runs lies below
`/runs`. The token keeps out other users of the machine, who can reach its ports.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import html
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, urlsplit

from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from data_prep.errors import InputError
from hpo.dashboard.address import ROOT

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PORT = 8050
"""The first port that is tried."""
THREADS = 8
LINK = "/runs-link.js"
"""The script that puts a link to the runs on optuna-dashboard's pages."""

_READS = frozenset({"GET", "HEAD"})
_CONTENT = frozenset({"text/html", "text/csv", "text/plain", "application/json", "image/svg+xml"})
"""Types of answers that tell of the runs, and are no part of the program."""
_GRACE_S = 0.5
"""Time for requests under way to end with the server."""


class ServerError(InputError):
    """A port that cannot be had. The message names it."""


def listen(host: str = "127.0.0.1", port: int | None = None) -> socket.socket:
    """A socket that the server can take requests from.

    Args:
        host: Address or name of this machine.
        port: 0: any free one. None: 8050, or the next one that is free.

    Raises:
        ServerError: If it is taken, or the host is not this machine's.
    """
    for number in [port] if port is not None else range(PORT, PORT + 100):
        try:
            return _bound(host, number)
        except OSError as error:
            if port is not None or not _is_taken(error):
                raise ServerError(_cannot(host, number, error)) from None
    raise ServerError(f"the ports {PORT} to {PORT + 99} of {host} are all taken: give --port 0")


def application(
    runs: WSGIApplication,
    optuna: WSGIApplication | None,
    *,
    token: str,
    allow_edit: bool = False,
    host: str = "127.0.0.1",
    script_hashes: Sequence[str] = (),
) -> WSGIApplication:
    """Both pages behind the token, as one WSGI application.

    Args:
        runs: The page of runs, made for the prefix `/runs/`.
        optuna: optuna-dashboard; None where there is no database.
        token: The first address has to carry it.
        allow_edit: Whether optuna-dashboard may write.
        host: Name or address that the server listens on. Requests to another name are refused.
        script_hashes: CSP hashes of the scripts that stand in the page of runs itself.
    """
    root = _no_database if optuna is None else _guarded(optuna, allow_edit=allow_edit)
    script = Response((Path(__file__).parent / "link.js").read_bytes(), mimetype="text/javascript")
    pages = DispatcherMiddleware(root, {ROOT.rstrip("/"): runs, LINK: script})
    return _Gate(pages, token=token, host=host, policy=_policy(script_hashes))


def serve(wsgi: WSGIApplication, listening: socket.socket) -> None:
    """Answer requests until SIGINT or SIGTERM, then end the requests under way and return."""
    from waitress import create_server, wasyncore

    log = logging.getLogger("waitress")
    log.setLevel(logging.ERROR)  # it would warn of a full queue
    channels: dict[int, Any] = {}
    server = create_server(wsgi, channels, sockets=[listening], threads=THREADS, ident=None)
    with until_ended():
        try:
            wasyncore.loop(map=channels, timeout=1.0, use_poll=True)
        finally:
            server.task_dispatcher.shutdown(timeout=_GRACE_S)
            log.setLevel(logging.CRITICAL + 1)  # requests under way are cut off
            server.close()


@contextlib.contextmanager
def until_ended() -> Iterator[None]:
    """End the body of a `with` at SIGINT or SIGTERM, and go on behind it."""
    before = [(one, signal.signal(one, _end)) for one in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    except _Ended:
        pass
    finally:
        for one, handler in before:
            signal.signal(one, handler)


class _Ended(SystemExit):
    """A signal came. Waitress lets no exception through but an exit."""


def _bound(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    dual = family == socket.AF_INET6
    # It listens at once: a port that is only bound can be bound by another process, too.
    return socket.create_server((host, port), family=family, backlog=128, dualstack_ipv6=dual)


def _is_taken(error: OSError) -> bool:
    return error.errno in (errno.EADDRINUSE, errno.EACCES)


def _cannot(host: str, port: int, error: OSError) -> str:
    if _is_taken(error):
        why = os.strerror(error.errno or 0)
        return f"port {port} of {host} cannot be had ({why}): give another --port, or 0"
    return f"{host} is no address of this machine: give another --host"


def _end(*_: object) -> NoReturn:
    raise _Ended


class _Gate:
    """Lets requests with the token pass, and tells the browser in every answer what is allowed."""

    def __init__(self, pages: WSGIApplication, *, token: str, host: str, policy: str) -> None:
        self._pages = pages
        self._token = token
        self._host = host
        self._headers = {
            "Content-Security-Policy": policy,
            # A window that a page opens elsewhere cannot be handed anything.
            "Cross-Origin-Opener-Policy": "same-origin",
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        answer = self._refused(request) or self._moved(request)
        answer = answer or Response.from_app(self._pages, environ)
        answer.headers.update(self._headers)
        if answer.mimetype in _CONTENT:
            answer.headers["Cache-Control"] = "no-store"
        return answer(environ, start)

    def _refused(self, request: Request) -> Response | None:
        if not _is_here(request.host, self._host):
            # A foreign name that was pointed at this machine, to read with its visitor's rights.
            return _sentence("This server does not answer to that name.", 403)
        cookie = request.cookies.get(_cookie(request), "")
        if not self._is_token(cookie) and not self._has_token(request):
            return _locked(request)
        origin = request.headers.get("Origin")
        if request.method not in _READS and origin and urlsplit(origin).netloc != request.host:
            return _sentence("This was asked for by another page.", 403)
        return None

    def _moved(self, request: Request) -> Response | None:
        """Keep the token of the first address as a cookie, and lead to the address without it."""
        if "token" in request.args:
            parts = request.query_string.decode("latin-1").split("&")
            rest = "&".join(part for part in parts if not part.startswith("token="))
            # A path that begins with two slashes would name another server.
            path = quote("/" + request.path.lstrip("/\\"))
            answer = redirect(f"{path}?{rest}" if rest else path, 303)
            if self._has_token(request):
                answer.set_cookie(_cookie(request), self._token, httponly=True, samesite="Strict")
            return answer
        return redirect(ROOT, 303) if request.path in ("/", ROOT.rstrip("/")) else None

    def _has_token(self, request: Request) -> bool:
        return request.method in _READS and self._is_token(request.args.get("token", ""))

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), self._token.encode())


def _locked(request: Request) -> Response:
    answer = _sentence("Open the address that `hpo dashboard` printed, with its token.", 401)
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        # A link elsewhere led here, and so the browser kept the cookie back: ask again.
        answer.headers["Refresh"] = "0"
    return answer


def _cookie(request: Request) -> str:
    """A browser hands the cookies of a host to all of its ports, of which each has its own."""
    return f"hpo-{urlsplit(f'//{request.host}').port or 80}"


def _is_here(given: str, host: str) -> bool:
    """Whether a Host header names this server: loopback, or what `--host` says."""
    try:
        parts = urlsplit(f"//{given}")
        name, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if name in ("localhost", "127.0.0.1", "::1", host.lower()):
        return True
    if host not in ("0.0.0.0", "::"):
        return False
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return name in (socket.gethostname().lower(), socket.getfqdn().lower())


def _policy(script_hashes: Sequence[str]) -> str:
    """The content security policy of all pages: nothing is loaded from elsewhere.

    Plotly compiles what the graphics card draws (long curves of ours, the parallel coordinates of
    optuna-dashboard), and it and both pages style in place.
    """
    scripts = " ".join(["'self' 'unsafe-eval'", *script_hashes])
    return (
        f"default-src 'self'; script-src {scripts}; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )


PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>hpo</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; font: 1.05rem/1.6 system-ui, sans-serif }}
body {{ max-width: 36rem; margin: 15vh auto; padding: 0 1.5rem }}
</style>
<main><h1>hpo</h1><p>{text}</p><p><a href="{root}">Runs</a></p></main></html>
"""


def _sentence(text: str, status: int) -> Response:
    """A page that says one sentence."""
    page = PAGE.format(text=html.escape(text, quote=False), root=ROOT)
    return Response(page, status, mimetype="text/html")


def _no_database(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    answer = _sentence("There is no such page.", 404)
    if environ["PATH_INFO"].startswith("/dashboard"):
        text = "There is no study database beside these runs, so Optuna has nothing to show."
        answer = _sentence(text, 404)
    return answer(environ, start)


def _guarded(optuna: WSGIApplication, *, allow_edit: bool) -> WSGIApplication:
    """optuna-dashboard, which may only be looked at, with the link to the runs on its pages."""

    def guarded(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in _READS and not allow_edit:
            text = "Nothing can be changed here: hpo dashboard --allow-edit permits it."
            return _sentence(text, 403)(environ, start)
        # Without this header, which not every client sends, its files end in an error.
        environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")
        answer = Response.from_app(optuna, environ)
        if answer.mimetype == "text/html" and answer.status_code == 200:
            _add_link(answer, allow_edit=allow_edit)
        elif answer.mimetype == "text/html" and answer.status_code == 404:
            answer = _sentence("There is no such page.", 404)
        return answer(environ, start)

    return guarded


def _add_link(page: Response, *, allow_edit: bool) -> None:
    kind = "" if allow_edit else " data-read-only"
    tag = f'<script defer src="{LINK}"{kind}></script>'.encode()
    page.data = page.data.replace(b"</body>", tag + b"</body>", 1)
    # These headers describe the page without the link.
    for name in ("Last-Modified", "ETag", "Accept-Ranges"):
        page.headers.pop(name, None)
