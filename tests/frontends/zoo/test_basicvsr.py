"""BasicVSR: the network against the reference outputs, its export against the network, and its refusals."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch

from superlower import ir, plugins
from superlower.errors import BadInputError
from superlower.frontends.base import ExportRequest, ZooFrontend
from superlower.frontends.zoo.basicvsr import MINIMUM_SIDE, BasicVsr
from superlower.frontends.zoo.basicvsr_torch import BasicVsrNet
from superlower.frontends.zoo.checkpoint import seed_parameters
from superlower.program import legality
from superlower.program.interpret import interpret
from superlower.program.model import TemporalModel

BLOCKS = 2
FRAMES = 5
SIZE = (33, 95)
"""Of most tests: neither side a multiple of what the network halves, the shorter one as short as may be."""
# fp32 sums in another order: 2^-24 a product, sqrt(9 * 67) of them adding at random in a convolution, and
# (2 * 2 + 1) + 6 convolutions in a row in each of 5 frames: 6e-8 * 25 * 55 = 8e-5, on values around 1.
ROUNDING = 1e-4


def request(
    height: int = SIZE[0], width: int = SIZE[1], weights: str | Path = "random:0", **options: str
) -> ExportRequest:
    return ExportRequest(Path(weights), height, width, options, str(weights))


def clip(height: int, width: int, frames: int = FRAMES) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.random((1, 3, height, width), dtype=np.float32) for _ in range(frames)]


@cache
def exported(height: int, width: int) -> TemporalModel:
    return BasicVsr().export(request(height, width, blocks=str(BLOCKS)))


@pytest.fixture(scope="module")
def model() -> TemporalModel:
    return exported(*SIZE)


def save(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def small_state() -> dict[str, torch.Tensor]:
    network = BasicVsrNet(BLOCKS)
    seed_parameters(network, 3)
    return network.state_dict()


def test_is_a_zoo_frontend() -> None:
    assert isinstance(BasicVsr(), ZooFrontend)
    assert plugins.load("frontend", BasicVsr.name) is BasicVsr


def test_names_and_shapes_are_those_of_public_checkpoints(oracles: Path) -> None:
    lines = (oracles / "parity" / "basicvsr_nb30.keys.txt").read_text().splitlines()
    expected = dict(line.split(" ", 1) for line in lines if line)
    found = {key: str(tuple(tensor.shape)) for key, tensor in BasicVsrNet(30).state_dict().items()}
    assert found == expected
    assert sum(p.numel() for p in BasicVsrNet(30).parameters()) == 6_291_311


def test_network_equals_the_reference(oracles: Path) -> None:
    with np.load(oracles / "parity" / "basicvsr_nb30.npz") as parity:
        frames, expected = parity["in0"][0], parity["out0"][0]
    run = BasicVsr().reference(request(*frames.shape[2:], blocks="30"))
    found = np.concatenate(run([frame[None] for frame in frames]))
    error = np.abs(found - expected).max() / expected.std()
    print(f"PyTorch: {error:.1e}")
    # Two builds of PyTorch may sum in another order: ROUNDING, in terms of the output's deviation.
    assert error < ROUNDING


@pytest.mark.parametrize(("height", "width"), [SIZE, pytest.param(64, 64, marks=pytest.mark.slow)])
def test_program_equals_the_network_over_a_clip(height: int, width: int, caller) -> None:
    asked = request(height, width, blocks=str(BLOCKS))
    model = exported(height, width)
    legality.verify(model.program)
    legality.verify_graphs(model)
    frames = clip(height, width)
    call = caller(model)
    found = np.concatenate(interpret(model.program, frames, call))
    expected = np.concatenate(BasicVsr().reference(asked)(frames))
    assert found.shape == (FRAMES, 3, 4 * height, 4 * width)
    assert np.abs(found - expected).max() < ROUNDING
    flow = call("flow", {"ref": frames[0], "sup": frames[1]})["flow"]
    assert np.abs(flow).max() > 0.1, "flows this small would hide a wrong warp"


def test_one_frame_is_a_clip(model, caller) -> None:
    frames = clip(*SIZE, 1)
    expected = BasicVsr().reference(request(blocks=str(BLOCKS)))(frames)
    found = interpret(model.program, frames, caller(model))
    assert np.abs(found[0] - expected[0]).max() < ROUNDING


def test_order_of_frames_matters(model, caller) -> None:
    """The neighbours' share of the output is far above the tolerance that the other tests compare with."""
    frames = clip(*SIZE, 3)
    forwards = interpret(model.program, frames, caller(model))
    backwards = interpret(model.program, frames[::-1], caller(model))[::-1]
    assert np.abs(np.concatenate(forwards) - np.concatenate(backwards)).max() > 30 * ROUNDING


def test_graph_inputs_and_outputs(model) -> None:
    names = {name: tuple(map(tuple, ir.io_shapes(graph))) for name, graph in model.graphs.items()}
    assert names == {
        "flow": (("ref", "sup"), ("flow",)),
        "backward": (("x", "hidden", "flow"), ("hidden_next",)),
        "forward": (("x", "hidden", "flow", "back"), ("hidden_next", "output")),
    }


