"""The pages and addresses of the service, as an ASGI application."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from experiments.serving.batching import Answer, Batcher, NotReadyError, QueueFullError
from experiments.serving.requests import json_of, wanted_of
from transformer.checkpoint import brief
from transformer.config import UserError

MOST_BYTES = 1 << 20
"""Size limit of the body of a request."""

PATIENCE = 30.0
"""How many seconds the body of a request may take to arrive."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Whatever a text in the page may say, nothing is fetched from elsewhere, and no other page can embed it."""


def application(
    batcher: Batcher, described: dict[str, Any], max_sentences: int, hosts: Sequence[str] = ("*",)
) -> Starlette:
    """Builds the application around a batcher whose thread runs.

    Args:
        described: what /health tells of the model.
        max_sentences: most texts in a request.
        hosts: names by which a client may address the service; "*" is any. A page of another site cannot name one of
            them, even if it makes its own name point here (DNS rebinding).
    """

    html = files("experiments.serving").joinpath("page.html").read_text("utf-8")

    async def page(request: Request) -> Response:
        return HTMLResponse(html, headers=HEADERS)

    async def health(request: Request) -> Response:
        ready = batcher.ready.is_set()
        limits = {"max_n_best": batcher.most, "max_sentences": max_sentences}
        facts = {"ready": ready, **described, **limits, "queue": batcher.waiting}
        return JSONResponse(facts, 200 if ready else 503)

    async def translate(request: Request) -> Response:
        # A page of another site can send other types of content without asking for permission.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "send the header Content-Type: application/json")
        try:
            wanted = wanted_of(await body_of(request), max_sentences, batcher.most)
            answer = await answer_of(request, batcher.submit(wanted))
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody reads
        except asyncio.CancelledError:  # at a second Ctrl+C, or since the thread has ended
            return failed(503, "the service has stopped")
        return JSONResponse(json_of(answer))

    served = Starlette(
        routes=[
            Route("/", page),
            Route("/health", health),
            Route("/translate", translate, methods=["POST"]),
        ],
        middleware=[Middleware(KnownHosts, hosts=hosts)],
        exception_handlers={
            HTTPException: lambda _, error: failed(error.status_code, error.detail, error.headers),
            UserError: lambda _, error: failed(400, str(error)),
            QueueFullError: lambda _, error: failed(429, str(error), {"Retry-After": "1"}),
            NotReadyError: lambda _, error: failed(503, str(error), {"Retry-After": "5"}),
            Exception: lambda _, error: failed(500, f"the service failed: {brief(error)}"),
        },
    )
    served.router.redirect_slashes = False  # /health/ is no address of the service either
    return served


class KnownHosts:
    """Refuses requests that address the service by another name, as TrustedHostMiddleware does, but in JSON."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]):
        self.app, self.hosts = app, list(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        known = False

        async def accepted(*_: Any) -> None:
            nonlocal known
            known = True

        async def unsent(_: Message) -> None: ...

        await TrustedHostMiddleware(accepted, self.hosts, www_redirect=False)(scope, receive, unsent)
        refusal = failed(400, "the header Host must name this machine, as in localhost or 127.0.0.1")
        await (self.app if known else refusal)(scope, receive, send)


def failed(status: int, message: str, headers: Any = None) -> Response:
    """Returns the answer to a request that cannot be met."""
    return JSONResponse({"error": message}, status, headers)


async def body_of(request: Request) -> bytes:
    """Reads the body of a request. HTTPException if it is too large, also without a Content-Length, or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise HTTPException(413, f"the request has more than {MOST_BYTES:,} bytes")
    except TimeoutError as error:
        raise HTTPException(408, f"the request did not arrive in {PATIENCE:g} seconds") from error
    return bytes(body)


async def answer_of(request: Request, future: "Future[Answer]") -> Answer:
    """Waits for an answer. If the client hangs up before that, takes the request back, and raises ClientDisconnect."""
    answer = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(hang_up(request))
    either: set[asyncio.Future[Any]] = {answer, gone}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if not answer.done():
        answer.cancel()
        raise ClientDisconnect
    return answer.result()


async def hang_up(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
