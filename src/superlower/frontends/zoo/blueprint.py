"""A network and the program of its methods, before any of them is traced: its cost, and its export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from superlower.program.legality import called_sizes
from superlower.program.model import Program, TemporalModel

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

SCOPE = "network"
"""Where the exporter finds a network whose method it traces; left out of the names in the graphs."""


@dataclass(frozen=True)
class Blueprint:
    """A model that only wants exporting.

    Attributes:
        network: holds the weights.
        program: an equation gives its graph's inputs in the order of the method's arguments, and its outputs
            in the order in which the method returns them; shapes are those of the streams.
        methods: by graph name, methods of `network`.
    """

    network: nn.Module
    program: Program
    methods: Mapping[str, Callable[..., object]]

    def export(self) -> TemporalModel:
        """Every graph that the program's equations call, traced from the network.

        Raises:
            BadInputError, UnsupportedOperatorError: as `export_module`.
        """
        import torch

        from superlower.frontends.torch_export import export_module
        from superlower.frontends.zoo.layers_torch import Method

        graphs: dict[str, ir.Model] = {}
        for equation in self.program.equations:
            for graph, (sizes, _) in called_sizes(self.program, equation).items():
                if graph not in graphs:
                    graphs[graph] = export_module(
                        Method(self.network, self.methods[graph]),
                        {name: torch.zeros(shape) for name, shape in sizes.items()},
                        list(equation.outputs),
                        name=graph,
                        scope=SCOPE,
                    )
        return TemporalModel(self.program, graphs)

    @property
    def parameters(self) -> int:
        """Numbers that were trained; buffers aren't among them."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def macs(self, *, transposed_at_output: bool = False) -> dict[str, int]:
        """Multiply-accumulates of the convolutions in one call of each graph, by graph.

        Deformable convolutions count as others. Nothing is computed if the network is on the meta device.

        Args:
            transposed_at_output: as `count_macs`.
        """
        from superlower.frontends.zoo.cost_torch import count_macs

        found: dict[str, int] = {}
        for equation in self.program.equations:
            for graph, (sizes, _) in called_sizes(self.program, equation).items():
                if graph not in found:
                    found[graph] = count_macs(
                        self.methods[graph],
                        list(sizes.values()),
                        transposed_at_output=transposed_at_output,
                    )
        return found
