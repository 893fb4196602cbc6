"""Plausible wrong answers to lesson 10's exercises."""

WRONG = {
    "ex1": [
        '''
def experts_of(rank, size, experts):
    """The public converter's division: drops what does not divide."""
    each = experts // size
    return range(rank * each, (rank + 1) * each)
''',
        '''
def experts_of(rank, size, experts):
    """Dealt out like cards."""
    return range(rank, experts, size)
''',
        '''
def experts_of(rank, size, experts):
    """Rounded up: the last rank gets what is left, perhaps nothing."""
    each = -(-experts // size)
    return range(rank * each, min((rank + 1) * each, experts))
''',
    ],
    "ex2": [
        '''
import torch.nn.functional as F

def part_of_mlp(x, w1, w2, w3, rank, size):
    """The whole layer, divided: nothing is saved."""
    return (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T / size
''',
        '''
import torch.nn.functional as F

def part_of_mlp(x, w1, w2, w3, rank, size):
    """Cuts w2 along its output: a part of the numbers, not of the sum."""
    width, out = len(w1) // size, len(w2) // size
    h = F.silu(x @ w1.T) * (x @ w3.T)
    return h @ w2[rank * out : (rank + 1) * out].T
''',
        '''
import torch.nn.functional as F

def part_of_mlp(x, w1, w2, w3, rank, size):
    """Forgets to cut w3's rows where w1's are cut."""
    width = len(w1) // size
    mine = slice(rank * width, (rank + 1) * width)
    return (F.silu(x @ w1[mine].T) * (x @ w3[:width].T)) @ w2[:, mine].T
''',
    ],
    "ex3": [
        '''
def bytes_per_token(dim, layers, vocabulary, ranks):
    """One sum a layer."""
    if ranks == 1:
        return 0
    return 2 * dim + 4 * dim * layers + 4 * -(-vocabulary // ranks) + 8
''',
        '''
def bytes_per_token(dim, layers, vocabulary, ranks):
    """The whole vocabulary from every rank."""
    if ranks == 1:
        return 0
    return 2 * dim + 2 * 4 * dim * layers + 4 * vocabulary + 8
''',
        '''
def bytes_per_token(dim, layers, vocabulary, ranks):
    """A rank by itself talks, too."""
    return 2 * dim + 2 * 4 * dim * layers + 4 * -(-vocabulary // ranks) + 8
''',
        '''
def bytes_per_token(dim, layers, vocabulary, ranks):
    """Rounds the vocabulary down."""
    if ranks == 1:
        return 0
    return 2 * dim + 2 * 4 * dim * layers + 4 * (vocabulary // ranks) + 8
''',
    ],
}
