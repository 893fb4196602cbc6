"""Plausible wrong answers to lesson 04's exercises."""

WRONG = {
    "ex1": [
        '''
def owner(expert, n_experts, ranks):
    """Round robin."""
    return expert % ranks
''',
        '''
def owner(expert, n_experts, ranks):
    """Right only where the experts divide."""
    return expert // max(1, n_experts // ranks)
''',
        '''
def owner(expert, n_experts, ranks):
    """Rounds the other way."""
    return expert * ranks // n_experts
''',
    ],
    "ex2": [
        '''
def runs_of(shape, itemsize, cut, rank, ranks):
    """Counts numbers, not bytes."""
    rows, line = shape
    if cut is None or ranks == 1:
        return [(0, rows * line)]
    if cut == 0:
        return [(rank * rows // ranks * line, rows // ranks * line)]
    return [(i * line + rank * line // ranks, line // ranks) for i in range(rows)]
''',
        '''
def runs_of(shape, itemsize, cut, rank, ranks):
    """Takes columns for rows."""
    size = shape[0] * shape[1] * itemsize
    return [(0, size)] if cut is None else [(rank * size // ranks, size // ranks)]
''',
        '''
def runs_of(shape, itemsize, cut, rank, ranks):
    """A run for each row, always."""
    line = shape[1] * itemsize
    rows = range(shape[0]) if cut != 0 else range(rank * shape[0] // ranks, (rank + 1) * shape[0] // ranks)
    part = line // ranks if cut == 1 else line
    return [(i * line + (rank * part if cut == 1 else 0), part) for i in rows]
''',
    ],
    "ex3": [
        '''
def possible(cfg, ranks):
    """Only looks at heads."""
    return cfg.n_heads % ranks == 0
''',
        '''
def possible(cfg, ranks):
    """Only powers of two, as the public converter."""
    return ranks & (ranks - 1) == 0 and cfg.n_heads % ranks == 0
''',
        '''
def possible(cfg, ranks):
    """Forgets that BF16 has no blocks."""
    heads = cfg.n_heads // ranks
    return cfg.n_heads % ranks == 0 and heads * cfg.qk_head_dim % 128 == 0
''',
        '''
def possible(cfg, ranks):
    """Forgets that one rank cuts nothing."""
    heads = cfg.n_heads // ranks
    widths = (cfg.qk_head_dim, cfg.qk_nope_head_dim + cfg.v_head_dim, cfg.v_head_dim)
    return cfg.n_heads % ranks == 0 and (not cfg.fp8 or all(heads * w % 128 == 0 for w in widths))
''',
    ],
}
