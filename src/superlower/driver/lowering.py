"""What jobs make of a model besides its graphs as they are: in 8 bits, or of mixed types."""

from __future__ import annotations

from superlower.backends.base import Backend
from superlower.driver.mixed import Mixed, Mixer
from superlower.driver.quantization import Material, Quantized, Quantizer
from superlower.targets.base import Precision, Target

Lowered = Quantized | Mixed


class Lowerings:
    """The searches of a compile, each made once for the jobs that share it."""

    def __init__(self, material: Material) -> None:
        self._quantizer = Quantizer(material)
        self._mixer = Mixer(material)

    def lowered(self, sdk: Backend, where: Target, precision: Precision) -> Lowered | None:
        """The model as a job compiles it; None where that is the model itself.

        Raises:
            BadInputError, OutputsDifferError: as of `Quantizer.quantized_for` and `Mixer.mixed_for`.
        """
        if precision is Precision.INT8:
            return self._quantizer.quantized_for(where)
        return self._mixer.mixed_for(sdk, where) if precision is Precision.MIXED else None
