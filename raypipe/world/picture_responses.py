"""Bad answers to a request for a picture. Each is a real HTTP answer or a real break of the connection."""

from __future__ import annotations

import asyncio
from collections import Counter

from aiohttp import web

from raypipe.world.behaviour import NORMAL

_PIECES = 20
_PAGE = "<!doctype html><title>Log in</title><p>Log in to see this picture.</p>\n"


class PictureResponder:
    """Answers by kind (see `behaviour`). Counts refusals per picture, so that `429` and `500` end after `times`.

    The query of the address may set `times` (refusals before the picture, default 1), `retry_after` (seconds, default
    1) and `seconds` (how long `slow` takes, default 2).
    """

    def __init__(self) -> None:
        self._refused: Counter[tuple[str, str]] = Counter()

    async def answer(self, request: web.Request, kind: str, post_id: str, picture: bytes) -> web.StreamResponse:
        """The answer of a kind from `behaviour`. Raises aiohttp's HTTP exceptions for error statuses and redirects."""
        match kind:
            case "429" | "500":
                return self._refuse_first(request, kind, post_id, picture)
            case "slow":
                return await _send_slowly(request, picture)
            case "truncated":
                return await _send_half_and_close(request, picture)
            case "reset":
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()
            case "half":
                return _picture_response(picture[: len(picture) // 2])
            case "wrong_type":
                return web.Response(text=_PAGE, content_type="text/html")
            case "disguised":
                return _picture_response(_PAGE.encode())
            case "redirect":
                raise web.HTTPFound(f"/plain/{post_id}.jpg")
            case "redirect_loop":
                raise web.HTTPFound(request.path_qs)
            case "403":
                raise web.HTTPForbidden
            case "404":
                raise web.HTTPNotFound
            case "410":
                raise web.HTTPGone
            case _:
                assert kind == NORMAL, kind
                return _picture_response(picture)

    def _refuse_first(self, request: web.Request, kind: str, post_id: str, picture: bytes) -> web.Response:
        # The count is deleted once the picture is sent, so that the next run gets the same refusals.
        key = kind, post_id
        if self._refused[key] >= _number(request, "times", 1):
            del self._refused[key]
            return _picture_response(picture)
        self._refused[key] += 1
        if kind == "500":
            raise web.HTTPInternalServerError
        raise web.HTTPTooManyRequests(headers={"Retry-After": f"{_number(request, 'retry_after', 1):g}"})


def _picture_response(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="image/jpeg")


def _number(request: web.Request, name: str, default: float) -> float:
    try:
        return float(request.query.get(name, default))
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{name}: {request.query[name]!r} is not a number\n") from error


async def _send_slowly(request: web.Request, picture: bytes) -> web.StreamResponse:
    pause = _number(request, "seconds", 2) / _PIECES
    answer = web.StreamResponse(headers={"Content-Type": "image/jpeg", "Content-Length": str(len(picture))})
    await answer.prepare(request)
    size = -(-len(picture) // _PIECES)
    for start in range(0, len(picture), size):
        await asyncio.sleep(pause)
        await answer.write(picture[start : start + size])
    return answer


async def _send_half_and_close(request: web.Request, picture: bytes) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "image/jpeg", "Content-Length": str(len(picture))})
    await answer.prepare(request)
    await answer.write(picture[: len(picture) // 2])
    if request.transport is not None:
        # close(), not abort(): the bytes already written still arrive.
        request.transport.close()
    return answer
