"""superlower farm: devices that measure schedules for `superlower tune`, on this machine or others."""

from __future__ import annotations

from typing import Annotated

import typer

from superlower.backends.tvm.tuning import farm as farms
from superlower.cli.common import JsonFlag, Threads, console, print_json, print_table
from superlower.cli.tune import parse_address
from superlower.driver.tune import missing
from superlower.errors import MissingSdkError

farm = typer.Typer(help="Devices that measure schedules for `superlower tune`.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.add_typer(farm, name="farm")


@farm.command("serve")
def serve(
    key: Annotated[str, typer.Option("--key", help="What the devices are registered as, as rtx4090.")],
    servers: Annotated[int, typer.Option("--servers", min=1, help="One for each device.")] = 1,
    host: Annotated[str, typer.Option("--host", help="Address to bind to.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The tracker's; 0 for any that is free.")
    ] = 9190,
    tracker: Annotated[
        str | None, typer.Option("--tracker", help="HOST:PORT of a running tracker to register at.")
    ] = None,
    threads: Threads = 0,
) -> None:
    """Lend this machine's devices to tuners, until stopped; start a tracker unless one is given.

    TVM's RPC has no authentication and runs any code it is sent: keep it on loopback, behind a tunnel.
    """
    if (reason := missing()) is not None:
        raise MissingSdkError(reason)
    if not farms.is_loopback(host):
        console.print(
            f"{host} can be reached from other machines, and TVM's RPC runs any code it is sent by anyone: "
            f"behind a firewall only; a tunnel to 127.0.0.1 is safer",
            style="yellow",
            soft_wrap=True,
        )
    joined = None if tracker is None else parse_address(tracker, "--tracker")
    with farms.Farm(key, servers, host=host, port=port, tracker=joined, threads=threads) as running:
        where = "{}:{}".format(*running.address)
        console.print(f"tracker at {where}, {servers} servers registered as {key}; Ctrl-C ends them")
        console.print(f"superlower tune MODEL --target T --tracker {where} --key {key}")
        running.watch(lambda what: console.print(f"{what}: starting it again", style="yellow"))


@farm.command("status")
def status(
    tracker: Annotated[str, typer.Option("--tracker", help="HOST:PORT of the tracker.")] = "127.0.0.1:9190",
    json: JsonFlag = False,
) -> None:
    """Tell what devices a tracker has, and who waits for them."""
    if (reason := missing()) is not None:
        raise MissingSdkError(reason)
    found = farms.status(*parse_address(tracker, "--tracker"))
    if json:
        print_json(found)
        return
    print_table(
        f"tracker at {tracker}",
        ("key", "servers", "free", "requests waiting"),
        ((key, queue.servers, queue.free, queue.pending) for key, queue in found.queues.items()),
    )
    for server in found.servers:
        console.print(f"{server.key} at {server.address}")
