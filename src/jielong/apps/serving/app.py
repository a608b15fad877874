"""The HTTP interface: one generation at a time, off the event loop, behind a bounded queue."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from importlib.resources import files
from types import FrameType
from typing import TextIO, TypeVar

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from jielong.apps.serving.models import GenerateRequest, Limits, ServedModel, encoded, media_type
from jielong.config.registry import nearest
from jielong.config.sampling import fault
from jielong.core.json import JSON
from jielong.core.version import __version__
from jielong.generation.callbacks import StepEvent

PATIENCE = 10
"""Seconds that running requests have when the server ends."""
T = TypeVar("T")
_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)
"""Warnings of the request that this thread works on."""


class StoppedError(RuntimeError):
    """The server ends while it generates."""


class Worker:
    """Runs generations one after the other in a thread.

    Args:
        queue: Requests that may wait.

    Attributes:
        stopping: Once set, the running generation ends at its next step, and no other begins.
    """

    def __init__(self, queue: int) -> None:
        self.queue, self.pending, self.stopping = queue, 0, threading.Event()
        self._lock = asyncio.Lock()

    async def run(self, work: Callable[[], T], gone: Callable[[], Awaitable[bool]]) -> T:
        """What ``work`` returns, when its turn has come.

        Raises:
            HTTPException: if too many wait, the server ends, or the client is ``gone`` before it begins.
        """
        if self.pending > self.queue:
            raise HTTPException(503, f"{self.queue} requests are waiting already: try again later", {"Retry-After": "5"})
        self.pending += 1
        try:
            async with self._lock:
                if self.stopping.is_set() or await gone():
                    raise StoppedError
                return await run_in_threadpool(work)
        except StoppedError:
            raise HTTPException(503, "the server ends") from None
        finally:
            self.pending -= 1

    def on_step(self, event: StepEvent) -> None:
        """Raise :class:`StoppedError` in a generation if the server ends."""
        if self.stopping.is_set():
            raise StoppedError


def create_app(models: Mapping[str, ServedModel], limits: Limits | None = None) -> FastAPI:
    """The application; ``app.state.worker`` is its :class:`Worker`."""
    bounds = limits or Limits()
    worker = Worker(bounds.queue)
    app = FastAPI(title="jielong serve", version=__version__, lifespan=_lifespan, docs_url=None, redoc_url=None)
    app.state.worker = worker
    app.add_middleware(_Bounded, most=bounds.body)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = (
            ((), "the request is no JSON") if each["type"] == "json_invalid" else (each["loc"][1:], each["msg"]) for each in error.errors()
        )
        return JSONResponse({"detail": "; ".join(fault(*each) for each in faults)}, 422)

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return files("jielong.apps.serving").joinpath("page.html").read_text("utf-8")

    @app.get("/health")
    async def health() -> JSON:
        return {"status": "ok", "models": list(models), "waiting": max(0, worker.pending - 1)}

    @app.get("/models")
    async def described() -> list[JSON]:
        return [model.description() for model in models.values()]

    @app.post("/generate")
    async def generate(request: Request, body: GenerateRequest) -> Response:
        model = models.get(body.model or next(iter(models)))
        if model is None:
            raise HTTPException(404, f"there is no model {body.model!r} here; {nearest(str(body.model), list(models))}")
        form = body.format or model.formats[0]
        with _collecting():  # generating says them again
            arguments = await run_in_threadpool(_checked, model, body)
        with _collecting() as notices:
            items = await worker.run(lambda: _drawn(model, arguments, form, worker), request.is_disconnected)
        if body.answer == "file":
            return Response(items[0][1], media_type=media_type(form))
        listed = [
            {"caption": caption, "media_type": media_type(form), "content": base64.b64encode(data).decode()} for caption, data in items
        ]
        return JSONResponse({"model": model.name, "seed": body.seed, "items": listed, "warnings": notices})

    return app


class _Bounded:
    """Refuses a request whose body is too large, or whose size is not known before it is read."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = self.app
        if scope["type"] == "http":
            length = Headers(scope=scope).get("content-length", "" if scope["method"] == "POST" else "0")
            if not length.isdecimal():
                answer = JSONResponse({"detail": "a request needs its Content-Length"}, 411)
            elif int(length) > self.most:
                answer = JSONResponse({"detail": f"a request has at most {self.most:,} bytes"}, 413)
        await answer(scope, receive, send)


def run(app: FastAPI, listening: socket.socket) -> None:
    """Serve until a signal, which ends a running generation at its next step.

    Raises:
        KeyboardInterrupt: after SIGINT, when everything has ended.
    """

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.worker.stopping.set()
            super().handle_exit(sig, frame)

    Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=PATIENCE)).run([listening])


def _checked(model: ServedModel, body: GenerateRequest) -> Mapping[str, object]:
    try:
        return model.arguments_of(body)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error


def _drawn(model: ServedModel, arguments: Mapping[str, object], form: str, worker: Worker) -> list[tuple[str, bytes]]:
    """Caption and file of each item."""
    try:
        return [(item.caption, encoded(item, form)) for item in model.draw(arguments, worker.on_step)]
    except ValueError as error:  # what only the sampler finds, such as lazy steps that the order has not
        raise HTTPException(422, str(error)) from error


@contextmanager
def _collecting() -> Iterator[list[str]]:
    """The warnings of what runs within, in this task and its threads."""
    found = list[str]()
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """While the server runs, warnings of a request go into its answer; others are shown as before."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        before = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
        ) -> None:
            found = _collected.get()
            if found is None or not issubclass(category, UserWarning):
                before(message, category, filename, lineno, file, line)
            elif str(message) not in found:
                found.append(str(message))

        warnings.showwarning = show
        yield
