"""Programs on disk: a folder with program.json beside graphs/*.onnx. See docs/program-json.md."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from superlower import folders, ir
from superlower.errors import BadInputError
from superlower.program import legality
from superlower.program.model import FORMAT, Program, TemporalModel

PROGRAM_FILE = "program.json"
GRAPH_FOLDER = "graphs"
GOLDEN_FILE = "golden.npz"
"""The golden clip that `export` leaves beside the program (see superlower.bundle.golden)."""


def encode(program: Program) -> bytes:
    """The text of program.json. What only routes and pixels have is left out where there is none."""
    fields = msgspec.to_builtins(program)
    if program.frame.pixels is None:
        del fields["frame"]["pixels"]
    else:
        fields["format"] = FORMAT
    for equation in fields["equations"]:
        if equation["route"] is None:
            del equation["route"]
        elif not equation["graph"]:
            del equation["graph"]
    return msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n"


def decode(text: bytes, where: str) -> Program:
    """Read program.json strictly, and check that the program is legal.

    Raises:
        BadInputError: not JSON, unknown or missing field, newer format, illegal program; it names `where`.
    """
    try:
        version = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("format")
        if version is not None and msgspec.json.decode(version, type=int) > FORMAT:
            raise BadInputError(
                f"{where}: format {bytes(version).decode()} is newer than {FORMAT}, the last this "
                f"superlower reads: upgrade it"
            )
        program = msgspec.json.decode(text, type=Program)
    except msgspec.DecodeError as error:
        raise BadInputError(f"{where}: {error}; see docs/program-json.md") from None
    try:
        legality.verify(program)
    except BadInputError as error:
        raise BadInputError(f"{where}: {error}") from None
    return program


def schema() -> bytes:
    """JSON Schema of program.json."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Program)), indent=2) + b"\n"


def load_program(folder: Path) -> Program:
    """Read a folder's program.json alone."""
    path = folder / PROGRAM_FILE
    if not path.is_file():
        raise BadInputError(f"no {PROGRAM_FILE} in {folder}: not a program folder")
    return decode(path.read_bytes(), str(path))


def load_model(folder: Path) -> TemporalModel:
    """Read a program folder.

    Raises:
        BadInputError: whatever is missing, illegal or doesn't fit together.
    """
    program = load_program(folder)
    graphs = {}
    for name in sorted({name for e in program.equations for name in e.graphs}):
        path = folder / GRAPH_FOLDER / f"{name}.onnx"
        if not path.is_file():
            raise BadInputError(
                f"missing graph: {folder / PROGRAM_FILE} calls '{name}', but there is no {path}"
            )
        graphs[name] = ir.load(path)
    model = TemporalModel(program, graphs)
    try:
        legality.verify_graphs(model)
    except BadInputError as error:
        raise BadInputError(f"{folder}: {error}") from None
    return model


def writing(folder: Path) -> AbstractContextManager[Path]:
    """A folder to write a program in: see `superlower.folders.replacing`.

    Raises:
        BadInputError: the final name is taken by something else than a program folder, or by one that holds
            files which aren't the program's.
    """
    return folders.replacing(folder, "program folder", _written)


def write_model(model: TemporalModel, folder: Path) -> None:
    """Write program.json and the graphs into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph in model.graphs.items():
        ir.save(graph, folder / GRAPH_FOLDER / f"{name}.onnx")
    (folder / PROGRAM_FILE).write_bytes(encode(model.program))


def save_model(model: TemporalModel, folder: Path) -> None:
    """Write a program folder, aside first and then under its name.

    Raises:
        BadInputError: as `writing`.
    """
    with writing(folder) as aside:
        write_model(model, aside)


def _written(folder: Path) -> set[str] | None:
    if not (folder / PROGRAM_FILE).is_file():
        return None
    try:
        program = load_program(folder)
    except BadInputError as error:
        raise BadInputError(
            f"can't tell what in {folder} may be replaced ({error}): remove it first"
        ) from None
    graphs = {f"{GRAPH_FOLDER}/{name}.onnx" for equation in program.equations for name in equation.graphs}
    return {PROGRAM_FILE, GOLDEN_FILE, *graphs}
