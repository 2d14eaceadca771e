import asyncio, sys
import socketio

hub, token = sys.argv[1:]
after = None  # The last position heard. Keep it, and nothing is missed.
sio = socketio.AsyncClient()

@sio.on("*")
def heard(event, body, position=None):
    global after
    if event == "sale.completed":
        print(body["data"]["number"], body["data"]["total_minor"], flush=True)
    after = position or after

async def main():
    await sio.connect(hub, auth=lambda: {"token": token, "channels": ["sales"], "after": after})
    await sio.wait()

asyncio.run(main())
