from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from superlower.backends.base import BuildOptions
from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle, seal, writing
from superlower.bundle.manifest import (
    FORMAT,
    MANIFEST_FILE,
    FileRecord,
    Manifest,
    Measured,
    Variant,
    decode,
    encode,
)
from superlower.check.crosscheck import check_variant
from superlower.driver.building import Job
from superlower.driver.compile import compile_bundle
from superlower.driver.export import golden_for
from superlower.errors import BadInputError, MissingSdkError
from superlower.runtime.load import open_runner
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.models import recurrent
from support.wrong import Wrong

ENGINE = "variants/onnxruntime-cpu-fp32/step/model.onnx"


def read(folder: Path) -> Manifest:
    return decode((folder / MANIFEST_FILE).read_bytes(), "test")


def reseal(folder: Path, **changes: object) -> Bundle:
    """Change fields of the first variant, and make the manifest consistent again, as a forger would."""
    manifest = read(folder)
    variants = (msgspec.structs.replace(manifest.variants[0], **changes), *manifest.variants[1:])
    changed = msgspec.structs.replace(manifest, variants=variants).sealed()
    (folder / MANIFEST_FILE).write_bytes(encode(changed))
    return Bundle.open(folder)


def with_artifact(variant: Variant, **changes: object) -> dict[str, object]:
    (name, artifact), *_ = variant.engines.items()
    return {"engines": {**variant.engines, name: msgspec.structs.replace(artifact, **changes)}}


def test_every_file_is_in_the_manifest_by_size_and_digest(recurrent_bundle: Path) -> None:
    present = {
        p.relative_to(recurrent_bundle).as_posix(): p for p in recurrent_bundle.rglob("*") if p.is_file()
    }
    present.pop(MANIFEST_FILE)
    assert {ENGINE, "golden.npz", "program/program.json", "program/graphs/step.onnx"} <= present.keys()
    assert read(recurrent_bundle).files == {
        name: FileRecord(bytes=len(data := path.read_bytes()), sha256=hashlib.sha256(data).hexdigest())
        for name, path in present.items()
    }


@pytest.mark.parametrize("name", [ENGINE, "golden.npz", "program/program.json", "program/graphs/step.onnx"])
def test_damage_to_a_file_is_named(name: str, recurrent_bundle: Path, copied: Callable[[Path], Path]) -> None:
    folder = copied(recurrent_bundle)
    file = folder / name
    whole = file.read_bytes()

    file.write_bytes(whole[:-1])
    with pytest.raises(BadInputError, match=rf"{name} has {len(whole) - 1} bytes instead of {len(whole)}"):
        Bundle.open(folder)

    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(BadInputError, match=rf"{name} was altered \(sha256 differs\)"):
        Bundle.open(folder)

    file.unlink()
    with pytest.raises(BadInputError, match=f"{name} is missing"):
        Bundle.open(folder)

    file.write_bytes(whole)
    Bundle.open(folder)


