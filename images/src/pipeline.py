"""The figures of the way from a checkpoint to an answer. Numbers come from the tables of the package."""

from dsv3.config import ModelConfig
from dsv3.cost import weight_bytes
from dsv3.hubs.catalogue import find_model

from .draw import BLUE, GREEN, GREY, ORANGE, PALE, PINK, SKY, YELLOW, arrow, box, sheet, text

CFG = ModelConfig.load("config_671B.json")


def gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:,.0f} GB"


def course() -> str:
    fp8, bf16 = find_model("DeepSeek-R1").nbytes, weight_bytes(CFG, "bf16")
    steps = (
        ("environment", "01", "doctor", SKY),
        ("download", "02", gigabytes(fp8), BLUE),
        ("FP8 -> BF16", "03", gigabytes(bf16), ORANGE),
        ("convert", "04", "one file\nper rank", YELLOW),
        ("generate", "09  10", "torchrun", GREEN),
        ("serve", "11", "OpenAI API", PINK),
    )
    parts = [text(20, 32, "The way of a checkpoint, and the lesson for each step", 19, bold=True)]
    for i, (name, lesson, what, fill) in enumerate(steps):
        x = 20 + i * 162
        parts += [box(x, 60, 138, 92, f"{name}\n{what}", fill), text(x + 69, 170, lesson, 17, "middle", True)]
        if i:
            parts.append(arrow(x - 23, 106, x - 2, 106))
    inside = (
        ("attention", "05"),
        ("experts", "06"),
        ("the whole model", "07"),
        ("kernels", "08"),
        ("how tiny-r1 was made", "12"),
    )
    parts.append(text(20, 222, "What is inside", 19, bold=True))
    for i, (name, lesson) in enumerate(inside):
        x = 20 + i * 194
        parts += [box(x, 244, 178, 50, name, PALE, 15), text(x + 89, 312, lesson, 17, "middle", True)]
    parts.append(
        text(
            20,
            350,
            "00 is the start. Every step runs on tiny-r1 on a CPU, and with other paths on 671 B parameters on 16 GPUs.",
            17,
        )
    )
    return sheet(
        1000, 376, "The course: environment, download, cast, convert, generate, serve, and the lesson for each", *parts
    )


def environment() -> str:
    parts = [
        text(20, 32, "Where things live", 19, bold=True),
        box(20, 56, 300, 220, "", SKY),
        text(170, 80, "your laptop, or CI", 18, "middle", True),
        box(40, 104, 260, 66, 'conda env dv3 / .venv\nkernel "Python (dv3)"', "white"),
        box(40, 186, 260, 66, "cache folder\ncheckpoints, lessons' files", "white"),
        box(350, 56, 630, 220, "", ORANGE),
        text(665, 80, "an AutoDL instance (a container, at the time of writing)", 18, "middle", True),
        box(370, 104, 190, 148, "system disk  /\n30 GB\nin the image: yes", "white"),
        box(572, 104, 190, 148, "data disk\n/root/autodl-tmp\n50 GB and more\nfast; in the image: no", "white", 16),
        box(
            774, 104, 190, 148, "network disk\n/root/autodl-fs\nshared in a region\noutlives the instance", "white", 16
        ),
        text(
            20,
            312,
            "DSV3_HOME, else the data disk, else your cache folder: dsv3 decides in one place, dsv3/paths.py.",
            17,
        ),
    ]
    return sheet(1000, 340, "Folders on a laptop and on an AutoDL instance", *parts)


