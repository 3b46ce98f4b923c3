"""Follows the changes over a WebSocket: usage follow.py URL CREDITS LAST.

Prints the seq of each change once, and acknowledges in another order than that of the changes. Connects again from where it has
acknowledged, until everything up to the seq LAST is acknowledged; then says what an acknowledgement of a later change is answered with.
"""

import asyncio
import json
import random
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

URL, CREDITS, LAST = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def seq(position):
    return int(position.split(":")[1])


class Follower:
    def __init__(self):
        self.acknowledged = None
        self.seen = set()

    async def follow(self):
        """One connection, until it breaks off or all is acknowledged."""
        start = f"?from={self.acknowledged}" if self.acknowledged else ""
        async with connect(URL + start, subprotocols=["tidemark.changes.v1"], proxy=None) as socket:
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
            await asyncio.sleep(0.1)


random.seed(1)
asyncio.run(Follower().run())
