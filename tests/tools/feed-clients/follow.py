"""Follows the changes over a WebSocket: usage follow.py URL CREDITS LAST.

First takes what its credits allow, and sees that no more comes before it acknowledges. Then prints the seq of each change once, and acknowledges in another order than that of the changes. Connects again from where it has
acknowledged, until everything up to the seq LAST is acknowledged; then says what an acknowledgement of a later change is answered with,
and at last with which problem a connection ends that waits for changes.
"""

import asyncio
import json
import random
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

URL, CREDITS, LAST = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def seq(position):
    return int(position.split(":")[1])


class Follower:
    def __init__(self):
        self.acknowledged = None
        self.seen = set()

    def connect(self):
        start = f"?from={self.acknowledged}" if self.acknowledged else ""
        return connect(URL + start, subprotocols=["tidemark.changes.v1"], proxy=None)

    async def take_without_acknowledging(self):
        async with self.connect() as socket:
            await socket.send(json.dumps({"credits": CREDITS}))
            taken = [json.loads(await socket.recv())["change"]["position"] for _ in range(CREDITS)]
            await (await socket.ping())
            await socket.send(json.dumps({"ack": taken[0]}))
            answer = json.loads(await socket.recv())
            assert answer == {"acknowledged": taken[0]}, f"more came than there are credits: {answer}"
            assert json.loads(await socket.recv())["change"]["seq"] == CREDITS + 1

    async def wait_for_problem(self):
        async with self.connect() as socket:
            await socket.send(json.dumps({"credits": CREDITS}))
            answer = json.loads(await socket.recv())
            assert answer == {"next": self.acknowledged}, answer
            print("waits", flush=True)
            problem = json.loads(await socket.recv())["problem"]
            try:
                raise AssertionError(f"it goes on with {await socket.recv()}")
            except ConnectionClosed as closed:
                print(f"{closed.rcvd.code} {problem['status']} {problem['restart']}", flush=True)

    async def follow(self):
        """One connection, until it breaks off or all is acknowledged."""
        async with self.connect() as socket:
            assert socket.subprotocol == "tidemark.changes.v1"
            await socket.send(json.dumps({"credits": CREDITS}))
            waiting = []
            async for text in socket:
                message = json.loads(text)
                if "change" in message:
                    change = message["change"]
                    waiting.append(change["position"])
                    assert len(waiting) <= CREDITS, f"{len(waiting)} changes for {CREDITS} credits"
                    if change["seq"] not in self.seen:
                        self.seen.add(change["seq"])
                        print(change["seq"], flush=True)
                elif "acknowledged" in message:
                    position = message["acknowledged"]
                    assert self.acknowledged is None or seq(position) > seq(self.acknowledged), "it went back"
                    self.acknowledged = position
                    if seq(position) >= LAST:
                        later = position.replace(f":{LAST}:", f":{LAST + 100}:")
                        await socket.send(json.dumps({"ack": later}))
                if len(waiting) == CREDITS or LAST in self.seen and waiting:
                    # All but one, in any order; the last ones with what came before.
                    random.shuffle(waiting)
                    done, waiting = (waiting, []) if LAST in self.seen else (waiting[1:], waiting[:1])
                    await socket.send(json.dumps({"ack_each": done}))

    async def run(self):
        await self.take_without_acknowledging()
        await self.follow_to_the_end()
        await self.wait_for_problem()

    async def follow_to_the_end(self):
        while True:
            try:
                await self.follow()
                raise AssertionError("the connection ended without a reason")
            except ConnectionClosed as closed:
                if closed.rcvd is not None and closed.rcvd.code == 4409:
                    print(f"4409 {closed.rcvd.reason}", flush=True)
                    return
            except OSError:
                pass
            except InvalidStatus as refused:
                # A service that has just started.
                assert refused.response.status_code == 503, refused
            await asyncio.sleep(0.1)


random.seed(1)
asyncio.run(Follower().run())