def test_graphs_are_of_the_pinned_versions_and_forms() -> None:
    for graph in exported(*SIZE).graphs.values():
        assert graph.opset_imports == {"": ir.OPSET}
        assert graph.ir_version == ir.IR_VERSION
        for node in graph.graph:
            if node.op_type == "Resize":
                # Sizes, since TVM's importer gets scales with a non-integral result wrong.
                assert ir.constant_value(node.inputs[2]) is None
                assert ir.constant_value(node.inputs[3]) is not None
            if node.op_type == "GridSample":
                assert node.attributes["mode"].as_string() == "bilinear"
        operators = {node.op_type for node in graph.graph}
        assert not operators & {"Shape", "Reshape", "Range", "ScatterND", "ScatterElements", "If"}


def test_nodes_are_named_after_modules(model) -> None:
    names = [node.name for node in model.graphs["forward"].graph]
    assert len(set(names)) == len(names)
    assert "forward_trunk.main.2.1.conv2/Conv" in names
    assert "forward_trunk.main.2.1.conv2.weight" in model.graphs["forward"].graph.initializers


def test_two_exports_are_the_same_bytes_and_hold_no_path(model) -> None:
    script = (
        "from pathlib import Path\n"
        "from superlower import ir\n"
        "from superlower.frontends.base import ExportRequest\n"
        "from superlower.frontends.zoo.basicvsr import BasicVsr\n"
        f"asked = ExportRequest(Path('random:0'), *{SIZE}, {{'blocks': '{BLOCKS}'}}, 'random:0')\n"
        "print(*(ir.digest(g) for g in BasicVsr().export(asked).graphs.values()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [ir.digest(graph) for graph in model.graphs.values()]
    assert done.stderr == ""
    for graph in model.graphs.values():
        data = ir.serialize(graph)
        for trace in (str(Path(__file__).parents[3]).encode(), b"site-packages", b".py", b"aten"):
            assert trace not in data


def test_export_of_a_small_frame_from_a_file(
    small_state: dict[str, torch.Tensor], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save({"params": small_state}, tmp_path / "weights.pth")
    program = BasicVsr().export(request(20, 40, path)).program
    assert capfd.readouterr() == ("", "")
    assert program.frame.padded == (MINIMUM_SIDE, 40)
    assert program.sizes("output") == (1, 3, 4 * MINIMUM_SIDE, 160)
    assert program.provenance["blocks"] == str(BLOCKS)
    assert program.provenance["weights"] == str(path)
    assert program.provenance["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "weights_sha256" not in exported(*SIZE).program.provenance


def test_lists_without_torch() -> None:
    script = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from superlower.errors import MissingSdkError\n"
        "from superlower.frontends.base import ExportRequest\n"
        "from superlower.frontends.zoo.basicvsr import BasicVsr\n"
        "print(BasicVsr().missing(), BasicVsr.checkpoints[0].name)\n"
        "try:\n"
        "    BasicVsr().export(ExportRequest(Path('random:0'), 64, 64, {}, 'random:0'))\n"
        "except MissingSdkError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("pip install 'superlower[torch]'" in line for line in lines)


def test_a_checkpoint_file_is_what_runs(small_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = save({"params": small_state}, tmp_path / "weights.pth")
    frames = clip(40, 40, 2)
    network = BasicVsrNet(BLOCKS).eval()
    network.load_state_dict(small_state)
    with torch.no_grad():
        expected = network(torch.from_numpy(np.concatenate(frames))).numpy()
    np.testing.assert_array_equal(
        np.concatenate(BasicVsr().reference(request(40, 40, path))(frames)), expected
    )


def test_another_number_of_blocks_is_refused(small_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = save({"params": small_state}, tmp_path / "weights.pth")
    with pytest.raises(BadInputError, match=r"another architecture than BasicVSR with 3 blocks.*8 missing"):
        BasicVsr().reference(request(weights=path, blocks="3"))
    with pytest.raises(BadInputError, match=r"8 unexpected \(backward_trunk\.main\.2\.1\.conv1\.weight"):
        BasicVsr().reference(request(weights=path, blocks="1"))


def test_another_shape_is_refused_by_name(small_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = {**small_state, "conv_last.weight": torch.zeros(12, 64, 3, 3)}
    path = save(state, tmp_path / "weights.pth")
    with pytest.raises(
        BadInputError, match=r"1 of another shape \(conv_last\.weight 12x64x3x3 instead of 3x64x3x3\)"
    ):
        BasicVsr().reference(request(weights=path))


class Evil:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.pth"
    text.write_text("hello")
    touched = tmp_path / "touched"
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps({"params": Evil(touched)}))
    number = save(3, tmp_path / "number.pth")
    empty = save({"params": {}}, tmp_path / "empty.pth")
    other = save({"params": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    for path, message in (
        (tmp_path / "absent.pth", "no such checkpoint"),
        (text, "is not a PyTorch checkpoint"),
        (evil, "is not a PyTorch checkpoint"),
        (number, "holds a int, not a state dict"),
        (empty, "holds no tensors"),
        (other, "another architecture"),
    ):
        with pytest.raises(BadInputError, match=message) as caught:
            BasicVsr().export(request(weights=path))
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)
    assert not touched.exists()


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(BadInputError, match="0x64 pixels has nothing to upscale"):
        BasicVsr().export(request(64, 0))


@pytest.mark.parametrize(
    ("options", "message"), [({"block": "3"}, "did you mean blocks"), ({"blocks": "0"}, "blocks=0")]
)
def test_bad_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        BasicVsr().export(request(**options))


def test_seed_changes_the_weights() -> None:
    frames = clip(40, 40, 1)
    zero, again, one = (
        BasicVsr().reference(request(40, 40, f"random:{seed}", blocks="1"))(frames)[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(zero, again)
    assert np.abs(zero - one).max() > 0.01
