"""The processes of a farm: `-m superlower.backends.tvm.tuning.farm_child tracker|server|status ...`."""

from __future__ import annotations

import json
import os
import sys

from superlower.backends.tvm.loading import load_tvm
from superlower.backends.worker import die_with

READY = b"ready\n"


def main(what: str, *arguments: str) -> None:
    """Run a tracker or a server until this process is killed, or print what a tracker knows."""
    if what == "status":
        _status(arguments[0], int(arguments[1]))
        return
    die_with(int(arguments[-1]))
    replies = os.fdopen(os.dup(1), "wb")
    # What TVM prints must not fill a pipe that nobody reads.
    os.dup2(2, 1)
    load_tvm()
    from tvm import rpc

    host, port = arguments[0], int(arguments[1])
    if what == "tracker":
        from tvm.rpc.tracker import Tracker

        made = Tracker(host, port=port, port_end=port + 1, silent=True)
    else:
        tracker = (arguments[2], int(arguments[3]))
        made = rpc.Server(
            host,
            port=port,
            port_end=port + 1,
            tracker_addr=tracker,
            key=arguments[4],
            # The address that clients are told to connect to.
            custom_addr=host,
            silent=True,
        )
    replies.write(READY)
    replies.flush()
    made.proc.join()


def _status(host: str, port: int) -> None:
    load_tvm()
    from tvm import rpc

    found = rpc.connect_tracker(host, port).summary()
    servers = [
        {"key": one["key"].removeprefix("server:"), "address": ":".join(map(str, one["addr"]))}
        for one in found["server_info"]
        if one["key"].startswith("server:")
    ]
    queues = {
        key: {
            "servers": sum(server["key"] == key for server in servers),
            "free": queue["free"],
            "pending": queue["pending"],
        }
        for key, queue in found["queue_info"].items()
    }
    print(json.dumps({"servers": servers, "queues": queues}))


if __name__ == "__main__":
    main(*sys.argv[1:])
