"""The routes. Answers are JSON or the bytes of a picture; an error is one sentence and a hint."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .. import __version__
from ..errors import DiffeditError, SettingError
from ..settings import keeps_steps
from .forms import forms
from .guard import Guard, problem
from .worker import Busy, Job, Worker, explain, is_over

if TYPE_CHECKING:
    from .store import Shown

HOSTS = ("127.0.0.1", "localhost")
TYPES: Mapping[str, str] = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "mp4": "video/mp4",
    "gif": "image/gif",
    "webp": "image/webp",
    "jpg": "image/jpeg",
}


class Api:
    """The handlers of one server. kept: the settings that the user has configured."""

    def __init__(self, worker: Worker, model_name: str, kept: Mapping[str, Any]) -> None:
        self.worker, self.model_name = worker, model_name
        self.forms = forms(kept)
        self.static = {
            item.name: item.read_bytes() for item in files(f"{__package__}").joinpath("static").iterdir()
        }

    async def page(self, request: Request) -> Response:
        """The page's own files, from a table that is read at the start."""
        name = request.path_params.get("name", "index.html")
        if name not in self.static:
            raise HTTPException(404)
        return Response(self.static[name], media_type=TYPES[name.rsplit(".", 1)[-1]])

    async def about(self, request: Request) -> Response:
        """The model, if it is loaded already, and the settings. The page asks until the model is loaded."""
        model = self.worker.model
        found = model and {
            "name": self.model_name,
            "size": model.size,
            "device": str(model.device),
            "words": {group: list(words) for group, words in (model.words or {}).items()},
            "keeps_steps": keeps_steps(model.own_defaults),
        }
        waiting = sum(not is_over(job) for job in self.worker.jobs.copy().values())
        return JSONResponse(
            {
                "version": __version__,
                "name": self.model_name,
                "model": found,
                "waiting": waiting,
                **({} if "brief" in request.query_params else self.forms),
            }
        )

    async def add_picture(self, request: Request) -> Response:
        from .store import label

        _, store = self.worker.ready()
        name = label(unquote(request.headers.get("x-name", "")))
        shown = await run_in_threadpool(store.add_picture, await request.body(), name)
        return JSONResponse(about_picture(shown))

    async def picture(self, request: Request) -> Response:
        """A picture as the page shows it, or with ?about what there is to say of it."""
        from .store import view_of

        _, store = self.worker.ready()
        shown = store.picture(request.path_params["id"])
        if "about" in request.query_params:
            return JSONResponse(about_picture(shown))
        picture = shown.picture
        data = await run_in_threadpool(view_of, picture.rgb, picture.icc, picture.alpha)
        return Response(data, media_type="image/png")

    async def add_area(self, request: Request) -> Response:
        _, store = self.worker.ready()
        shown = store.picture(request.path_params["id"])
        return JSONResponse({"id": await run_in_threadpool(shown.add_area, await request.body())})

    async def mask(self, request: Request) -> Response:
        """The mask of an edit, from heat that is there; 409 where that needs a job `find` first."""
        from .tasks import mask_of

        data, facts = await asyncio.wrap_future(self.worker.call(mask_of(await self.read(request))))
        return Response(data, media_type="image/png", headers={"X-Facts": json.dumps(facts)})

    async def add_job(self, request: Request) -> Response:
        from .tasks import job_of

        job = job_of(await self.read(request))
        self.worker.add(job)
        return JSONResponse(job.snapshot(), 202)

    async def jobs(self, request: Request) -> Response:
        """The jobs of one tab, oldest first, and how many jobs of all tabs are unfinished.

        A tab asks for all of its jobs at once, and again and again: a browser opens six connections to a
        server at most, over all tabs, so a stream of events for each job would soon block everything.
        """
        tab, known = request.query_params.get("tab", ""), self.worker.jobs.copy().values()
        waiting = [job.id for job in known if not is_over(job)]
        found = [job.snapshot() for job in known if job.tab == tab]
        return JSONResponse({"jobs": found, "queue": waiting})

    async def stop_job(self, request: Request) -> Response:
        return JSONResponse(found_job(self.worker.cancel(request.path_params["id"])).snapshot())

    async def preview(self, request: Request) -> Response:
        job = found_job(self.worker.jobs.get(request.path_params["id"]))
        return Response(job.preview or b"", 200 if job.preview else 404, media_type=TYPES["jpg"])

    async def result(self, request: Request) -> Response:
        """A file of a result, by the keys of two tables."""
        _, store = self.worker.ready()
        name = request.path_params["name"]
        data = store.file(request.path_params["id"], name)
        return Response(data, media_type=TYPES.get(name.rsplit(".", 1)[-1], "application/octet-stream"))

    async def read(self, request: Request) -> Any:
        """A JSON object that was sent, with what is needed to carry it out."""
        model, store = self.worker.ready()
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise SettingError("The request is not a JSON object.", "Reload the page.")
        from . import tasks

        return tasks.Request(body, model, store)


def about_picture(shown: "Shown") -> dict[str, Any]:
    picture = shown.picture
    return {
        "id": shown.key,
        "name": picture.name,
        "width": picture.rgb.width,
        "height": picture.rgb.height,
        "notices": list(picture.notices),
    }


def found_job(job: Job | None) -> Job:
    if job is None:
        raise HTTPException(404)
    return job


async def on_error(request: Request, error: Exception) -> Response:
    """Any error as one sentence and a hint. The names of the classes below decide the status."""
    known = error if isinstance(error, DiffeditError) else explain(error)
    if isinstance(error, Busy):
        status = 503
    elif isinstance(error, DiffeditError):
        status = {"Gone": 404, "NoHeat": 409}.get(type(error).__name__, 400)
    else:
        status = 500
    return problem(status, known.message, known.hint)


async def on_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return problem(status, "There is nothing of this kind here.", "Reload the page.")


Handler = Callable[[Request], Awaitable[Response]]


def make_app(worker: Worker, token: str, model_name: str, kept: Mapping[str, Any]) -> Starlette:
    """The whole server, for uvicorn or a test."""
    api = Api(worker, model_name, kept)
    routes: list[tuple[str, Handler, str]] = [
        ("/", api.page, "GET"),
        ("/static/{name}", api.page, "GET"),
        ("/api/about", api.about, "GET"),
        ("/api/pictures", api.add_picture, "POST"),
        ("/api/pictures/{id}", api.picture, "GET"),
        ("/api/pictures/{id}/areas", api.add_area, "POST"),
        ("/api/mask", api.mask, "POST"),
        ("/api/jobs", api.add_job, "POST"),
        ("/api/jobs", api.jobs, "GET"),
        ("/api/jobs/{id}", api.stop_job, "DELETE"),
        ("/api/jobs/{id}/preview.jpg", api.preview, "GET"),
        ("/api/results/{id}/{name}", api.result, "GET"),
    ]
    return Starlette(
        routes=[Route(path, handler, methods=[method]) for path, handler, method in routes],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[*HOSTS], www_redirect=False),
            Middleware(Guard, token=token),
        ],
        exception_handlers={HTTPException: on_http_error, DiffeditError: on_error, Exception: on_error},
    )
