"""Who may ask, and for how much: checks before any request is handled, and headers on every answer.

The page's own address is the only origin. Another site in the same browser can reach a server on this
machine; the token, the origin and the host (against DNS rebinding) each keep it out.
"""

import json
import secrets
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY = 40 * 2**20  # bytes of a request
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class TooLarge(Exception):
    """A body of more than MOST_BODY bytes that did not announce its length."""


class Guard:
    """Middleware around the whole app. token: what the header `Authorization: Bearer` must hold for /api."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = self.refusal(scope)
        if refused is not None:
            await refused(scope, receive, answer)
            return
        try:
            await self.app(scope, limited(receive), answer)
        except TooLarge:
            await too_large()(scope, receive, answer)
        except ClientDisconnect:
            return

    def refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that is not let in."""
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD") and not is_from_here(headers):
            return problem(403, "This request comes from another site.", "Use the page itself.")
        if scope["path"].startswith("/api/"):
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not secrets.compare_digest(given.encode("latin-1", "replace"), self.token.encode()):
                return problem(
                    403, "The server does not know this page.", "Open the link that diffedit serve printed."
                )
        length = headers.get("content-length", "0")
        return too_large() if not length.isdecimal() or int(length) > MOST_BODY else None


def is_from_here(headers: Headers) -> bool:
    """Whether a browser says that the page itself asks; other programs say nothing, and need the token."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    return (origin is None or origin == f"http://{headers.get('host')}") and site in ("same-origin", "none")


def limited(receive: Receive) -> Receive:
    """The same body, which ends with TooLarge where it is longer than it may be."""
    count = 0

    async def counted() -> Message:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > MOST_BODY:
            raise TooLarge
        return message

    return counted


def too_large() -> Response:
    return problem(413, f"That is more than {MOST_BODY // 2**20} MB.", "Scale the picture down first.")


def problem(status: int, error: str, hint: str) -> Response:
    """An error as the page shows it: one sentence and what to do."""
    return Response(json.dumps({"error": error, "hint": hint}), status, media_type="application/json")
