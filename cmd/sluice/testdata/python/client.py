"""The websockets library against a gateway: python3 client.py SCENARIO ws://ADDRESS

It exits 0 when everything was as it should be. For the drain it says "connected" when the gateway may be told to stop.
It asks the library for nothing but what all its versions since 10.1 have.
"""
import asyncio
import json
import re
import sys
import uuid
from datetime import datetime

import websockets

MAX_MESSAGE = 64 * 1024


def connect(gateway, session=None, path="/ws/chat/"):
    query = f"?session_id={session}" if session else ""
    # Without pings of its own, what keeps a silent client connected is that it answers the
    # gateway's.
    return websockets.connect(f"{gateway}{path}{query}", ping_interval=None)


async def frame(ws):
    text = await ws.recv()
    assert isinstance(text, str), f"the gateway speaks in text, got {text!r}"
    return json.loads(text)


async def count(ws, data, want):
    await ws.send(data)
    equal(await frame(ws), {"count": want})


async def leave(ws, code, total):
    last = asyncio.ensure_future(frame(ws))  # whether a later recv() would still find it depends on the version
    await ws.close(code, "leaving")
    equal(await last, {"bye": True, "total": total})
    equal(ws.close_code, code)


async def ends(ws, code):
    """The next thing from the gateway is its Close."""
    try:
        got = await ws.recv()
    except websockets.ConnectionClosed:
        equal(ws.close_code, code)
    else:
        raise AssertionError(f"got {got!r}, want a Close with {code}")


def equal(got, want):
    assert got == want, f"got {got!r}, want {want!r}"


async def counting(gateway):
    async with connect(gateway) as ws:
        welcome = await frame(ws)
        session = welcome["session_id"]
        equal(str(uuid.UUID(session)), session)
        equal(welcome, {"session_id": session, "count": 0, "resumed": False})
        await count(ws, "hello", 1)
        await count(ws, b"\x00\xff\xfe", 2)
        await count(ws, "", 3)
        await count(ws, "κόσμε 🌍", 4)
        await count(ws, ["in ", "three ", "fragments"], 5)
        await count(ws, [b"in", b"\xff"], 6)
        pong = await ws.ping("are you there")
        await asyncio.wait_for(pong, 60)
        for i in range(500):
            await ws.send(str(i))
        for i in range(500):
            equal(await frame(ws), {"count": 7 + i})
        await leave(ws, 1000, 506)
    async with connect(gateway, path="/ws") as ws:
        await frame(ws)
        await leave(ws, 3000, 0)


async def resume(gateway):
    async with connect(gateway) as ws:
        session = (await frame(ws))["session_id"]
        for i in range(3):
            await count(ws, "x", i + 1)
        await leave(ws, 1000, 3)
    async with connect(gateway, session) as ws:
        equal(await frame(ws), {"session_id": session, "count": 3, "resumed": True})
        await count(ws, "x", 4)
        ws.transport.abort()  # no goodbye
    async with connect(gateway, session) as ws:
        equal(await frame(ws), {"session_id": session, "count": 4, "resumed": True})
        await count(ws, "x", 5)
    try:
        async with connect(gateway, "42"):
            raise AssertionError("a malformed session was accepted")
    except websockets.InvalidHandshake as err:
        assert "400" in str(err), err


async def heartbeat(gateway):
    """With --heartbeat 2s."""
    async with connect(gateway) as ws:
        await frame(ws)
        last = datetime.min
        for _ in range(4):  # longer than a silent client is borne with
            beat = await frame(ws)
            equal(list(beat), ["ts"])
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", beat["ts"]), beat
            now = datetime.strptime(beat["ts"], "%Y-%m-%dT%H:%M:%S.%fZ")
            assert now > last, f"{now} is not later than {last}"
            last = now


async def large(gateway):
    async with connect(gateway) as ws:
        session = (await frame(ws))["session_id"]
        await count(ws, "x" * (MAX_MESSAGE - 1), 1)
        await count(ws, bytes(MAX_MESSAGE), 2)
        await ws.send(bytes(MAX_MESSAGE + 1))
        await ends(ws, 1009)
    async with connect(gateway, session) as ws:
        equal(await frame(ws), {"session_id": session, "count": 2, "resumed": True})
        await ws.send([bytes(MAX_MESSAGE), b"x"])  # each fits, the message does not
        await ends(ws, 1009)


async def drain(gateway):
    clients = [await connect(gateway) for _ in range(20)]
    for i, ws in enumerate(clients):
        await frame(ws)
        for n in range(i):
            await count(ws, "x", n + 1)
    print("connected", flush=True)

    async def told(ws, total):
        equal(await frame(ws), {"bye": True, "total": total})
        await ends(ws, 1001)

    await asyncio.gather(*(told(ws, i) for i, ws in enumerate(clients)))


scenarios = {"count": counting, "resume": resume, "heartbeat": heartbeat, "large": large, "drain": drain}
if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(scenarios[sys.argv[1]](sys.argv[2]), 100))
