"""What a quantised matrix takes."""

from typing import Literal, NamedTuple

from ..said import Said

Kind = Literal["fp8", "int8", "int4", "nvfp4", "mxfp4"]


class Storage(NamedTuple):
    """How a matrix is stored.

    Attributes:
        kind: as the planner calls it.
        bits: of a weight.
        scale: bits that a block's scale takes, its zero point included.
        block: rows and columns that share a scale; None: all of them.
        matrix: bits more for a matrix: global scales, the shape before packing.
        column: bits more for each column: GPTQ's ``g_idx``.
    """

    kind: Kind
    bits: int
    scale: int = 0
    block: tuple[int | None, int | None] = (1, None)
    matrix: int = 0
    column: int = 0

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a matrix of ``shape`` (rows, columns) with all that belongs to it; none for an empty one."""
        rows, columns = shape
        if not rows * columns:
            return 0
        high, wide = self.block
        blocks = -(-rows // (high or rows)) * -(-columns // (wide or columns))
        bits = rows * columns * self.bits + blocks * self.scale + self.matrix + columns * self.column
        return -(-bits // 8)

    @property
    def said(self) -> Said:
        """``4 bits and a scale for 128 weights``."""
        if not self.scale:
            return Said("{bits} bits", bits=self.bits)
        high, wide = self.block
        row = Said("{wide} weights", wide=wide) if wide else Said("a row")
        block = Said("{high} x {wide} weights", high=high, wide=wide)
        share = Said("a matrix") if high is None else row if high == 1 else block
        return Said("{bits} bits and a scale for {share}", bits=self.bits, share=share)
