"""The parts of lesson 01: what a machine says of itself. Imports no torch."""

from .part import Fault, Part, Witness

# ---------------------------------------------------------------------------------------------------- the parts


def usable_memory(meminfo, memory_max):
    """Text of /proc/meminfo, text of memory.max or None -> the bytes that this process may use."""
    machine = int(meminfo.partition("MemTotal:")[2].split()[0]) * 1024
    limit = (memory_max or "max").strip()
    return min(machine, int(limit)) if limit.isdigit() else machine


def verdict(built, driver):
    """CUDA of a torch ("12.8" or None), newest CUDA of a driver ("12.4") -> a verdict.

    It is "CPU build", "old driver" or "ok".
    """
    if built is None:
        return "CPU build"
    return "old driver" if int(built.split(".")[0]) > int(driver.split(".")[0]) else "ok"


def read_gpus(listing):
    """nvidia-smi's lines "name, MiB, compute capability" -> a list of (name, GB, has FP8 units)."""
    found = []
    for line in listing.strip().splitlines():
        name, mib, capability = line.split(", ")
        found.append((name, int(mib) * 1024**2 / 1e9, float(capability) >= 8.9))
    return found


# --------------------------------------------------------------------------------------------------- the checks

PARTS: list[Part] = []


def machine(kilobytes, memory_max=None):
    meminfo = f"MemTotal:       {kilobytes} kB\nMemFree:        1234 kB\nMemAvailable:   5678 kB\nSwapTotal: 99 kB\n"
    return lambda: (meminfo, memory_max)


def pair(built, driver):
    return lambda: (built, driver)


def listed(*lines, end="\n"):
    return lambda: ("\n".join(lines) + end,)


