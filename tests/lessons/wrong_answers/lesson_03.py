"""Plausible wrong answers to lesson 03's exercises."""

WRONG = {
    "ex1": [
        '''
def decode(code):
    """Knows no subnormal numbers and no NaN."""
    sign = -1 if code & 0x80 else 1
    return sign * (1 + (code & 7) / 8) * 2.0 ** ((code >> 3 & 15) - 7)
''',
        '''
def decode(code):
    """IEEE's rule: the highest exponent is infinity and NaN."""
    sign, e, m = -1 if code & 0x80 else 1, code >> 3 & 15, code & 7
    if e == 15:
        return float("nan") if m else sign * float("inf")
    return sign * (m / 8 * 2.0**-6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7))
''',
        '''
def decode(code):
    """Subnormal numbers one binade too small."""
    sign, e, m = -1 if code & 0x80 else 1, code >> 3 & 15, code & 7
    if code & 0x7F == 0x7F:
        return float("nan")
    return sign * (m / 8 * 2.0**-7 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7))
''',
        '''
def decode(code):
    """Reads the byte as a whole number."""
    return code - 256 if code > 127 else code
''',
    ],
    "ex2": [
        '''
import torch

def dequantise(q, scale):
    """The block size from the shapes, as a loader did."""
    rows, columns = -(-q.shape[0] // scale.shape[0]), -(-q.shape[1] // scale.shape[1])
    spread = scale.repeat_interleave(rows, 0)[: q.shape[0]].repeat_interleave(columns, 1)[:, : q.shape[1]]
    return (q.float() * spread).to(torch.bfloat16)
''',
        '''
import torch

def dequantise(q, scale):
    """Rounds the scale first."""
    spread = scale.repeat_interleave(128, 0)[: q.shape[0]].repeat_interleave(128, 1)[:, : q.shape[1]]
    return q.to(torch.bfloat16) * spread.to(torch.bfloat16)
''',
        '''
import torch

def dequantise(q, scale):
    """Takes the name scale_inv at its word."""
    spread = scale.repeat_interleave(128, 0)[: q.shape[0]].repeat_interleave(128, 1)[:, : q.shape[1]]
    return (q.float() / spread).to(torch.bfloat16)
''',
        '''
import torch

def dequantise(q, scale):
    """Forgets the last, ragged rows."""
    whole = q.shape[0] // 128 * 128 or q.shape[0]
    spread = scale.repeat_interleave(128, 0)[:whole].repeat_interleave(128, 1)[:, : q.shape[1]]
    return (q[:whole].float() * spread).to(torch.bfloat16)
''',
        '''
import torch

def dequantise(q, scale):
    """One scale for all."""
    return (q.float() * scale.max()).to(torch.bfloat16)
''',
    ],
    "ex3": [
        '''
def power_of_two(scale):
    """A logarithm in float32: rounds to a whole number just above a power of two."""
    return scale.log2().ceil().exp2()
''',
        '''
def power_of_two(scale):
    """To the nearest, not up."""
    return scale.log2().round().exp2()
''',
        '''
import torch

def power_of_two(scale):
    """Also lifts what is a power of two already."""
    return torch.ldexp(torch.ones_like(scale), torch.frexp(scale).exponent)
''',
        '''
import torch

def power_of_two(scale):
    """Down: only the exponent's bits are kept."""
    return (scale.view(torch.int32) & 0x7F800000).view(torch.float32)
''',
    ],
}
