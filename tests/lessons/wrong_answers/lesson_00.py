"""Answers to lesson 00's stubs as learners write them, independent of the errors that its module knows."""

WRONG = {
    "final_number": [
        ("the number must end the text", "end of the text|may go on", """
def final_number(text):
    if "</think>" not in text:
        return None
    match = re.search(r"-?\\d+$", text.split("</think>", 1)[1].strip())
    return int(match.group()) if match else None
"""),
        ("the thinking is read, too", "thinking", """
def final_number(text):
    numbers = [int(n) for n in re.findall(r"-?\\d+", text)]
    return numbers.pop() if numbers else None
"""),
        ("words, not numbers", "full stop", """
def final_number(text):
    head, mark, tail = text.partition("</think>")
    words = [w for w in tail.split() if w.lstrip("-").isdigit()]
    return int(words[-1]) if words else None
"""),
        ("text instead of a number", "return an int", """
def final_number(text):
    tail = text.split("</think>")[1] if "</think>" in text else ""
    numbers = re.findall("-?[0-9]+", tail)
    return numbers[-1] if numbers else None
"""),
        ("without a mark it raises", "without </think>", """
def final_number(text):
    tail = text.split("</think>", 1)[1]
    numbers = re.findall("-?[0-9]+", tail)
    return int(numbers[-1]) if numbers else None
"""),
        ("cut at the last mark", "FIRST", """
def final_number(text):
    *thinking, tail = text.split("</think>")
    numbers = re.findall("-?[0-9]+", tail)
    return int(numbers[-1]) if thinking and numbers else None
"""),
        ("zero is nothing", "0 is", """
def final_number(text):
    last = None
    for number in re.findall("-?[0-9]+", text.partition("</think>")[2]):
        last = int(number) or None
    return last
"""),
        ("a dash is lost", "minus", """
def final_number(text):
    tail = text.partition("</think>")[2]
    digits = "".join(c if c.isdecimal() else " " for c in tail).split()
    return int(digits[-1]) if digits else None
"""),
    ],
    "fewest": [
        ("any count can be rented", "only", """
def fewest(weights, memory):
    n = -(-weights // int(memory * 0.92))
    return n if n <= 64 else None
"""),
        ("nothing is kept free", "8 %", """
def fewest(weights, memory):
    n = 1
    while n <= 64:
        if n * memory >= weights:
            return n
        n += n
"""),
        ("64 when none fits", "64", """
def fewest(weights, memory):
    n = 1
    while n < 64 and weights > n * memory * 0.92:
        n *= 2
    return n
"""),
        ("8 % of the weights are added instead", "8 %|92 %", """
def fewest(weights, memory):
    fits = [n for n in (1, 2, 4, 8, 16, 32, 64) if weights * 1.08 <= n * memory]
    return min(fits, default=None)
"""),
        ("the last that fits", "SMALLEST", """
def fewest(weights, memory):
    best = None
    for power in range(7):
        if weights <= 2**power * memory * 0.92:
            best = 2**power
    return best
"""),
    ],
}  # fmt: skip

RIGHT = {
    "final_number": ["""
def final_number(text):
    if "</think>" not in text:
        return None
    last = None
    for match in re.finditer(r"[-]?[0-9]+", text[text.index("</think>") :]):
        last = int(match.group())
    return last
"""],
    "fewest": ["""
def fewest(weights, memory):
    n = 1
    while n <= 64:
        if weights / (0.92 * memory) <= n:
            return n
        n *= 2
"""],
}  # fmt: skip
