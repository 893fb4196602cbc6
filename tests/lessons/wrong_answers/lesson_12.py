"""Plausible wrong answers to the exercises of lesson 12; each must be told."""

WRONG = {
    "ex1": [
        """
def group_advantages(rewards):
    return (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std(dim=1, correction=0, keepdim=True) + 1e-8)
""",
        """
def group_advantages(rewards):
    return (rewards - rewards.mean()) / rewards.std().clamp(min=1e-6)
""",
        """
def group_advantages(rewards):
    return rewards - rewards.mean(dim=1, keepdim=True)
""",
        """
import torch

def group_advantages(rewards):
    distance = rewards - rewards.mean(dim=1, keepdim=True)
    deviation = rewards.std(dim=1, keepdim=True)
    return torch.where(deviation < 1e-6, 0.0, distance / deviation.clamp(min=1e-6))
""",
    ],
    "ex2": [
        """
def clipped(new, old, advantage, clip):
    return (new - old).exp().clamp(1 - clip, 1 + clip) * advantage
""",
        """
import torch

def clipped(new, old, advantage, clip):
    ratio = (new - old).exp()
    return torch.minimum(ratio, ratio.clamp(1 - clip, 1 + clip)) * advantage
""",
        """
import torch

def clipped(new, old, advantage, clip):
    ratio = new / old
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
""",
    ],
    "ex3": [
        """
def reward(text, right):
    return float(str(right) in text)
""",
        """
def reward(text, right):
    return float(text.strip().endswith(str(right)))
""",
        """
import re

def reward(text, right):
    numbers = re.findall(r"\\d+", text.split("</think>")[-1])
    return float(bool(numbers) and int(numbers[-1]) == right)
""",
    ],
}
