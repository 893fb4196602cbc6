"""``python -m dsv3 VERB``, the same as ``dsv3 VERB``."""

from .cli import main

main()