@pytest.mark.parametrize(
    "name", ["notes.txt", "variants/onnxruntime-cpu-fp32/step/x.so", "program/bundle.json"]
)
def test_a_file_too_many_is_named(name: str, recurrent_bundle: Path, copied: Callable[[Path], Path]) -> None:
    folder = copied(recurrent_bundle)
    (folder / name).write_text("")
    with pytest.raises(BadInputError, match=f"{name} is not in its manifest: remove it"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the manifest is damaged"),
        (b"\x80\xff", "the manifest is damaged"),
        (b"[]", "the manifest is damaged"),
        (b'{"format": "one"}', "the manifest is damaged"),
        (b'{"format": 1, "colour": 2}', "the manifest is damaged"),
        (b'{"format": %d, "anything": {}}' % (FORMAT + 1), f"format {FORMAT + 1} is newer than {FORMAT}"),
    ],
)
def test_a_manifest_that_cant_be_read(text: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(text)
    with pytest.raises(BadInputError, match=message):
        Bundle.open(tmp_path)


def test_errors_without_end_survive_the_manifest(
    recurrent_bundle: Path, copied: Callable[[Path], Path]
) -> None:
    """ONNX Runtime reproduces itself: PSNRs are infinite. An infinite error is the other end."""
    folder = copied(recurrent_bundle)
    found = read(folder).variants[0].measured
    assert found is not None
    assert set(found.psnr_db) == {np.inf}
    assert json.loads((folder / MANIFEST_FILE).read_text())["variants"][0]["measured"]["psnr_db"][0] == "inf"
    measured = Measured(max_abs=(0.0, np.inf, 2.0), psnr_db=(np.inf, -np.inf, 40.5))
    bundle = reseal(folder, measured=measured)
    assert bundle.manifest.variants[0].measured == measured
    for text, name in ((b'"-inf"', b'"-infinity"'), (b"40.5", b"null")):
        whole = encode(read(folder))
        assert text in whole
        with pytest.raises(BadInputError, match="the manifest is damaged"):
            decode(whole.replace(text, name), "test")


def test_a_manifest_altered_by_hand(recurrent_bundle: Path, copied: Callable[[Path], Path]) -> None:
    folder = copied(recurrent_bundle)
    path = folder / MANIFEST_FILE
    text = path.read_bytes()
    assert text.count(b'"tolerance":0.001,') == 1
    path.write_bytes(text.replace(b'"tolerance":0.001,', b'"tolerance":0.1,'))
    with pytest.raises(BadInputError, match="was altered after it was written"):
        Bundle.open(folder)


def test_a_manifest_from_before_a_field_was_there(
    recurrent_bundle: Path, copied: Callable[[Path], Path]
) -> None:
    path = copied(recurrent_bundle) / MANIFEST_FILE
    document = msgspec.json.decode(path.read_bytes())
    for variant in document["variants"]:
        assert variant.pop("planned") is None
    document["checksum"] = ""
    document["checksum"] = hashlib.sha256(msgspec.json.encode(document)).hexdigest()
    path.write_bytes(msgspec.json.encode(document))
    assert Bundle.open(path.parent).manifest.variants == Bundle.open(recurrent_bundle).manifest.variants


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="not a bundle; `superlower compile` makes one"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("field", ["backend", "target"])
def test_a_foreign_engine(field: str, recurrent_bundle: Path, copied: Callable[[Path], Path]) -> None:
    folder = copied(recurrent_bundle)
    other = {"backend": "openvino", "target": "rtx3090"}
    bundle = reseal(folder, **with_artifact(read(folder).variants[0], **{field: other[field]}))
    built = {"backend": "openvino for cpu", "target": "onnxruntime for rtx3090"}[field]
    with pytest.raises(BadInputError, match=rf"foreign engine: step of variant .* was built by {built}"):
        bundle.load(bundle.manifest.variants[0])


def test_an_engine_that_its_sdk_cant_read(recurrent_bundle: Path, copied: Callable[[Path], Path]) -> None:
    folder = copied(recurrent_bundle)
    (folder / ENGINE).write_bytes(b"no engine")
    bundle = reseal_files(folder)
    with pytest.raises(BadInputError, match=r"no engine that ONNX Runtime .* can read: .*compile it again"):
        bundle.load(bundle.manifest.variants[0])


def test_an_engine_of_another_tvm(recurrent_bundle: Path, copied: Callable[[Path], Path]) -> None:
    """TVM's libraries fit one version of it: that is told before anything is loaded."""
    pytest.importorskip("tvm", reason="TVM isn't installed: pip install 'superlower[tvm]'")
    folder = copied(recurrent_bundle)
    other = with_artifact(read(folder).variants[0], backend="tvm", sdk={"apache-tvm": "0.9"})
    bundle = reseal(folder, backend="tvm", **other)
    with pytest.raises(BadInputError, match=r"built by apache-tvm 0\.9, here is .*: compile it again"):
        bundle.load(bundle.manifest.variants[0])


def test_an_engine_of_another_openvino(tmp_path: Path) -> None:
    """Its blob is for one version only; the IR beside it says the same, and is compiled instead."""
    pytest.importorskip("openvino", reason="OpenVINO isn't installed: pip install 'superlower[openvino]'")
    model = recurrent()
    job = Job(backend("openvino"), target("cpu"), Precision.FP32)
    golden = golden_for(model, None, None)
    folder = compile_bundle(
        model, [job], golden, tmp_path / "b", options=BuildOptions(threads=1)
    ).bundle.folder
    variant = read(folder).variants[0]
    (folder / "variants" / variant.name / "step" / variant.engines["step"].files["blob"]).write_bytes(
        b"another"
    )
    reseal_files(folder)
    bundle = reseal(folder, **with_artifact(variant, sdk={"openvino": "2025.0"}))
    assert check_variant(bundle, bundle.manifest.variants[0], bundle.golden()).passed


def reseal_files(folder: Path) -> Bundle:
    bundle = Bundle(folder, read(folder))
    seal(folder, bundle.program, bundle.golden(), bundle.manifest.variants, bundle.manifest.passes)
    return Bundle.open(folder)


def test_instructions_this_processor_lacks(recurrent_bundle: Path, copied: Callable[[Path], Path]) -> None:
    folder = copied(recurrent_bundle)
    machine = {"processor": "Elbrus, 8 cores", "flags": "mmx3000 avx9000"}
    bundle = reseal(folder, machine=machine)
    reason = "built on Elbrus, 8 cores, it uses avx9000 mmx3000, absent on this one"
    assert bundle.why_not(bundle.manifest.variants[0]) == reason
    with pytest.raises(MissingSdkError, match=f"onnxruntime-cpu-fp32: {reason}"):
        bundle.pick()
    found = check_variant(bundle, bundle.manifest.variants[0], bundle.golden())
    assert (found.passed, found.skipped, found.max_abs) == (None, reason, ())


def test_the_first_that_fits_is_picked(recurrent_bundle: Path, copied: Callable[[Path], Path]) -> None:
    """A backend, or a target, that only some plug-in knew is a reason, not an end."""
    folder = copied(recurrent_bundle)
    own = read(folder).variants[0]
    absent = msgspec.structs.replace(own, name="npu", backend="npu-compiler")
    unknown = msgspec.structs.replace(own, name="vpu", target="vpu")
    changed = msgspec.structs.replace(read(folder), variants=(absent, unknown, own)).sealed()
    (folder / MANIFEST_FILE).write_bytes(encode(changed))
    bundle = Bundle.open(folder)
    assert bundle.pick() == own
    assert bundle.pick(backend_name="onnxruntime") == own
    with pytest.raises(MissingSdkError, match="npu: unknown backend 'npu-compiler'"):
        bundle.pick("npu")
    with pytest.raises(MissingSdkError, match="vpu: unknown target 'vpu'"):
        bundle.pick("vpu")
    with pytest.raises(BadInputError, match=r"unknown variant 'npuu': did you mean npu"):
        bundle.pick("npuu")
    with pytest.raises(BadInputError, match=r"backend in this bundle 'onnx': did you mean onnxruntime"):
        bundle.pick(backend_name="onnx")


def test_sessions_are_closed_when_a_later_engine_fails(
    recurrent_bundle: Path, copied: Callable[[Path], Path], install_backend: Callable[[Wrong], None]
) -> None:
    folder = copied(recurrent_bundle)
    closed: list[str] = []

    class Session:
        def close(self) -> None:
            closed.append("step")

    class OneOnly(Wrong):
        def load(self, artifact, folder):
            return Session()

    own = read(folder).variants[0]
    right = msgspec.structs.replace(own.engines["step"], backend="wrong")
    engines = {"step": right, "zoom": own.engines["step"]}
    bundle = reseal(folder, backend="wrong", engines=engines)
    install_backend(OneOnly())
    with pytest.raises(BadInputError, match="foreign engine: zoom"):
        bundle.load(bundle.manifest.variants[0])
    assert closed == ["step"]


def test_sessions_are_closed_when_loading_is_stopped(
    recurrent_bundle: Path, copied: Callable[[Path], Path], install_backend: Callable[[Wrong], None]
) -> None:
    folder = copied(recurrent_bundle)
    closed: list[str] = []

    class Session:
        def close(self) -> None:
            closed.append("step")

    class Stopped(Wrong):
        def load(self, artifact, folder):
            if folder.name == "zoom":
                raise KeyboardInterrupt
            return Session()

    engine = msgspec.structs.replace(read(folder).variants[0].engines["step"], backend="wrong")
    bundle = reseal(folder, backend="wrong", engines={"step": engine, "zoom": engine})
    install_backend(Stopped())
    with pytest.raises(KeyboardInterrupt):
        bundle.load(bundle.manifest.variants[0])
    assert closed == ["step"]


def test_every_session_is_closed_even_if_one_cant_be(
    recurrent_bundle: Path, copied: Callable[[Path], Path], install_backend: Callable[[Wrong], None]
) -> None:
    folder = copied(recurrent_bundle)
    closed: list[str] = []

    class Session:
        def __init__(self, graph: str) -> None:
            self.graph = graph

        def close(self) -> None:
            closed.append(self.graph)
            raise RuntimeError(f"{self.graph} hangs")

    class Stubborn(Wrong):
        def load(self, artifact, folder):
            return Session(folder.name)

    engine = msgspec.structs.replace(read(folder).variants[0].engines["step"], backend="wrong")
    bundle = reseal(folder, backend="wrong", engines={"step": engine, "zoom": engine})
    install_backend(Stubborn())
    with pytest.raises(RuntimeError, match="hangs"), open_runner(bundle, bundle.manifest.variants[0]):
        pass
    assert sorted(closed) == ["step", "zoom"]


def test_a_moved_bundle_works(
    recurrent_bundle: Path, copied: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(recurrent_bundle)
    moved = folder.parent / "else where"
    folder.rename(moved)
    monkeypatch.chdir(moved.parent)
    bundle = Bundle.open(Path("else where"))
    golden = bundle.golden()
    with open_runner(bundle, bundle.pick()) as runner:
        outputs = list(runner.run(golden.frames, total=len(golden.frames)))
    with open_runner(Bundle.open(recurrent_bundle), bundle.pick()) as runner:
        before = list(runner.run(golden.frames, total=len(golden.frames)))
    assert all(map(np.array_equal, outputs, before))


def listing(folder: Path) -> dict[str, bytes | None]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")
    }


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, BadInputError])
@pytest.mark.parametrize("existing", [False, True])
def test_writing_is_all_or_nothing(
    failure: type[BaseException], existing: bool, recurrent_bundle: Path, copied: Callable[[Path], Path]
) -> None:
    folder = copied(recurrent_bundle) if existing else recurrent_bundle.parent / "none" / "bundle"
    folder.parent.mkdir(exist_ok=True)
    before = listing(folder.parent)

    def interrupted() -> None:
        with writing(folder) as aside:
            (aside / "half").write_text("written")
            raise failure("in the middle")

    with pytest.raises(failure):
        interrupted()
    assert listing(folder.parent) == before


