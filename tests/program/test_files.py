from __future__ import annotations

import json
from pathlib import Path

import pytest

from superlower.errors import BadInputError
from superlower.program import files
from superlower.program.model import Edge, Equation, Frame, Program, Stream, TemporalModel
from support.basicvsr import basicvsr_program
from support.programs import fixed_graph

REPOSITORY = Path(__file__).resolve().parents[2]


def model() -> TemporalModel:
    program = Program(
        name="p",
        frame=Frame(height=2, width=2, channels=1, color="y", scale=1),
        streams={
            "frame": Stream(shape=(1, 1, "H", "W"), edge=Edge.REFLECT),
            "h": Stream(shape=(1, 1, "H", "W")),
            "output": Stream(shape=(1, 1, "H", "W")),
        },
        equations=(
            Equation(
                name="a",
                graph="mix_2_2_0",
                inputs={"x0": "frame[t+1]", "x1": "h[t-1]"},
                outputs={"y0": "output", "y1": "h"},
            ),
        ),
        provenance={"source": "test"},
    )
    return TemporalModel(program, {"mix_2_2_0": fixed_graph("mix_2_2_0")})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files.save_model(model(), tmp_path / "m")
    return tmp_path / "m"


def edit(folder: Path, **fields: object) -> None:
    path = folder / "program.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_what_is_written_is_read_back(folder: Path) -> None:
    assert files.load_model(folder).program == model().program
    assert sorted(p.name for p in folder.parent.iterdir()) == ["m"]


def test_basicvsr_survives_its_json() -> None:
    program = basicvsr_program()
    assert files.decode(files.encode(program), "x") == program


def test_saving_replaces_a_program_but_nothing_else(folder: Path, tmp_path: Path) -> None:
    files.save_model(model(), folder)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(BadInputError, match="is no program folder"):
        files.save_model(model(), tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.png").exists()


@pytest.mark.parametrize("name", ["README.md", "graphs/another.onnx", "graphs/mix_2_2_0.py"])
def test_a_program_folder_with_files_of_the_users_own_is_not_replaced(folder: Path, name: str) -> None:
    (folder / name).write_text("mine")
    with pytest.raises(BadInputError, match=f"m holds {name}, which superlower didn't write"):
        files.save_model(model(), folder)
    (folder / name).unlink()
    (folder / files.GOLDEN_FILE).write_text("export's")
    files.save_model(model(), folder)
    assert not (folder / files.GOLDEN_FILE).exists()


def test_a_program_that_cant_be_read_is_not_replaced(folder: Path) -> None:
    (folder / "program.json").write_text('{"format": 1}')
    with pytest.raises(BadInputError, match=r"can't tell what in .*m may be replaced .*: remove it first"):
        files.save_model(model(), folder)
    assert (folder / "program.json").read_text() == '{"format": 1}'


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": 1}, r"program\.json: Object contains unknown field `colour`"),
        ({"format": 3}, "format 3 is newer than 2"),
        ({"output": "outptu"}, "unknown output stream 'outptu': did you mean output"),
        ({"equations": "none"}, r"Expected `array`, got `str` - at `\$\.equations`"),
        ({"streams": {}}, "unknown input stream 'frame'"),
    ],
)
def test_a_bad_field_is_one_clear_error(folder: Path, fields: dict[str, object], message: str) -> None:
    edit(folder, **fields)
    with pytest.raises(BadInputError, match=message) as caught:
        files.load_model(folder)
    assert "\n" not in str(caught.value)


def test_not_json(folder: Path) -> None:
    (folder / "program.json").write_text("{")
    with pytest.raises(BadInputError, match=r"program\.json: .*truncated"):
        files.load_model(folder)


def test_missing_graph(folder: Path) -> None:
    (folder / "graphs" / "mix_2_2_0.onnx").unlink()
    with pytest.raises(BadInputError, match=r"missing graph: .* calls 'mix_2_2_0'"):
        files.load_model(folder)


def test_corrupt_graph(folder: Path) -> None:
    (folder / "graphs" / "mix_2_2_0.onnx").write_bytes(b"hello")
    with pytest.raises(BadInputError, match=r"mix_2_2_0\.onnx is not a valid ONNX model"):
        files.load_model(folder)


def test_not_a_program_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no program\.json in"):
        files.load_model(tmp_path)


def test_the_published_schema_is_the_one_in_force() -> None:
    assert (REPOSITORY / "docs" / "program.schema.json").read_bytes() == files.schema()
