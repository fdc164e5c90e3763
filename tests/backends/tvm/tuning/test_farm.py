"""A farm of loopback servers: what is lost with one of them, and what isn't."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from superlower.backends.tvm.tuning import farm as farms
from superlower.backends.tvm.tuning.store import Store
from superlower.driver.tune import Farm, Limits, missing, tune
from superlower.errors import MissingSdkError
from superlower.frontends import onnx_files
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.command import superlower
from support.models import save_upscaler

KEY = "a-cpu"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("gpu7", False),
    ],
)
def test_what_others_can_reach_is_known(host: str, loopback: bool) -> None:
    assert farms.is_loopback(host) == loopback


def test_a_tracker_that_is_not_there_is_said() -> None:
    with pytest.raises(MissingSdkError, match=r"no tracker answers at 127.0.0.1:1 .*farm serve"):
        farms.status("127.0.0.1", 1)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[farms.Farm]:
    """A tracker and three servers."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with farms.Farm(KEY, 3, port=0, threads=1, log=tmp_path / "farm.log") as running:
        yield running


def _status(running: farms.Farm, servers: int) -> farms.Status:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = farms.status(*running.address)
        if len(found.servers) == servers:
            return found
        time.sleep(0.2)
    raise AssertionError(found)


@pytest.mark.slow
def test_status_tells_who_is_there(three: farms.Farm) -> None:
    assert _status(three, 3).queues[KEY].servers == 3
    told = superlower("farm", "status", "--tracker", "{}:{}".format(*three.address), "--json").json
    assert told["queues"][KEY] == {"servers": 3, "free": 3, "pending": 0}
    os.killpg(three.servers[0], signal.SIGKILL)
    assert _status(three, 2).queues[KEY].servers == 2


@pytest.mark.slow
def test_a_server_that_dies_costs_no_more_than_its_measurement(three: farms.Farm, tmp_path: Path) -> None:
    database = Store(tmp_path / "database")
    killed: list[int] = []

    def kill_one() -> None:
        while len(database.read().records) < 6:
            time.sleep(0.05)
        os.killpg(three.servers[0], signal.SIGKILL)
        killed.append(len(database.read().records))

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    result = tune(
        onnx_files.load(save_upscaler(tmp_path / "upscaler.onnx")),
        target("cpu"),
        Precision.FP32,
        database.folder,
        limits=Limits(trials=24),
        threads=1,
        farm=Farm(*three.address, KEY, devices=3),
    )
    killer.join(1)
    assert killed, "the run ended before a server could be killed"
    found = database.read()
    assert found.skipped == 0
    # The same tasks are finished, and every measurement is there, those before and those after.
    assert result.hits == len(result.tasks)
    assert len(found.records) == result.measured > killed[0]
    assert {record.device for record in found.records} == {f"{KEY} (farm)"}
    searched = [record for record in found.records if record.searched]
    assert len(searched) == 24 or all(task.state != "searching" for task in result.tasks)
    # A measurement that was cut off is made again on another server.
    assert all(
        record.seconds or "wrong" in record.error or "Error" in record.error for record in found.records
    )
    assert sum(not record.seconds for record in found.records) <= 3
    assert len(_status(three, 2).servers) == 2