def test_a_bundle_is_replaced_whole(recurrent_bundle: Path, copied: Callable[[Path], Path]) -> None:
    folder = copied(recurrent_bundle)
    with writing(folder) as aside:
        (aside / MANIFEST_FILE).write_text("new")
    assert listing(folder.parent) == {"copy": None, f"copy/{MANIFEST_FILE}": b"new"}


def test_the_old_bundle_is_back_if_the_new_one_cant_take_its_name(
    recurrent_bundle: Path, copied: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(recurrent_bundle)
    before = listing(folder.parent)
    rename = Path.rename

    def failing(self: Path, to: Path) -> Path:
        if to == folder and not self.name.endswith(".before"):
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(KeyboardInterrupt), writing(folder):
        pass
    assert listing(folder.parent) == before


def test_the_folder_written_to_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds run in processes of another working folder."""
    monkeypatch.chdir(tmp_path)
    with writing(Path("bundle")) as aside:
        assert aside.is_absolute()
    assert (tmp_path / "bundle").is_dir()


def test_what_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    full, file, empty = tmp_path / "full", tmp_path / "file", tmp_path / "empty"
    full.mkdir()
    (full / "thesis.tex").write_text("years of work")
    file.write_text("more of it")
    empty.mkdir()
    for taken in (full, file):
        with pytest.raises(BadInputError, match="exists and is no bundle"), writing(taken):
            pass
    assert (full / "thesis.tex").read_text() == "years of work"
    assert file.read_text() == "more of it"
    with writing(empty) as aside:
        (aside / "x").write_text("")
    assert [p.name for p in empty.iterdir()] == ["x"]


def test_a_bundle_with_a_file_of_the_users_own_is_not_replaced(
    recurrent_bundle: Path, copied: Callable[[Path], Path]
) -> None:
    folder = copied(recurrent_bundle)
    (folder / "variants" / "notes.txt").write_text("mine")
    message = "copy holds variants/notes.txt, which superlower didn't write"
    with pytest.raises(BadInputError, match=message), writing(folder):
        pass
    (folder / MANIFEST_FILE).write_text("{}")
    with pytest.raises(BadInputError, match=r"can't tell what in .* may be replaced"), writing(folder):
        pass
    assert (folder / "variants" / "notes.txt").read_text() == "mine"


def test_a_damaged_bundle_is_replaced(recurrent_bundle: Path, copied: Callable[[Path], Path]) -> None:
    """Compiling again is what every message about damage says to do."""
    folder = copied(recurrent_bundle)
    (folder / ENGINE).unlink()
    (folder / "golden.npz").write_bytes(b"short")
    with writing(folder) as aside:
        (aside / MANIFEST_FILE).write_text("new")
    assert listing(folder) == {MANIFEST_FILE: b"new"}


def test_a_place_that_cant_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match=r"can't write .*bundle: "), writing(tmp_path / "file" / "bundle"):
        pass
