"""What each step of the GPU run does, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superlower.backends.base import Backend, BuildOptions
from superlower.backends.registry import backends
from superlower.backends.tensorrt.cuda import Device, Driver
from superlower.bundle.bundle import Bundle
from superlower.bundle.golden import frame_errors
from superlower.check.crosscheck import check_variant
from superlower.driver import export as exporting
from superlower.driver.building import Job
from superlower.driver.compile import compile_bundle
from superlower.driver.engine_cache import EngineCache
from superlower.driver.many_builds import Builds
from superlower.driver.speed import Contender, contenders, race
from superlower.errors import BadInputError, MissingSdkError
from superlower.frontends.base import ExportRequest
from superlower.frontends.weights import fetch_weights
from superlower.program import files
from superlower.targets.base import Precision, Target
from superlower.targets.catalog import target, targets

Frames = Sequence[NDArray[np.float32]]
EAGER = "PyTorch eager fp32"
PRECISIONS = (Precision.FP32, Precision.FP16)


def find_device() -> dict[str, Any]:
    """The GPU here, and the target of the catalogue that stands for its architecture.

    Raises:
        MissingSdkError: no driver, no GPU, or none of a known architecture.
    """
    driver = Driver()
    found = driver.devices()
    if not found:
        raise MissingSdkError("the NVIDIA driver finds no GPU on this machine")
    where = target_of(found)
    return {
        "name": found[0].name,
        "sm": found[0].sm,
        "target": where.name,
        "driver": driver.version,
        "backends": {sdk.name: sdk.missing() or sdk.runnable(where) for sdk in backends()},
        "versions": {sdk.name: sdk.versions() for sdk in backends()},
    }


def target_of(devices: Sequence[Device]) -> Target:
    """The target of the first device: that of its name if there is one, else of its SM number."""
    device = devices[0]
    alike = [one for one in targets() if one.compute_capability == device.sm]
    if not alike:
        raise MissingSdkError(f"no target in the catalogue is sm_{device.sm} ({device.name})")
    words = set(device.name.lower().split())
    return max(alike, key=lambda one: len(words & set(one.title.lower().split())))


def prepare(model: str, size: tuple[int, int], weights: str, work: Path) -> dict[str, Any]:
    """Export a model with PyTorch's outputs on the CPU, which every engine is held to."""
    made = exporting.export(model, weights, *size)
    exporting.save(made, work / model / "program")
    return {"graphs": list(made.model.graphs), "largest error on the CPU": max(made.max_abs)}


