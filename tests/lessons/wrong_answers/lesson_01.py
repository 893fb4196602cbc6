"""Answers to lesson 01's stubs as learners write them, independent of the errors that its module knows."""

WRONG = {
    "usable_memory": [
        ("the smaller text", "as text", """
def usable_memory(meminfo, memory_max):
    total = int(meminfo.partition("MemTotal:")[2].split()[0]) * 1024
    if memory_max is None or memory_max.strip() == "max": return total
    return int(min(str(total), memory_max.strip()))
"""),
        ("what the machine has", "ignored", """
def usable_memory(meminfo, memory_max):
    first = meminfo.splitlines()[0].split()
    return int(first[1]) * 1024
"""),
        ("a kB of 1,000 bytes", "1,024", """
def usable_memory(meminfo, memory_max):
    total = int(meminfo.split()[1]) * 1000
    if memory_max is None or memory_max.strip() == "max":
        return total
    return min(total, int(memory_max))
"""),
        ("a limit is believed", "larger than the machine|changes nothing", """
def usable_memory(meminfo, memory_max):
    if memory_max and memory_max.strip() != "max":
        return int(memory_max)
    return int(meminfo.split()[1]) << 10
"""),
        ("what is free now", "MemAvailable", """
def usable_memory(meminfo, memory_max):
    free = int(meminfo.partition("MemAvailable:")[2].split()[0]) * 1024
    return free if memory_max in (None, "max\\n") else min(free, int(memory_max))
"""),
        ("`max` is read as a number", "no limit", """
def usable_memory(meminfo, memory_max):
    total = int(meminfo.split()[1]) * 1024
    return total if memory_max is None else min(total, int(memory_max))
"""),
        ("no file is forgotten", "no file", """
def usable_memory(meminfo, memory_max):
    total = int(meminfo.split()[1]) * 1024
    return total if memory_max.startswith("max") else min(total, int(memory_max))
"""),
    ],
    "verdict": [
        ("one character", "two digits", """
def verdict(built, driver):
    if built is None: return "CPU build"
    return "ok" if int(built[0]) <= int(driver[0]) else "old driver"
"""),
        ("the whole version decides", "BEFORE the dot|before the dot|SAME major", """
def verdict(built, driver):
    if built is None:
        return "CPU build"
    mine, theirs = [[int(n) for n in v.split(".")] for v in (built, driver)]
    return "ok" if mine <= theirs else "old driver"
"""),
        ("compared as text", "numbers", """
def verdict(built, driver):
    if not built:
        return "CPU build"
    major, newest = built.partition(".")[0], driver.partition(".")[0]
    return "ok" if major <= newest else "old driver"
"""),
        ("a CPU build is not known", "without CUDA", """
def verdict(built, driver):
    major = int(float(built or 0))
    return "old driver" if major > int(float(driver)) else "ok"
"""),
        ("only the same major number", "OLDER|older", """
def verdict(built, driver):
    if built is None:
        return "CPU build"
    return "ok" if built.split(".")[0] == driver.split(".")[0] else "old driver"
"""),
        ("turned round", "other way|newer major", """
def verdict(built, driver):
    if built is None:
        return "CPU build"
    return "ok" if int(float(built)) >= int(float(driver)) else "old driver"
"""),
    ],
    "read_gpus": [
        ("megabytes", "MiB", """
def read_gpus(listing):
    rows = [line.split(", ") for line in listing.splitlines() if line]
    return [(name, int(mb) / 1000, float(cap) > 8.5 and float(cap) != 8.6) for name, mb, cap in rows]
"""),
        ("compared as text", "as text|numbers", """
def read_gpus(listing):
    gpus = []
    for line in filter(None, listing.splitlines()):
        name, memory, sm = [part.strip() for part in line.split(",")]
        gpus.append((name, int(memory) * 2**20 / 10**9, sm >= "8.9"))
    return gpus
"""),
        ("from Hopper on", "8.9", """
def read_gpus(listing):
    gpus = []
    for line in filter(None, listing.splitlines()):
        name, memory, sm = line.split(", ")
        gpus.append((name, int(memory) * 2**20 / 10**9, int(sm.split(".")[0]) >= 9))
    return gpus
"""),
        ("from Ampere on", "8.0|A100", """
def read_gpus(listing):
    gpus = []
    for line in filter(None, listing.splitlines()):
        name, memory, sm = line.split(", ")
        gpus.append((name, int(memory) * 2**20 / 10**9, int(sm.split(".")[0]) >= 8))
    return gpus
"""),
        ("lists, not tuples", "tuple", """
def read_gpus(listing):
    gpus = []
    for line in filter(None, listing.splitlines()):
        name, memory, sm = line.split(", ")
        gpus.append([name, int(memory) * 2**20 / 10**9, float(sm) >= 8.9])
    return gpus
"""),
        ("an empty line stops it", "empty list|no GPU", """
def read_gpus(listing):
    gpus = []
    for line in listing.split("\\n"):
        name, memory, sm = line.split(", ")
        gpus.append((name, int(memory) * 2**20 / 10**9, float(sm) >= 8.9))
    return gpus
"""),
    ],
}  # fmt: skip

RIGHT = {
    "usable_memory": ["""
def usable_memory(meminfo, memory_max):
    total = next(int(line.split()[1]) for line in meminfo.splitlines() if line.startswith("MemTotal:")) << 10
    if memory_max is None or memory_max.strip() == "max":
        return total
    return min(total, int(memory_max))
"""],
    "verdict": ["""
def verdict(built, driver):
    if built is None:
        return "CPU build"
    return "ok" if int(float(built)) <= int(float(driver)) else "old driver"
"""],
    "read_gpus": ["""
def read_gpus(listing):
    rows = (line.rsplit(",", 2) for line in listing.splitlines() if line.strip())
    return [(n.strip(), int(m) * 1.048576e-3, tuple(map(int, c.strip().split("."))) >= (8, 9)) for n, m, c in rows]
"""],
}  # fmt: skip