def download() -> str:
    parts = [
        text(20, 32, "What is in the folder", 19, bold=True),
        box(20, 60, 240, 130, "model.safetensors\n.index.json\nname -> file\n91,991 names", YELLOW),
        *(box(300 + 8 * i, 60 + 8 * i, 200, 106, "", BLUE) for i in range(4)),
        text(424, 134, "163 files\n" + gigabytes(find_model("DeepSeek-R1").nbytes), 18, "middle"),
        box(20, 216, 240, 100, "config.json\ntokenizer.json\ntokenizer_config.json", PALE),
        arrow(262, 120, 298, 120),
        arrow(526, 120, 592, 120),
        text(598, 32, "One of them", 19, bold=True),
        box(598, 60, 384, 50, "8 bytes: length N of the header", ORANGE),
        box(598, 110, 384, 92, "N bytes of JSON: for each tensor\ndtype, shape, data_offsets", GREEN),
        box(
            598,
            202,
            384,
            114,
            "the tensors' bytes, one after the other\nrow by row, little-endian\nany range can be read by itself",
            BLUE,
        ),
    ]
    return sheet(1000, 340, "An index, 163 safetensors files, and the parts of one file", *parts)


def shards() -> str:
    n = 4
    tints = (BLUE, ORANGE, GREEN, PINK)
    parts = [text(20, 32, "How a rank's share is cut (4 ranks shown)", 19, bold=True)]
    kinds = (
        ("rows: wq_b, wkv_b, w1, w3,\nembedding, head", "rows"),
        ("columns: wo, w2\n(partial sums: all-reduce)", "columns"),
        ("whole experts\n(each rank its run)", "experts"),
        ("everybody's: norms, router,\nwq_a, wkv_a", "all"),
    )
    for i, (words, kind) in enumerate(kinds):
        x = 20 + i * 246
        for r in range(n):
            if kind == "rows":
                parts.append(box(x, 60 + r * 42, 176, 40, f"rank {r}", tints[r]))
            elif kind == "columns":
                parts.append(box(x + r * 44, 60, 42, 166, str(r), tints[r]))
            elif kind == "experts":
                parts += [box(x + c * 30, 60 + r * 42, 28, 38, str(r * 6 + c), tints[r], 14) for c in range(6)]
            else:
                parts.append(box(x + r * 16, 60 + r * 16, 128, 118, f"rank {r}" if r == n - 1 else "", tints[r]))
        parts.append(text(x, 262, words, 16))
    return sheet(1000, 300, "Tensors cut by rows, by columns, by whole experts, or copied to every rank", *parts)


def generation() -> str:
    parts = [
        text(20, 32, "Prefill reads the prompt at once; decode makes one token a step", 19, bold=True),
        box(20, 60, 250, 56, "37 + 48 = ? <think>", BLUE),
        text(145, 134, "prefill: compute-bound", 16, "middle"),
    ]
    for i, piece in enumerate(("7", "+8", "+0", "=15", ":5", "...")):
        x = 330 + i * 108
        parts += [box(x, 60, 88, 56, piece, GREEN), arrow(x - (58 if i == 0 else 19), 88, x - 2, 88)]
    parts += [
        text(650, 134, "decode: reads all activated weights for each token", 16, "middle"),
        text(20, 182, "With the MTP layer: guess, then check the guess in the same step", 19, bold=True),
        box(20, 206, 200, 60, "main model\ntoken t", GREEN),
        arrow(222, 236, 268, 236),
        box(270, 206, 200, 60, "MTP layer\nguess of t + 1", ORANGE),
        arrow(472, 236, 518, 236),
        box(520, 206, 210, 60, "main model\nreads t and the guess", GREEN),
        arrow(732, 222, 778, 212),
        arrow(732, 250, 778, 268),
        box(780, 190, 200, 46, "right: two tokens", BLUE),
        box(780, 246, 200, 46, "wrong: one token", GREY),
    ]
    return sheet(1000, 316, "Prefill, decode, and speculative decoding with the MTP layer", *parts)


def ranks() -> str:
    parts = [text(20, 32, "torchrun: two nodes of eight GPUs are 16 ranks", 19, bold=True)]
    for node in range(2):
        x = 20 + node * 490
        parts += [
            box(x, 56, 470, 150, "", SKY),
            text(x + 235, 78, f"node {node}: torchrun --node-rank {node}", 17, "middle", True),
        ]
        for r in range(8):
            parts.append(box(x + 14 + r * 56, 100, 50, 50, str(node * 8 + r), GREEN))
        parts.append(text(x + 235, 178, "NVLink between its GPUs", 16, "middle"))
    parts += [
        arrow(470, 230, 530, 230),
        arrow(530, 230, 470, 230),
        text(540, 230, "the network between them", 16),
        text(
            20,
            268,
            f"Each token: an all-reduce of {CFG.dim:,} numbers after every attention and every feed-forward layer,",
            17,
        ),
        text(20, 292, "the logits gathered once. Rank 0 reads the prompt, chooses the token and tells the others.", 17),
    ]
    return sheet(1000, 318, "Sixteen ranks on two nodes, and what they send each other", *parts)


