"""Answers to lesson 11's stubs as learners write them, independent of the errors that its module knows."""

WRONG = {
    "split": [
        ("SGLang alone", "vLLM", """
def split(message):
    return message.get("reasoning_content") or "", message["content"] or ""
"""),
        ("parsers alone", "no parser", """
def split(message):
    thinking = message.get("reasoning_content") or message.get("reasoning") or ""
    return thinking, message["content"] or ""
"""),
        ("no mark, and all is thought", "all answer|all is answer", """
def split(message):
    content = message["content"] or ""
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if thinking:
        return thinking, content
    thinking, _, said = content.partition("</think>")
    return thinking.removeprefix("<think>"), said
"""),
        ("cut at every mark, the last piece is the answer", "FIRST", """
def split(message):
    content = message["content"] or ""
    for field in ("reasoning_content", "reasoning"):
        if message.get(field):
            return message[field], content
    pieces = content.split("</think>")
    if len(pieces) == 1:
        return "", content
    return pieces[0].replace("<think>", ""), pieces[-1]
"""),
        ("cut at every mark, the second piece is the answer", "first|FIRST", """
def split(message):
    content = message["content"] or ""
    for field in ("reasoning_content", "reasoning"):
        if message.get(field):
            return message[field], content
    pieces = content.split("</think>")
    return (pieces[0].replace("<think>", ""), pieces[1]) if len(pieces) > 1 else ("", content)
"""),
        ("text is cut before the fields are looked at", "all answer", """
def split(message):
    content = message["content"] or ""
    before, mark, after = content.partition("</think>")
    if mark:
        return before.removeprefix("<think>"), after
    return message.get("reasoning_content") or message.get("reasoning") or "", content
"""),
        ("a None goes through", "None", """
def split(message):
    for field in ("reasoning_content", "reasoning"):
        if message.get(field):
            return message[field], message["content"]
    before, mark, after = message["content"].partition("</think>")
    return (before.removeprefix("<think>"), after) if mark else ("", before)
"""),
        ("the message is emptied", "changes its arguments", """
def split(message):
    thinking = message.pop("reasoning_content", None) or message.pop("reasoning", None)
    content = message.pop("content") or ""
    if thinking:
        return thinking, content
    before, mark, after = content.partition("</think>")
    return (before.removeprefix("<think>"), after) if mark else ("", before)
"""),
    ],
    "read_stream": [
        ("the last piece", "replaced|one after the other", """
def read_stream(lines):
    message = {}
    for line in lines:
        if line[:6] == "data: " and line[6:] != "[DONE]":
            for choice in json.loads(line[6:])["choices"]:
                message.update({k: v for k, v in choice["delta"].items() if v and k != "role"})
    return message
"""),
        ("the answer alone", "thinking", """
def read_stream(lines):
    text = ""
    for line in lines:
        if line[:6] == "data: " and line[6:] != "[DONE]":
            for choice in json.loads(line[6:])["choices"]:
                text += choice["delta"].get("content") or ""
    return {"content": text}
"""),
        ("there is always a choice", "no choice|without a choice", """
def read_stream(lines):
    message = {}
    for line in lines:
        if line[:6] == "data: " and line[6:] != "[DONE]":
            for k, v in json.loads(line[6:])["choices"][0]["delta"].items():
                if v and k != "role":
                    message[k] = message.get(k, "") + v
    return message
"""),
        ("None is added", "None", """
def read_stream(lines):
    message = {}
    for line in lines:
        if line[:6] == "data: " and line[6:] != "[DONE]":
            for choice in json.loads(line[6:])["choices"]:
                for k in choice["delta"].keys() - {"role"}:
                    message[k] = message.get(k, "") + choice["delta"][k]
    return message
"""),
        ("the end is read as JSON", "no JSON|end", """
def read_stream(lines):
    message = {}
    for line in lines:
        if not line.startswith("data:"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            for k, v in choice["delta"].items():
                if v and k != "role":
                    message[k] = message.get(k, "") + v
    return message
"""),
        ("two names only", "as it comes|any name", """
def read_stream(lines):
    message = {}
    for line in lines:
        if line[:6] == "data: " and line[6:] != "[DONE]":
            for choice in json.loads(line[6:])["choices"]:
                for k in ("reasoning_content", "content"):
                    if choice["delta"].get(k):
                        message[k] = message.get(k, "") + choice["delta"][k]
    return message
"""),
    ],
    "times": [
        ("the middle gap", "mean over all gaps", """
def times(sent, arrivals):
    import statistics
    g = [b - a for a, b in zip(arrivals, arrivals[1:])]
    m = statistics.median(g) if g else 0
    return dict(first=arrivals[0] - sent, per_token=m, tokens_per_s=1/m if m else 0)
"""),
        ("both waits mixed", "first token", """
def times(sent, arrivals):
    per_token = (arrivals[-1] - sent) / len(arrivals)
    return dict(first=arrivals[0] - sent, per_token=per_token, tokens_per_s=1 / per_token)
"""),
        ("one token raises", "single token", """
def times(sent, arrivals):
    gaps = [b - a for a, b in zip(arrivals, arrivals[1:])]
    mean = sum(gaps) / len(gaps)
    return dict(first=arrivals[0] - sent, per_token=mean, tokens_per_s=1 / mean)
"""),
        ("as many gaps as tokens", "gaps", """
def times(sent, arrivals):
    n = len(arrivals)
    mean = (arrivals[-1] - arrivals[0]) / n
    return dict(first=arrivals[0] - sent, per_token=mean, tokens_per_s=1 / mean if mean else 0.0)
"""),
        ("the middle gap", "mean", """
def times(sent, arrivals):
    gaps = sorted(b - a for a, b in zip(arrivals, arrivals[1:])) or [0.0]
    middle = gaps[len(gaps) // 2]
    return dict(first=arrivals[0] - sent, per_token=middle, tokens_per_s=1 / middle if middle else 0.0)
"""),
    ],
}  # fmt: skip

RIGHT = {
    "split": ["""
def split(message):
    content = message.get("content") or ""
    for field in ("reasoning", "reasoning_content"):
        if message.get(field):
            return message[field], content
    before, mark, after = content.partition("</think>")
    return (before.removeprefix("<think>"), after) if mark else ("", before)
"""],
    "read_stream": ["""
def read_stream(lines):
    message = {}
    for line in lines:
        kind, _, data = line.partition(": ")
        if kind != "data" or data == "[DONE]":
            continue
        for choice in json.loads(data).get("choices") or []:
            for k, v in choice["delta"].items():
                if k != "role" and v is not None and v != "":
                    message.setdefault(k, "")
                    message[k] += v
    return message
"""],
    "times": ["""
def times(sent, arrivals):
    gaps = [b - a for a, b in zip(arrivals, arrivals[1:])]
    mean = sum(gaps) / len(gaps) if gaps else 0.0
    return dict(first=arrivals[0] - sent, per_token=mean, tokens_per_s=1 / mean if mean else 0.0)
"""],
}  # fmt: skip
