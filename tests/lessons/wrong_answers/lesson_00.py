"""Plausible mistakes in lesson 00's exercises; each must be told apart from a right answer."""

WRONG = {
    "ex1": [
        # the thinking's numbers count, too
        """
import re


def final_number(text):
    found = re.findall(r"-?\\d+", text)
    return int(found[-1]) if found else None
""",
        # the minus sign is lost
        """
import re


def final_number(text):
    found = re.findall(r"\\d+", text.partition("</think>")[2])
    return int(found[-1]) if found else None
""",
        # zero is taken for nothing
        """
import re


def final_number(text):
    found = re.findall(r"-?\\d+", text.partition("</think>")[2])
    return int(found[-1] if found else 0) or None
""",
        # the first number instead of the last
        """
import re


def final_number(text):
    found = re.search(r"-?\\d+", text.partition("</think>")[2])
    return int(found[0]) if found else None
""",
    ],
    "ex2": [
        # any number of GPUs can be rented
        """
def fewest(weights, memory):
    return -(-weights // int(memory * 0.92))
""",
        # nothing is kept free
        """
def fewest(weights, memory):
    for n in (1, 2, 4, 8, 16, 32, 64):
        if weights <= n * memory:
            return n
    return None
""",
        # the largest count, when none fits
        """
def fewest(weights, memory):
    n = 1
    while n < 64 and weights > n * memory * 0.92:
        n *= 2
    return n
""",
    ],
}
