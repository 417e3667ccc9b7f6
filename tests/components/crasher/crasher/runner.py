"""Failures, by name."""

import asyncio
import os
import threading
import time

from balancer.component import Event
from balancer.errors import StartError
from balancer.process.messages import Listening

if os.environ.get("CRASHER_IMPORT"):
    raise RuntimeError("crasher: at import")


async def main(host):
    """Fail as told."""
    where, channel = host.config.where, host.channel
    channel.serve("raise", lambda arguments: 1 / 0)
    channel.serve("never", lambda arguments: asyncio.sleep(1000))
    channel.serve("unspeakable", lambda arguments: object())
    if where == "start":
        raise RuntimeError("crasher: at start")
    if where == "for good":
        raise StartError("crasher: has no rights")
    if where == "return":
        return
    if where == "wrong message":
        channel._channel.send(Listening(0))
    if where == "garbage":
        os.write(channel._channel._socket.fileno(), b"garbage")
    if where == "flood":
        for number in range(3000):
            channel.emit(Event(time.time(), "crasher", str(number), "", "flooding", ""))
    if where == "ill event":
        channel.emit((1, 2))
    if where == "config":
        channel.on_config(lambda section, services: 1 / 0)
    if where == "callback":
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    if where == "huge":
        channel.publish({"x": "y" * 5_000_000})
    if where == "block":
        threading.Event().wait(1000)
    if where != "deaf":
        stopped = asyncio.Event()
        channel.on_stop(stopped.set)
        await stopped.wait()
        if where == "stop":
            raise RuntimeError("crasher: at stop")
    else:
        await asyncio.sleep(1000)
