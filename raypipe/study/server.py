"""The server of the study's page and its small JSON interface, on loopback, for one person at a time."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
from aiohttp import web

from raypipe.errors import StageError
from raypipe.pictures.formats import detect_any_format
from raypipe.statistics.clustered import clustered_share_interval, number_users
from raypipe.study.study_sample import StudyPicture, StudySample

HOST = "127.0.0.1"
_HOSTS = frozenset({"127.0.0.1", "localhost"})
_MAX_SECONDS = 86_400.0
_MAX_BODY = 4096


@dataclass(frozen=True)
class StudyAnswer:
    """One person's answer for one picture, and the seconds it took. `position` counts from 0."""

    post_id: str
    label: str
    answer: str
    seconds: float
    position: int


@dataclass
class StudySession:
    """One person's progress through a sample. `finished` is set with the last answer."""

    sample: StudySample
    participant: str
    answers: list[StudyAnswer] = field(default_factory=list)
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    def record_answer(self, position: int, answer: str, seconds: float) -> None:
        """Record the next answer. Raises ValueError if it is not the next one, or if a value is not allowed."""
        if position != len(self.answers) or position >= len(self.sample.questions):
            raise ValueError(f"position {position}: the next is {len(self.answers)}")
        if answer not in self.sample.classes:
            raise ValueError(f"answer {answer!r}: must be one of {', '.join(self.sample.classes)}")
        if not (math.isfinite(seconds) and 0 <= seconds <= _MAX_SECONDS):
            raise ValueError(f"seconds {seconds}: must be between 0 and {_MAX_SECONDS:.0f}")
        picture = self.sample.questions[position]
        self.answers.append(StudyAnswer(picture.post_id, picture.label, answer, seconds, position))
        if len(self.answers) == len(self.sample.questions):
            self.finished.set()

    def result(self) -> dict[str, Any]:
        """Accuracy and its 95 % interval over the answers so far. The interval takes pictures of a user together."""
        hits = np.array([a.answer == a.label for a in self.answers])
        right, n = int(hits.sum()), len(hits)
        users = number_users(question.user for question in self.sample.questions[:n])
        low, high = clustered_share_interval(right / n, hits, users)
        return {"right": right, "n": n, "accuracy": right / n, "low": low, "high": high}

    def state(self) -> dict[str, Any]:
        """The data that the page needs. It has the number of questions, but not the questions."""
        return {
            "participant": self.participant,
            "classes": list(self.sample.classes),
            "examples": [picture.label for picture in self.sample.examples],
            "questions": len(self.sample.questions),
            "answered": len(self.answers),
            "result": self.result() if self.finished.is_set() else None,
        }


_SESSION = web.AppKey("session", StudySession)


def study_app(session: StudySession) -> web.Application:
    """The web application: the page, its pictures, and the address that receives answers."""
    app = web.Application(middlewares=[_only_this_machine], client_max_size=_MAX_BODY)
    app[_SESSION] = session
    app.router.add_get("/", _page)
    app.router.add_get("/state", _state)
    app.router.add_get(r"/{kind:examples|questions}/{index:\d+}", _picture)
    app.router.add_post("/answer", _answer)
    return app


async def serve_until_answered(session: StudySession, port: int) -> None:
    """Serve the page until the last answer is in. Raises StageError if the server cannot listen on the port."""
    runner = web.AppRunner(study_app(session), access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, HOST, port).start()
        except OSError as error:
            raise StageError(
                f"study.port {port}: cannot listen on {HOST}: {error.strerror}; choose another with --study.port"
            ) from error
        await session.finished.wait()
    finally:
        # Waits until the response to the last answer is sent, so that the person sees the result.
        await runner.cleanup()


@web.middleware
async def _only_this_machine(request: web.Request, handler: Any) -> web.StreamResponse:
    # A page of another site whose name resolves to loopback must not read the pictures or send answers.
    try:
        host = request.url.host
    except ValueError:  # the header Host is not a valid host name
        host = None
    if host not in _HOSTS:
        raise web.HTTPForbidden(text="open http://127.0.0.1 instead")
    response: web.StreamResponse = await handler(request)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


async def _page(_: web.Request) -> web.Response:
    text = resources.files("raypipe.study").joinpath("page.html").read_text(encoding="utf-8")
    return web.Response(text=text, content_type="text/html")


async def _state(request: web.Request) -> web.Response:
    return web.json_response(request.app[_SESSION].state())


async def _picture(request: web.Request) -> web.Response:
    sample = request.app[_SESSION].sample
    shown: list[StudyPicture] = getattr(sample, request.match_info["kind"])
    index = int(request.match_info["index"])
    if index >= len(shown):
        raise web.HTTPNotFound(text=f"there are {len(shown)} pictures")
    return web.Response(body=shown[index].image, content_type=_media_type(shown[index].image))


async def _answer(request: web.Request) -> web.Response:
    # Browsers let only pages of this origin send JSON without a preflight request.
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="answers must be JSON")
    session = request.app[_SESSION]
    try:
        given = await request.json()
        session.record_answer(int(given["position"]), str(given["answer"]), float(given["seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    return web.json_response(session.state())


def _media_type(image: bytes) -> str:
    kind = detect_any_format(image)
    return f"image/{kind.lower()}" if kind else "application/octet-stream"
