"""Plausible mistakes in lesson 01's exercises; each must be told apart from a right answer."""

WRONG = {
    "ex1": [
        # the machine's memory, whatever the container allows
        """
import re


def usable_memory(meminfo, memory_max):
    return int(re.search(r"MemTotal:\\s+(\\d+) kB", meminfo)[1]) * 1024
""",
        # a kB taken for 1,000 bytes
        """
import re


def usable_memory(meminfo, memory_max):
    machine = int(re.search(r"MemTotal:\\s+(\\d+) kB", meminfo)[1]) * 1000
    if memory_max is None or memory_max.strip() == "max":
        return machine
    return min(machine, int(memory_max))
""",
        # a limit larger than the machine is believed
        """
import re


def usable_memory(meminfo, memory_max):
    if memory_max and memory_max.strip().isdigit():
        return int(memory_max)
    return int(re.search(r"MemTotal:\\s+(\\d+) kB", meminfo)[1]) * 1024
""",
        # what is free now
        """
import re


def usable_memory(meminfo, memory_max):
    return int(re.search(r"MemAvailable:\\s+(\\d+) kB", meminfo)[1]) * 1024
""",
    ],
    "ex2": [
        # the number behind the dot decides, too
        """
def verdict(built, driver):
    if built is None:
        return "CPU build"
    newer = tuple(map(int, built.split("."))) > tuple(map(int, driver.split(".")))
    return "old driver" if newer else "ok"
""",
        # compared as text
        """
def verdict(built, driver):
    if built is None:
        return "CPU build"
    return "old driver" if built.split(".")[0] > driver.split(".")[0] else "ok"
""",
        # the CPU build is forgotten
        """
def verdict(built, driver):
    return "old driver" if int((built or "0").split(".")[0]) > int(driver.split(".")[0]) else "ok"
""",
    ],
}
