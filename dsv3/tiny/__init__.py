"""How tiny-r1 was made: ``data`` (what it learns), ``tokenizer``, ``train``, ``export``, ``evaluate``.

Reproduce it with ``python -m dsv3.tiny --out DIR``.
"""
