"""Wrong answers to lesson 05's exercises, each a plausible one."""

WRONG = {
    "ex1": [
        # halves taken from the checkpoint's order as they stand
        """
import torch

def rope_halves(x, positions, frequencies):
    angle = positions.unsqueeze(1) * frequencies
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)
""",
        # turned the other way
        """
import torch

def rope_halves(x, positions, frequencies):
    angle = positions.unsqueeze(1) * frequencies
    a, b = x[:, 0::2], x[:, 1::2]
    return torch.cat([a * angle.cos() + b * angle.sin(), b * angle.cos() - a * angle.sin()], dim=-1)
""",
        # a sign lost
        """
import torch

def rope_halves(x, positions, frequencies):
    angle = positions.unsqueeze(1) * frequencies
    a, b = x[:, 0::2], x[:, 1::2]
    return torch.cat([a * angle.cos() + b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)
""",
        # left in the interleaved order
        """
import torch

def rope_halves(x, positions, frequencies):
    angle = positions.unsqueeze(1) * frequencies
    a, b = x[:, 0::2], x[:, 1::2]
    turned = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
    return torch.stack(turned, dim=-1).flatten(1)
""",
    ],
    "ex2": [
        # unfolds
        """
import torch

def absorbed_step(q_nope, q_pe, cache, wkv_b, scale):
    heads, n = q_nope.shape
    rank = wkv_b.shape[1]
    c, k_pe = cache[:, :rank], cache[:, rank:]
    kv = (c @ wkv_b.T).unflatten(-1, (heads, -1))
    k, v = kv[..., :n], kv[..., n:]
    scores = torch.einsum("hn,thn->ht", q_nope, k) + q_pe @ k_pe.T
    return torch.einsum("ht,thp->hp", (scores * scale).softmax(-1), v)
""",
        # no position
        """
import torch

def absorbed_step(q_nope, q_pe, cache, wkv_b, scale):
    heads, n = q_nope.shape
    rank = wkv_b.shape[1]
    c = cache[:, :rank]
    rows = wkv_b.unflatten(0, (heads, -1))
    q_c = torch.einsum("hn,hnc->hc", q_nope, rows[:, :n])
    return torch.einsum("hc,hpc->hp", (q_c @ c.T * scale).softmax(-1) @ c, rows[:, n:])
""",
        # only one part of the score is scaled
        """
import torch

def absorbed_step(q_nope, q_pe, cache, wkv_b, scale):
    heads, n = q_nope.shape
    rank = wkv_b.shape[1]
    c, k_pe = cache[:, :rank], cache[:, rank:]
    rows = wkv_b.unflatten(0, (heads, -1))
    q_c = torch.einsum("hn,hnc->hc", q_nope, rows[:, :n])
    weights = (q_c @ c.T * scale + q_pe @ k_pe.T).softmax(-1)
    return torch.einsum("hc,hpc->hp", weights @ c, rows[:, n:])
""",
        # all keys' rows first, then all values'
        """
import torch

def absorbed_step(q_nope, q_pe, cache, wkv_b, scale):
    heads, n = q_nope.shape
    rank = wkv_b.shape[1]
    c, k_pe = cache[:, :rank], cache[:, rank:]
    key, value = wkv_b[: heads * n].unflatten(0, (heads, -1)), wkv_b[heads * n :].unflatten(0, (heads, -1))
    q_c = torch.einsum("hn,hnc->hc", q_nope, key)
    weights = ((q_c @ c.T + q_pe @ k_pe.T) * scale).softmax(-1)
    return torch.einsum("hc,hpc->hp", weights @ c, value)
""",
    ],
    "ex3": [
        # the latent shared out, too
        """
def tokens_that_fit(cfg, nbytes, ranks):
    latent = 2 * cfg.n_layers * (cfg.kv_lora_rank + cfg.qk_rope_head_dim)
    full = 2 * cfg.n_layers * cfg.n_heads * (cfg.qk_head_dim + cfg.v_head_dim)
    return nbytes * ranks // latent, nbytes * ranks // full
""",
        # one byte a number
        """
def tokens_that_fit(cfg, nbytes, ranks):
    latent = cfg.n_layers * (cfg.kv_lora_rank + cfg.qk_rope_head_dim)
    full = cfg.n_layers * cfg.n_heads // ranks * (cfg.qk_head_dim + cfg.v_head_dim)
    return nbytes // latent, nbytes // full
""",
        # the rotated key forgotten
        """
def tokens_that_fit(cfg, nbytes, ranks):
    latent = 2 * cfg.n_layers * cfg.kv_lora_rank
    full = 2 * cfg.n_layers * cfg.n_heads // ranks * (cfg.qk_head_dim + cfg.v_head_dim)
    return nbytes // latent, nbytes // full
""",
    ],
    "ex4": [
        """def attention_is_right():
    pass
""",
        """def attention_is_right():
    assert False, "nothing is ever right"
""",
        """import torch

from dsv3 import load


@torch.inference_mode()
def attention_is_right():
    tokens = torch.arange(40, 60).unsqueeze(0)
    short, long = (load("tiny-r1", model="plain", max_seq_len=n).model for n in (512, 8192))
    torch.testing.assert_close(long(tokens), short(tokens))
""",
        """import torch

from dsv3 import load


@torch.inference_mode()
def attention_is_right():
    tokens = torch.arange(40, 60).unsqueeze(0)
    one, two = (load("tiny-r1", model="plain", max_seq_len=8192).model for _ in range(2))
    assert torch.equal(one(tokens), two(tokens))
""",
    ],
}