TRANSFERS = [
    Part(
        usable_memory, "memory that a container may use", 2, 10,
        '`meminfo.partition("MemTotal:")[2].split()[0]` is the number, as text. A kB of this file has 1,024 bytes. '
        "A limit may be larger than the machine: the smaller of the two counts.",
        (
            Witness("no file memory.max: the machine's memory counts", machine(65_536_000)),
            Witness("`max` means no limit", machine(65_536_000, "max\n")),
            Witness("a limit below the machine's memory counts", machine(65_536_000, "2147483648\n")),
            Witness("9 GB are less than 67 GB: compare numbers, not texts", machine(65_536_000, "9000000000\n")),
            Witness("a limit above the machine's memory changes nothing", machine(4_194_304, "858993459200\n")),
            Witness("spaces around the limit are no part of it", machine(65_536_000, " 34359738368 \n")),
            Witness("a very large number is how some systems write `no limit`", machine(65_536_000, "9223372036854771712\n")),
        ),
        (
            Fault("* 1024", "* 1000", "a kB of /proc/meminfo has 1,024 bytes"),
            Fault("min(machine, int(limit)) if limit.isdigit() else machine", "machine", "the container's limit is ignored: whoever goes over it is killed"),
            Fault("min(machine, int(limit))", "int(limit)", "a limit larger than the machine is believed: the smaller of the two counts"),
            Fault("min(machine, int(limit))", "int(min(str(machine), limit))", "compare numbers: as text, 9000000000 is larger than 67108864000"),
            Fault("min(machine, int(limit))", "max(machine, int(limit))", "the SMALLER of machine and limit counts"),
            Fault("MemTotal", "MemAvailable", "MemTotal is what the machine has; MemAvailable is what is free at this moment"),
            Fault(" * 1024", "", "the number in /proc/meminfo is in kB, the answer in bytes"),
            Fault(" if limit.isdigit() else machine", "", "`max` is a word, not a number: it means no limit"),
        ),
    ),
    Part(
        verdict, "whether a driver runs a torch", 2, 8,
        'Compare the parts before the dots, as numbers. As text, `"9"` is larger than `"12"`.',
        (
            Witness("None is a torch without CUDA", pair(None, "12.4")),
            Witness("the same version runs", pair("12.4", "12.4")),
            Witness("a later build of the SAME major number runs, too", pair("12.8", "12.4")),
            Witness("a build for a newer major number does not run", pair("13.0", "12.8")),
            Witness("a build for an older major number runs", pair("12.4", "13.0")),
            Witness("the driver's major number decides, however near the two are", pair("12.1", "11.8")),
            Witness("9 is less than 12: compare numbers, not texts", pair("9.2", "12.4")),
        ),
        (
            Fault('built.split(".")[0]', 'built.replace(".", "")', "only the number BEFORE the dot decides"),
            Fault('int(built.split(".")[0]) > int(driver.split(".")[0])', "float(built) > float(driver)", "only the number before the dot decides: 12.8 runs on a driver for 12.4"),
            Fault('int(built.split(".")[0]) > int(driver.split(".")[0])', 'built.split(".")[0] > driver.split(".")[0]', "compare numbers: as text, 9 is larger than 12"),
            Fault('int(built.split(".")[0]) > int', 'int(built.split(".")[0]) != int', "an OLDER build runs on a newer driver"),
            Fault('int(built.split(".")[0]) > int', 'int(built.split(".")[0]) >= int', "the same major number runs"),
            Fault('        return "CPU build"', '        return "ok"', "None is a torch without CUDA, a CPU build"),
            Fault('int(built.split(".")[0]) > int(driver.split(".")[0])', "built[0] > driver[0]", "the part before the dot may have two digits: `12`, not `1`"),
            Fault('int(built.split(".")[0]) > int', 'int(built.split(".")[0]) < int', "the other way round: the BUILD must not be newer than the driver"),
        ),
    ),
    Part(
        read_gpus, "what nvidia-smi lists", 2, 12,
        "One GPU a line. `line.split(\", \")` gives name, MiB and compute capability, all as text. A MiB is 1024 x 1024 "
        "bytes, a GB is 1e9. FP8 units came with capability 8.9 (sm_89).",
        (
            Witness("a GPU is (name, GB, FP8 or not)", listed("NVIDIA H100 80GB HBM3, 81559, 9.0")),
            Witness("no GPU gives an empty list", lambda: ("",)),
            Witness("a line for each GPU", listed("NVIDIA H20, 97871, 9.0", "NVIDIA H20, 97871, 9.0", "NVIDIA H20, 97870, 9.0")),
            Witness("A100 and A800 (8.0) and the 3090 (8.6) have no FP8 units", listed("NVIDIA A800-SXM4-80GB, 81920, 8.0", "NVIDIA GeForce RTX 3090, 24576, 8.6")),
            Witness("8.9, Ada, is the first with FP8 units", listed("NVIDIA GeForce RTX 4090, 24564, 8.9")),
            Witness("10.0 and 12.0 are newer than 9.0: compare numbers, not texts", listed("NVIDIA B200, 183359, 10.0", "NVIDIA GeForce RTX 5090, 32607, 12.0")),
            Witness("a missing line end, or an empty line after the last GPU, is no GPU", listed("Tesla T4, 15360, 7.5", end="\n\n")),
        ),
        (
            Fault("* 1024**2 / 1e9", "/ 1000", "nvidia-smi's numbers are MiB of 1024 x 1024 bytes, not MB"),
            Fault("* 1024**2 / 1e9", "/ 1024", "that is GiB; a GB is 1e9 bytes, as on the planner's lines"),
            Fault("float(capability) >= 8.9", 'capability >= "8.9"', 'compare numbers: as text, "10.0" is smaller than "8.9"'),
            Fault("float(capability) >= 8.9", "float(capability) >= 9", "8.9 (the RTX 4090, L40S) has FP8 units, too"),
            Fault("float(capability) >= 8.9", "float(capability) >= 8", "8.0 and 8.6 (A100, A800, 3090) have no FP8 units"),
            Fault("listing.strip().splitlines()", 'listing.split("\\n")', "an empty line is no GPU: strip the text first"),
            Fault("    return found", "    return found[:1]", "every line is a GPU, not only the first"),
            Fault("listing.strip().splitlines()", "listing.strip().splitlines()[1:]", "the first line is a GPU, too: noheader leaves the head out"),
        ),
    ),
]  # fmt: skip
