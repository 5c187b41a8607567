"""How an answer is written: head and body as one packet, and nothing that waits for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.config.settings import ListenSettings
from gateway.connections import Connections, Limits, _Answer, _Joined
from gateway.limits import ARRIVED
from gateway.server import _Server, listen

HEAD, BODY, CONTINUE = b"HTTP/1.1 200 OK\r\n\r\n", b"body", b"HTTP/1.1 100 Continue\r\n\r\n"


class Transport:
    """Keeps what is written, one entry for each write."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writelines(self, parts: Sequence[bytes]) -> None:
        self.written.append(b"".join(parts))

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("writes", "written"),
    [
        ([HEAD, BODY], [HEAD + BODY]),
        ([HEAD, b""], [HEAD]),
        ([HEAD, BODY, BODY], [HEAD + BODY, BODY]),
        ([CONTINUE, HEAD, BODY], [CONTINUE, HEAD + BODY]),
        ([HEAD, None], [HEAD]),
        ([HEAD, BODY, None], [HEAD + BODY]),
        ([None], []),
    ],
)
def test_a_head_waits_for_what_follows(
    writes: Sequence[bytes | None], written: Sequence[bytes]
) -> None:
    """And for nothing else: not for a second part, nor past the end. None stands for the end."""
    transport: Any = Transport()
    joined = _Joined(transport)
    for each in writes:
        if each is None:
            joined.close()
        else:
            joined.write(each)
    assert transport.written == list(written)
    assert transport.closed == (None in writes)


_OURS = [(b"Content-Type", b"text/plain"), (b"request-id", b"req_1")]
_FOUR = (b"content-length", b"4")


async def _sent(
    messages: Sequence[Message], *, keep_alive: bool, ours: bool
) -> tuple[list[bytes], list[str]]:
    """Send the messages of one answer; return what was written, and what became of it."""
    transport: Any = Transport()
    told: list[str] = []
    scope: Any = {"method": "GET", "path": "/"}
    cycle = RequestResponseCycle(
        scope,
        transport,
        FlowControl(transport),
        logging.getLogger("answers"),
        logging.getLogger("answers"),
        access_log=False,
        default_headers=[(b"date", b"today")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: told.append("answered"),
    )
    send: Any = _Answer(cycle).send if ours else cycle.send
    try:
        for each in messages:
            await send(each)
    except RuntimeError as error:
        told.append(str(error))
    told += [str(cycle.response_started), str(cycle.response_complete), str(transport.closed)]
    return transport.written, told


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize(
    ("status", "fields", "bodies"),
    [
        (200, [_FOUR], [BODY]),
        (200, [_FOUR, *_OURS], [BODY]),
        (404, [*_OURS, _FOUR], [BODY]),
        (200, [(b"Content-Length", b"4")], [BODY]),
        (200, [(b"content-length", b"0")], [b""]),
        (200, [_FOUR, (b"connection", b"close")], [BODY]),
        (200, [_FOUR], [b"bo", b"dy"]),
        (200, [], [BODY]),
        (200, [(b"transfer-encoding", b"chunked")], [BODY]),
        (204, [], [b""]),
        (304, [(b"etag", b"1")], [b""]),
        (200, [_FOUR], [b"body and more"]),
        (200, [_FOUR], [b"bod"]),
        (200, [_FOUR, (b"x", b"a\r\nset-cookie: b")], [BODY]),
        (200, [_FOUR, (b"x: y\r\nz", b"a")], [BODY]),
        (200, [_FOUR, (b"x", b"a\x00")], [BODY]),
    ],
)
async def test_an_answer_is_written_as_by_uvicorn(
    status: int, fields: list[tuple[bytes, bytes]], bodies: Sequence[bytes], *, keep_alive: bool
) -> None:
    """The same bytes, the same end and the same errors; a plain one in one write."""
    messages: list[Message] = [
        {"type": "http.response.start", "status": status, "headers": fields},
        *(
            {"type": "http.response.body", "body": each, "more_body": number < len(bodies)}
            for number, each in enumerate(bodies, 1)
        ),
    ]
    ours, told = await _sent(messages, keep_alive=keep_alive, ours=True)
    theirs, expected = await _sent(messages, keep_alive=keep_alive, ours=False)
    if told[-2] == "True":
        assert b"".join(ours) == b"".join(theirs)
        assert len(ours) <= max(1, len(bodies))
    assert told == expected


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in the way that the path names."""
    if scope["path"] == "/read":
        await receive()
    if scope["path"] == "/arrived":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % scope["state"].get(ARRIVED, 0)})
        return
    headers = {"/chunks": [], "/empty": []}.get(scope["path"], [(b"content-length", b"4")])
    status = 204 if scope["path"] == "/empty" else 200
    start: Message = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    if scope["path"] == "/breaks":
        raise RuntimeError("in the middle")
    parts = {"/chunks": [b"bo", b"", b"dy"], "/empty": [b""]}.get(scope["path"], [BODY])
    for number, each in enumerate(parts, 1):
        await send({"type": "http.response.body", "body": each, "more_body": number < len(parts)})


@pytest.mark.parametrize(
    ("request_", "ends"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n\r\nbody"),
        (b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n", b"content-length: 4\r\n\r\n"),
        (b"GET /empty HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n\r\n"),
        (b"GET /chunks HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n"),
        (b"GET / HTTP/1.0\r\nhost: x\r\n\r\n", b"\r\n\r\nbody"),
        # Nothing of an answer is sent before its body: one that breaks in between is an error like any other.
        (b"GET /breaks HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n\r\nInternal Server Error"),
        (
            b"POST /read HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nok",
            b"\r\n\r\nbody",
        ),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 3, b"\r\n\r\nbody"),
        # Whether all of the body is there when the request begins: then no timer waits for it.
        (b"GET /arrived HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n1\r\n1\r\n0\r\n\r\n"),
        (
            b"POST /arrived HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nok",
            b"\r\n1\r\n1\r\n0\r\n\r\n",
        ),
        (
            b"POST /arrived HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\no",
            b"\r\n1\r\n0\r\n0\r\n\r\n",
        ),
    ],
)
async def test_every_kind_of_answer_arrives_whole(request_: bytes, ends: bytes) -> None:
    """On uvicorn itself: without a body, in chunks, after an interim answer, in a pipeline."""
    table = Connections(Limits.of(ListenSettings(), 100))
    config = uvicorn.Config(
        _app, http=table.protocol(), ws="none", log_config=None, interface="asgi3", lifespan="off"
    )
    server = _Server(config, table)
    listener = listen("listen", "127.0.0.1", 0)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.listening()
    reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
    try:
        writer.write(request_)
        heads = request_.count(b"host:") + (b"expect" in request_)
        got = b""
        async with asyncio.timeout(10):
            while got.count(b"HTTP/1.1 ") < heads or not got.endswith(ends):
                chunk = await reader.read(65536)
                assert chunk, got
                got += chunk
        assert got.count(b"HTTP/1.1 ") == heads
    finally:
        writer.close()
        server.should_exit = True
        await serving
