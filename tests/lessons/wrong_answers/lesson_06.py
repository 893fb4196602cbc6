"""Wrong answers to lesson 06's exercises, each a plausible one."""

WRONG = {
    "ex1": [
        # V2's rule: a group is as good as its best expert
        """
import math
import torch

def choose(biased, groups, limited, k):
    split = biased.unflatten(-1, (groups, -1))
    kept = split.amax(-1).topk(limited, dim=-1)[1]
    out = torch.ones(split.shape[:2], dtype=torch.bool).scatter_(1, kept, False)
    return split.masked_fill(out.unsqueeze(-1), -math.inf).flatten(1).topk(k, dim=-1)[1]
""",
        # masked with zero
        """
import torch

def choose(biased, groups, limited, k):
    split = biased.unflatten(-1, (groups, -1))
    kept = split.topk(2, dim=-1)[0].sum(-1).topk(limited, dim=-1)[1]
    out = torch.ones(split.shape[:2], dtype=torch.bool).scatter_(1, kept, False)
    return split.masked_fill(out.unsqueeze(-1), 0.0).flatten(1).topk(k, dim=-1)[1]
""",
        # no groups at all
        """
import torch

def choose(biased, groups, limited, k):
    return biased.topk(k, dim=-1)[1]
""",
        # ids inside a group instead of ids of experts
        """
import torch

def choose(biased, groups, limited, k):
    split = biased.unflatten(-1, (groups, -1))
    kept = split.topk(2, dim=-1)[0].sum(-1).topk(limited, dim=-1)[1]
    inside = split.gather(1, kept.unsqueeze(-1).expand(-1, -1, split.shape[-1]))
    return inside.flatten(1).topk(k, dim=-1)[1]
""",
    ],
    "ex2": [
        # the wrong way
        """
import torch

def bias_step(bias, experts, gamma):
    load = torch.bincount(experts.flatten(), minlength=len(bias)).float()
    return bias + gamma * (load - load.mean()).sign()
""",
        # in proportion to the load
        """
import torch

def bias_step(bias, experts, gamma):
    load = torch.bincount(experts.flatten(), minlength=len(bias)).float()
    return bias + gamma * (load.mean() - load)
""",
        # an expert that nobody chose is forgotten
        """
import torch

def bias_step(bias, experts, gamma):
    load = torch.bincount(experts.flatten(), minlength=len(bias)).float()
    seen = load[load > 0]
    return torch.where(load > 0, bias + gamma * (seen.mean() - load).sign(), bias)
""",
    ],
    "ex3": [
        # scores not normalised
        """
import torch

def balance_loss(scores, experts, alpha):
    tokens, count = scores.shape
    f = torch.bincount(experts.flatten(), minlength=count) * count / (experts.shape[1] * tokens)
    return alpha * (f * scores.mean(0)).sum()
""",
        # K forgotten
        """
import torch

def balance_loss(scores, experts, alpha):
    tokens, count = scores.shape
    f = torch.bincount(experts.flatten(), minlength=count) * count / tokens
    return alpha * (f * (scores / scores.sum(-1, keepdim=True)).mean(0)).sum()
""",
        # the mean over experts instead of their sum
        """
import torch

def balance_loss(scores, experts, alpha):
    tokens, count = scores.shape
    f = torch.bincount(experts.flatten(), minlength=count) * count / (experts.shape[1] * tokens)
    return alpha * (f * (scores / scores.sum(-1, keepdim=True)).mean(0)).mean()
""",
    ],
    "ex4": [
        """def router_is_right():
    pass
""",
        """import torch

from dsv3.config import ModelConfig
from dsv3.model import Gate
from dsv3.paths import TINY_R1
from dsv3.runtime import Runtime


def router_is_right():
    gate = Gate(ModelConfig.load(TINY_R1), Runtime())
    gate.weight.fill_(-1.0)
    gate.bias.fill_(0.0)
    assert gate(torch.ones(1, gate.cfg.dim))[0].isfinite().all()
""",
        """import torch

from dsv3.config import ModelConfig
from dsv3.model import Gate
from dsv3.paths import TINY_R1
from dsv3.runtime import Runtime


def router_is_right():
    gate = Gate(ModelConfig.load(TINY_R1), Runtime())
    gate.weight.fill_(0.0)
    gate.bias.fill_(0.0)
    weights, _ = gate(torch.ones(1, gate.cfg.dim))
    assert weights.sum() == 1.0
""",
    ],
}
