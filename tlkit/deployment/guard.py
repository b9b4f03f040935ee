"""Who may ask a local server: by host name, by the page that asks, and by token."""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from dataclasses import dataclass

import flask

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN = (
    "/health",
)  # answers without a token, for what restarts servers; /metrics tells how much is asked, and does not
PAGE = "/"  # whose address may hold the token


@dataclass(frozen=True)
class Access:
    """Who may ask.

    host: the address that the server listens at.
    origins: of pages elsewhere that may ask, such as "https://example.org"; "*" for any.
    token: what every request must send; "" for none.
    names: further names of the server, which requests may have as Host, such as "images.example.org"; "*" for any.
    """

    host: str = "127.0.0.1"
    origins: tuple[str, ...] = ()
    token: str = ""
    names: tuple[str, ...] = ()

    @property
    def local(self) -> bool:
        """Whether the server listens to this machine only."""
        return self.host in LOOPBACK


def guard(app: flask.Flask, access: Access) -> None:
    """Refuse what `access` does not allow, and set headers against content sniffing and caching."""

    @app.before_request
    def check() -> flask.Response | None:
        _check_host(flask.request, access)
        _check_origin(flask.request, access)
        if flask.request.method == "OPTIONS":
            return flask.Response(status=204)  # what a browser asks first; the headers are the answer
        _check_token(flask.request, access)
        return None

    @app.after_request
    def set_headers(response: flask.Response) -> flask.Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        response.headers["Referrer-Policy"] = "no-referrer"  # the page's address may hold the token
        response.headers["Vary"] = "Origin"
        origin = flask.request.headers.get("Origin", "")
        if origin and _is_allowed(origin, access):
            response.headers["Access-Control-Allow-Origin"] = origin
            if flask.request.method == "OPTIONS":
                response.headers["Access-Control-Allow-Methods"] = "GET, POST"
                response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
                response.headers["Access-Control-Max-Age"] = "600"
                if flask.request.headers.get("Access-Control-Request-Private-Network"):
                    response.headers["Access-Control-Allow-Private-Network"] = "true"
        return response


def _check_host(request: flask.Request, access: Access) -> None:
    """Against DNS rebinding: a foreign page whose name points here still sends its own name as Host.

    On loopback, names of this machine are allowed. Elsewhere, addresses and the machine's own name are, because no
    foreign page has those; with a token any name is, because such a page does not have the token.
    """
    name = re.sub(r":\d*$|^\[|\](:\d*)?$", "", request.host.lower()).rstrip(".")
    if name in LOOPBACK or "*" in access.names or name in [one.lower() for one in access.names]:
        return
    if not access.local and (access.token or _is_address(name) or name == socket.gethostname().lower()):
        return
    flask.abort(
        403,
        f"This server answers at {access.host}, but the request's host is '{name[:100]}'. If that is its name, allow "
        "it by `allow_host` where the server is started.",
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_origin(request: flask.Request, access: Access) -> None:
    """Refuse to work for other sites' pages. A GET changes nothing, and without permission they cannot read it."""
    origin = request.headers.get("Origin", "")
    own = origin.lower() in (f"http://{request.host}".lower(), f"https://{request.host}".lower())
    elsewhere = bool(origin) and not own
    elsewhere |= not origin and request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
    if elsewhere and request.method not in ("GET", "HEAD") and not _is_allowed(origin, access):
        flask.abort(
            403,
            f"A page of '{origin[:100] or 'another site'}' may not ask this server. "
            "Allow it by `allow_origin` where the server is started.",
        )


def _is_allowed(origin: str, access: Access) -> bool:
    return "*" in access.origins or origin.lower().rstrip("/") in [one.lower().rstrip("/") for one in access.origins]


def _check_token(request: flask.Request, access: Access) -> None:
    if not access.token or request.path in OPEN:
        return
    kind, _, sent = request.headers.get("Authorization", "").partition(" ")
    of_page = request.args.get("token", "") if request.path == PAGE else ""  # elsewhere, addresses are written to logs
    given = sent.strip() if kind.lower() == "bearer" else of_page
    if not hmac.compare_digest(given.encode("utf-8", "replace"), access.token.encode("utf-8")):
        flask.abort(
            401,
            "The token is missing or wrong. Expected the header 'Authorization: Bearer TOKEN', with the token that the "
            "server showed when it started.",
        )