def engines() -> str:
    names = ("dsv3 generate\n(this kit)", "SGLang", "vLLM", "LMDeploy", "TensorRT-LLM", "Ascend: vLLM-Ascend, MindIE")
    fills = (GREEN, BLUE, ORANGE, PINK, YELLOW, GREY)
    parts = [box(20, 110, 200, 120, "one checkpoint folder\nconfig.json\n*.safetensors\ntokenizer", PALE)]
    for i, (name, fill) in enumerate(zip(names, fills, strict=True)):
        y = 24 + i * 52
        parts += [box(330, y, 280, 44, name, fill, 16), arrow(222, 170, 328, y + 22)]
        if i:
            parts.append(arrow(612, y + 22, 698, 170))
    parts += [
        box(700, 110, 280, 120, "OpenAI API\n/v1/chat/completions\nreasoning apart from content", SKY),
        text(840, 262, "dsv3 ask, or the openai package", 17, "middle"),
    ]
    return sheet(1000, 350, "One checkpoint, several engines, one API", *parts)


def tiny_r1() -> str:
    steps = (
        ("data\nsums with every\nstep written out", SKY),
        ("tokenizer\none token a digit,\nR1's special tokens", YELLOW),
        ("training\nMuon and Adam,\nbias update, MTP loss", ORANGE),
        ("export\nFP8 blocks, 5 shards,\nR1's config", BLUE),
        ("score\nheld-out sums,\nBF16 and FP8", GREEN),
    )
    parts = [text(20, 32, "tiny-r1: one command, python -m dsv3.tiny --out DIR", 19, bold=True)]
    for i, (words, fill) in enumerate(steps):
        x = 20 + i * 196
        parts.append(box(x, 56, 174, 100, words, fill, 15))
        if i:
            parts.append(arrow(x - 21, 106, x - 2, 106))
    parts.append(text(20, 196, "DeepSeek-R1: V3-Base is trained twice", 19, bold=True))
    rows = (  # the model that writes the chains, then the model that is R1
        (222, "V3-Base", "1. cold start\nthousands of\nlong chains", "2. RL (GRPO)\nrewards by rule,\none language"),
        (352, "V3-Base,\nagain", "3. SFT, two epochs\non 800 k samples", "4. RL, all uses\nrules, and reward\nmodels"),
    )
    for y, base, taught, reinforced in rows:
        for x, words, fill in ((20, base, GREY), (196, taught, PALE), (412, reinforced, ORANGE)):
            parts.append(box(x, y, 150 if x == 20 else 190, 86, words, fill, 15))
        parts += [arrow(172, y + 43, 194, y + 43), arrow(388, y + 43, 410, y + 43)]
    parts += [
        box(628, 222, 170, 86, "its right answers:\n600 k chains,\n+ 200 k others", SKY, 15), arrow(604, 265, 626, 265),
        box(628, 352, 170, 86, "DeepSeek-R1", BLUE, 17), arrow(604, 395, 626, 395),
        box(824, 352, 160, 86, "R1-Distill\nQwen and Llama,\nSFT alone", GREEN, 15),
        arrow(660, 310, 380, 350, dashed=True), arrow(770, 310, 900, 350, dashed=True),
        text(20, 468, "R1-Zero: step 2 alone, straight from V3-Base.   Dashed: the 800 k samples.   "
             "Source: arXiv 2501.12948v1, section 2.", 16),
    ]  # fmt: skip
    return sheet(1000, 488, "The recipe of tiny-r1, and the four stages of DeepSeek-R1", *parts)
