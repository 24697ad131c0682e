"""Array aliases and the legend of shapes that every docstring uses.

Letters: `B` batch, `C` channels, `H`/`W` image height and width, `D` features of the backbone, `K` classes,
`N` training images of one head, `V` victim heads, `S` private images per class and head.
Images are float32 in [-1, 1], shape [B, C, H, W]; labels are int64, shape [B]; features are float32, shape [B, D].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["AnyArray", "FloatArray", "IntArray", "UInt8Array"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]
AnyArray = npt.NDArray[Any]
