"""dsv3: from a DeepSeek-V3/R1 checkpoint to distributed generation.

``dsv3.load("tiny-r1").chat("37 + 48 = ?")`` is the shortest way in; importing the package imports no torch.
"""

import sys
from typing import TYPE_CHECKING, Any

if sys.argv[:1] == ["-m"]:  # python -m dsv3.MODULE, which is about to be imported
    from .cli import quiet_imports

    quiet_imports()

from .config import ModelConfig

if TYPE_CHECKING:
    from .llm import LLM, load

__version__ = "0.2.0"
__all__ = ["LLM", "ModelConfig", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in ("load", "LLM"):
        from . import llm

        return getattr(llm, name)
    raise AttributeError(f"module 'dsv3' has no attribute {name!r}")
