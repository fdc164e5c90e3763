"""Window networks as PyTorch's exporter writes them down: hoisted with no word about them."""

from __future__ import annotations

import pytest

from superlower.program.model import Edge, Equation, Frame, Program, Stream, TemporalModel
from superlower.rewrites.hoist_frames import HoistFrames
from superlower.rewrites.pipeline import apply
from support.windows import SIDE, clip

torch = pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")


class Fusion(torch.nn.Module):
    """EDVR's shape: a batched pyramid over all frames, alignment to the middle one, batched fusion."""

    def __init__(self) -> None:
        super().__init__()
        conv = torch.nn.Conv2d
        self.first, self.block, self.down = conv(3, 4, 3, 1, 1), conv(4, 4, 3, 1, 1), conv(4, 4, 3, 2, 1)
        self.align, self.embed, self.fuse = conv(12, 4, 3, 1, 1), conv(4, 4, 3, 1, 1), conv(12, 3, 1)

    def forward(self, past, now, following):
        x = torch.stack([past, now, following], dim=1)
        b, t, c, h, w = x.shape
        l1 = torch.nn.functional.leaky_relu(self.first(x.view(-1, c, h, w)), 0.1)
        l1 = l1 + self.block(l1)
        l2 = self.down(l1)
        l1, l2 = l1.view(b, t, -1, h, w), l2.view(b, t, -1, h // 2, w // 2)
        middle = l1[:, 1].clone()
        aligned = []
        for i in range(t):
            coarse = torch.nn.functional.interpolate(l2[:, i], scale_factor=2, mode="bilinear")
            aligned.append(self.align(torch.cat([l1[:, i], middle, coarse], dim=1)))
        stacked = torch.stack(aligned, dim=1)
        embedded = self.embed(stacked.view(-1, 4, h, w)).view(b, t, -1, h, w)
        weights = torch.sigmoid((embedded * embedded[:, 1:2]).sum(2, keepdim=True))
        return self.fuse((stacked * weights).view(b, -1, h, w)) + x[:, t // 2]


@pytest.fixture(scope="module")
def model() -> TemporalModel:
    from superlower.frontends.torch_export import export_module

    torch.manual_seed(0)
    frames = {name: torch.rand(1, 3, SIDE, SIDE) for name in ("past", "now", "following")}
    graph = export_module(Fusion(), frames, ("picture",), name="fusion")
    program = Program(
        name="fusion",
        frame=Frame(height=SIDE, width=SIDE, scale=1),
        streams={
            "frame": Stream(shape=(1, 3, "H", "W"), edge=Edge.REFLECT),
            "output": Stream(shape=(1, 3, "H", "W")),
        },
        equations=(
            Equation(
                name="fusion",
                graph="fusion",
                inputs={"past": "frame[t-1]", "now": "frame[t]", "following": "frame[t+1]"},
                outputs={"picture": "output"},
            ),
        ),
    )
    return TemporalModel(program, {"fusion": graph})


def test_the_pyramid_is_hoisted(model: TemporalModel) -> None:
    after, (report,) = apply(model, [HoistFrames()], clip(5))
    counts = {name: [n.op_type for n in g.graph].count("Conv") for name, g in after.graphs.items()}
    # First, block and down once a frame; three alignments, one batched embedding and the fusion stay.
    assert counts == {"of_frame": 3, "fusion": 5}
    assert report.deviation is not None
    # The pyramid's kernels ran over a batch of 3 before: at most some roundings of 2^-24 apart.
    assert report.deviation.absolute < 1e-5
    resizes = [n.op_type for n in after.graphs["of_frame"].graph].count("Resize")
    assert resizes == 1, "the coarse level's upsampling follows the convolution it is made of"
    reads = {str(r) for e in after.program.equations if e.name == "fusion" for r in e.reads.values()}
    assert {r for r in reads if r.startswith("frame")} == {"frame[t]"}
