"""Receives the changes that a sink delivers over a WebSocket: usage receive.py PORT CREDITS.

Prints the port, and then the seq of each change once. Acknowledges in another order than that of the changes, everything twice, and breaks a
connection off now and then, with changes that it has not acknowledged.
"""

import asyncio
import json
import random
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

PORT, CREDITS = int(sys.argv[1]), int(sys.argv[2])
SEEN = set()


async def receive(socket):
    assert socket.subprotocol == "tidemark.sink.v1"
    await socket.send(json.dumps({"credits": CREDITS}))
    waiting, taken = [], 0
    while True:
        try:
            change = json.loads(await asyncio.wait_for(socket.recv(), 0.2))["change"]
        except TimeoutError:
            change = None
        except ConnectionClosed:
            return
        if change:
            waiting.append(change["position"])
            assert len(waiting) <= CREDITS, f"{len(waiting)} changes for {CREDITS} credits"
            if change["seq"] not in SEEN:
                SEEN.add(change["seq"])
                print(change["seq"], flush=True)
            taken += 1
            if taken == 23:
                await socket.close(1001, "that is enough")
                return
        if waiting and (change is None or len(waiting) == CREDITS):
            random.shuffle(waiting)
            for _ in range(2):
                await socket.send(json.dumps({"ack_each": waiting}))
            waiting = []


async def main():
    async with serve(receive, "127.0.0.1", PORT, subprotocols=["tidemark.sink.v1"]) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


random.seed(1)
asyncio.run(main())
