"""Plausible wrong answers to the exercises of lesson 11; each must be told."""

WRONG = {
    "ex1": [
        """
def split(message):
    return message.get("reasoning_content") or "", message["content"]
""",
        """
def split(message):
    thinking = message.get("reasoning_content") or message.get("reasoning") or ""
    return thinking, message["content"] or ""
""",
        """
def split(message):
    content = message["content"] or ""
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if thinking:
        return thinking, content
    thinking, _, said = content.partition("</think>")
    return thinking.removeprefix("<think>"), said
""",
    ],
    "ex2": [
        """
def times(sent, arrivals):
    per_token = (arrivals[-1] - sent) / len(arrivals)
    return {"first": arrivals[0] - sent, "per_token": per_token, "tokens_per_s": 1 / per_token}
""",
        """
def times(sent, arrivals):
    per_token = (arrivals[-1] - arrivals[0]) / (len(arrivals) - 1)
    return {"first": arrivals[0] - sent, "per_token": per_token, "tokens_per_s": 1 / per_token}
""",
    ],
}
