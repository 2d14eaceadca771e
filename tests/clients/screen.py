"""The stock Python client as a test's screen: says what happens, one JSON object a line, and does what it is told."""

import asyncio
import json
import sys

import socketio


def say(on, **what):
    print(json.dumps({"on": on, **what}), flush=True)


async def lines():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


async def main():
    orders = lines()
    opening = await anext(orders)
    # Impatient, for a test.
    sio = socketio.AsyncClient(reconnection_delay=0.05, reconnection_delay_max=0.5, randomization_factor=0)

    # The three lines that remember a position, as the documents show them.
    after = opening.get("after")

    def auth():
        return {"token": opening["token"], "channels": opening["channels"], "after": after}

    # Plain functions: the client runs coroutines as tasks of their own.
    @sio.on("*")
    def heard(name, *args):
        nonlocal after
        after = args[-1] if args and isinstance(args[-1], str) else after
        say("event", name=name, args=args)

    @sio.event
    def connect():
        say("connect", id=sio.get_sid(), recovered=False, transport=sio.transport())

    @sio.event
    def connect_error(problem):
        problem = problem if isinstance(problem, dict) else {"message": str(problem)}
        say("connect_error", message=problem.get("message"), data=problem.get("data"))

    @sio.event
    def disconnect(reason):
        say("disconnect", reason=reason)

    async def online():
        try:
            await sio.connect(opening["url"], auth=auth, transports=opening.get("transports"), wait_timeout=30)
        except socketio.exceptions.ConnectionError:
            pass  # `connect_error` has said so.

    async def ask(name, body):
        say("ack", name=name, answer=await sio.call(name, body, timeout=30))

    async def obey(order):
        match order:
            case {"do": "join" | "leave" as name, "channels": channels}:
                await ask(name, {"channels": channels})
            case {"do": "auth", "token": token}:
                await ask("auth", {"token": token})
            case {"do": "seen", "position": position}:
                await sio.emit("seen", {"position": position})
            case {"do": "offline" | "close"}:
                await sio.disconnect()
            case {"do": "online"}:
                await online()

    await online()
    async for order in orders:
        await obey(order)
    # Whoever told us what to do is gone.
    await sio.disconnect()


asyncio.run(main())
