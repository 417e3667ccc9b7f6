"""The witness's process."""

import asyncio
import socket
import sys
import time

from balancer.component import Event
from balancer.errors import ControlError


async def main(host):
    """Serve its verbs until told to stop."""
    stopped = asyncio.Event()
    config = [host.config]
    totals = {"starts": host.snapshot.get("starts", 0) + 1, "asked": host.snapshot.get("asked", 0)}
    if "handed_over" in host.snapshot:
        totals["handed_over"] = host.snapshot["handed_over"]
    # CAP_NET_RAW is kept where there was any.
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
        raw = True
    except PermissionError:
        raw = False

    def tell(arguments):
        totals["asked"] += 1
        host.channel.publish({**totals, "number": config[0].number})
        return {"number": config[0].number, "node": host.node, "services": [service.name for service in host.services],
                "servers": [server.address for service in host.services for server in service.servers],
                "queries": host.table.services()[0]["queries"], "raw": raw, "state": host.state,
                "modules": sorted(sys.modules), "arguments": dict(arguments), "clock": host.clock()}

    def emit(arguments):
        for number in range(arguments.get("count", 1)):
            host.channel.emit(Event(time.time(), "witness", f"w{number}", "calm", arguments["after"], "asked to"))

    async def slow(arguments):
        await asyncio.sleep(arguments["seconds"])
        return "done"

    async def relay(arguments):
        return await host.channel.request(arguments["kind"], arguments["verb"], arguments.get("arguments", {}), 5.0)

    turned = [0]

    def turn(arguments):
        turned[0] = arguments["to"]
        if turned[0] == 13:
            raise ControlError("the witness does not like that")

    def refuse(arguments):
        raise ControlError("the witness refuses")

    def on_config(section, services):
        config[0] = section
        host.log(f"number is {section.number}, {sum(len(service.servers) for service in services)} servers")

    def hand_over():
        stopped.set()
        return {**totals, "handed_over": host.snapshot.get("handed_over", 0) + 1}

    for verb, handler in (("tell", tell), ("emit", emit), ("slow", slow), ("relay", relay), ("refuse", refuse)):
        host.channel.serve(verb, handler)
    host.channel.serve("turn", turn, lambda: str(turned[0]))
    host.channel.on_config(on_config)
    host.channel.on_stop(stopped.set)
    host.channel.on_hand_over(hand_over)
    host.channel.publish({**totals, "number": config[0].number})
    await stopped.wait()
    host.log("stopped in order")