def build(model: str, backend_name: str, where: Target, work: Path, timeout_s: float) -> dict[str, Any]:
    """Build a model's engines by one backend, at each precision it takes; each graph comes from the cache if
    it was built before."""
    folder = work / model / "program"
    loaded = files.load_model(folder)
    sdk = next(one for one in backends() if one.name == backend_name)
    jobs = [Job(sdk, where, p) for p in PRECISIONS if sdk.serves(where, p) is None]
    if not jobs:
        raise BadInputError(f"{backend_name} serves {where.name} at none of {', '.join(PRECISIONS)}")
    cores = len(os.sched_getaffinity(0))
    builds = Builds(max(1, cores // 2), EngineCache(work / "engines", 10**11))
    made = compile_bundle(
        loaded,
        jobs,
        exporting.golden_for(loaded, folder, None),
        work / model / backend_name,
        options=BuildOptions(timeout_s=timeout_s),
        keep_going=True,
        builds=builds,
    )
    return {
        "built": None if builds.cache is None else builds.cache.built,
        "variants": {
            v.name: {
                "MB": sum(r.bytes for n, r in made.bundle.manifest.files.items() if f"/{v.name}/" in n) / 1e6,
                "build_s": sum(engine.build_s for engine in v.engines.values()),
                "facts": {graph: engine.facts for graph, engine in v.engines.items()},
            }
            for v in made.bundle.manifest.variants
        },
        "failures": {failure.job: str(failure.error) for failure in made.failures},
    }


def check(model: str, backend_name: str, work: Path) -> dict[str, Any]:
    """Hold a model's engines to PyTorch's outputs, frame by frame."""
    bundle = Bundle.open(work / model / backend_name)
    golden = bundle.golden()
    return {v.name: asdict(check_variant(bundle, v, golden)) for v in bundle.manifest.variants}


def speed(
    model: str,
    names: Sequence[str],
    size: tuple[int, int],
    weights: str,
    work: Path,
    compiled: bool,
    rounds: int,
) -> dict[str, Any]:
    """Time engines beside PyTorch in turns, from host frames to host frames.

    Args:
        names: backends whose bundles are there.
        compiled: time torch.compile in the place of the engines.
    """
    found = [Bundle.open(work / model / name) for name in names]
    if not found:
        raise BadInputError(f"no engines of {model} to take the clip from")
    golden = found[0].golden()
    # The golden clip itself: its outputs are known.
    clip, network = golden.frames, PyTorch(model, size, weights)
    with ExitStack() as stack:
        ready, errors, failed = pytorch_contenders(network, clip, golden.outputs, compiled)
        for bundle in [] if compiled else found:
            variants = [v for v in bundle.manifest.variants if bundle.why_not(v) is None]
            ready |= stack.enter_context(contenders(bundle, variants, clip))
        rows = race(ready, len(clip), rounds=rounds)
    return {"rows": [asdict(row) for row in rows], "errors": errors, "failed": failed, "frames": len(clip)}


class PyTorch:
    """A zoo network on a device, by the clip."""

    def __init__(self, model: str, size: tuple[int, int], weights: str, device: str = "cuda") -> None:
        architecture = exporting.frontend(model)
        fetched = fetch_weights(weights, architecture)
        self._request = ExportRequest(fetched.path, *size, options={}, source=fetched.source)
        self._architecture: Any = architecture
        self._device = device

    def runner(
        self, clip: Frames, *, half: bool = False, compiled: bool = False
    ) -> Callable[[], list[NDArray[np.float32]]]:
        """Runs the clip from the host's memory to the host's memory; the network's own loop over its frames.

        Half is PyTorch's autocast, which leaves warps in fp32, as the engines do. Compiled are the methods
        that are exported as graphs, called once or twice a frame: the whole clip as one graph would hold
        every layer once a frame.
        """
        import torch

        blueprint = self._architecture.blueprint(self._request)
        network = blueprint.network.to(self._device).eval()
        if compiled:
            for name in {method.__name__ for method in blueprint.methods.values()}:
                setattr(network, name, torch.compile(getattr(network, name)))
        host = torch.from_numpy(np.concatenate(list(clip)))
        typed = torch.float16 if self._device == "cuda" else torch.bfloat16

        def run() -> list[NDArray[np.float32]]:
            with torch.inference_mode(), torch.autocast(self._device, typed, enabled=half):
                output = network(host.to(self._device)).float().cpu().numpy()
            return [output[t : t + 1] for t in range(len(clip))]

        return run


def pytorch_contenders(
    network: PyTorch, clip: Frames, expected: Frames, compiled: bool
) -> tuple[dict[str, Contender], dict[str, float], dict[str, str]]:
    """PyTorch's ways that run; the largest difference of each from its own run on the CPU; why others don't.

    Args:
        clip: what they are timed on.
        expected: its outputs, PyTorch's on the CPU.
        compiled: torch.compile beside eager fp32, in the place of eager's both precisions.
    """
    ways = {EAGER: (False, False), "PyTorch eager fp16 (autocast)": (True, False)}
    if compiled:
        ways = {
            EAGER: (False, False),
            "torch.compile fp32": (False, True),
            "torch.compile fp16": (True, True),
        }
    ready, errors, failed = {}, {}, {}
    for name, (half, how) in ways.items():
        try:
            run = network.runner(clip, half=half, compiled=how)
            outputs = run()
        except Exception as error:  # Whatever PyTorch fails with, the others go on.
            failed[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
            continue
        if len(expected) == len(outputs):
            errors[name] = max(frame_errors(outputs, list(expected), 1.0)[0])
        ready[name] = Contender(run)
    return ready, errors, failed


def tune(model: str, where: Target, work: Path, seconds: float) -> dict[str, Any]:
    """`superlower tune` for some minutes, in half precision, whose search has schedules for tensor cores.

    Raises:
        MissingSdkError: this superlower has no such verb.
    """
    command = [sys.executable, "-m", "superlower.cli.main", "tune"]
    asked = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        raise MissingSdkError("this superlower has no verb `tune`: engines run by TVM's default schedules")
    minutes = max(0.5, seconds / 60)
    began = time.monotonic()
    done = subprocess.run(
        [
            *(*command, str(work / model / "program"), "--target", where.name),
            *("--precision", str(Precision.FP16), "--minutes", f"{minutes:.2f}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    if done.returncode != 0:
        raise BadInputError(f"superlower tune ended with {done.returncode}: {lines[-1] if lines else ''}")
    return {"seconds": time.monotonic() - began, "said": lines[-20:]}


@contextmanager
def without_devices() -> Iterator[None]:
    """No GPU is seen in the block: builds then can't run what they built, and a crash of it isn't theirs."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def contending(where: Target, here: bool) -> dict[str, str | None]:
    """Backend -> why it has no part, for the target; of those that are here, None.

    Args:
        here: whether engines must run on this machine.
    """

    def reason(sdk: Backend) -> str | None:
        served = [sdk.serves(where, p) for p in PRECISIONS]
        unserved = None if None in served else served[0]
        return sdk.missing() or unserved or (sdk.runnable(where) if here else None)

    return {sdk.name: reason(sdk) for sdk in backends()}


def by_name(name: str) -> Target:
    """A target of an NVIDIA GPU.

    Raises:
        BadInputError: it is none.
    """
    found = target(name)
    if found.compute_capability is None:
        raise BadInputError(f"--target {name}: {found.title} is no NVIDIA GPU")
    return found
