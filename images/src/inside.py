"""The figures of what is inside the model. Numbers come from ``config_671B.json``."""

from dsv3.config import BLOCK, ModelConfig

from .draw import BLUE, GREEN, GREY, ORANGE, PALE, PINK, SKY, YELLOW, arrow, box, grid, sheet, text

CFG = ModelConfig.load("config_671B.json")


def architecture() -> str:
    moe = CFG.n_layers - CFG.n_dense_layers
    parts = [text(20, 32, "DeepSeek-V3 / R1", 19, bold=True)]
    column = (
        (f"embedding  {CFG.vocab_size:,} x {CFG.dim:,}", SKY),
        (f"{CFG.n_dense_layers} blocks, dense", YELLOW),
        (f"{moe} blocks, experts", ORANGE),
        ("RMSNorm", GREY),
        ("head -> logits", SKY),
    )
    for i, (words, fill) in enumerate(column):
        y = 60 + i * 68
        parts.append(box(20, y, 270, 48, words, fill))
        if i:
            parts.append(arrow(155, y - 20, 155, y - 2))
    parts += [
        text(360, 32, "One block", 19, bold=True),
        box(360, 60, 270, 40, "x  [tokens, 7168]", PALE),
        box(360, 122, 270, 40, "RMSNorm", GREY),
        box(360, 180, 270, 48, f"MLA, {CFG.n_heads} heads", BLUE),
        box(360, 250, 270, 40, "RMSNorm", GREY),
        box(
            360,
            308,
            270,
            64,
            f"1 shared + {CFG.n_activated_experts} of {CFG.n_routed_experts}\nexperts (or dense)",
            ORANGE,
        ),
        arrow(495, 100, 495, 120),
        arrow(495, 162, 495, 178),
        arrow(495, 228, 495, 248),
        arrow(495, 290, 495, 306),
        '<path d="M630 80 H660 V234 H500" fill="none" stroke="#1b1b1b" stroke-width="2" marker-end="url(#head)"/>',
        text(668, 158, "+", 24),
        '<path d="M495 245 H650 V386 H500" fill="none" stroke="#1b1b1b" stroke-width="2" marker-end="url(#head)"/>',
        text(658, 320, "+", 24),
        text(720, 32, "The MTP layer (layer 61)", 19, bold=True),
        box(720, 60, 120, 56, "hidden\nstate of i", PALE, 16),
        box(858, 60, 122, 56, "embedding\nof i + 1", PALE, 16),
        box(720, 142, 260, 48, "2 x RMSNorm, eh_proj", PINK),
        box(720, 216, 260, 48, "one more block", ORANGE),
        box(720, 290, 260, 64, "the same head:\nthe token after the next", SKY),
        arrow(780, 116, 800, 140),
        arrow(918, 116, 898, 140),
        arrow(850, 190, 850, 214),
        arrow(850, 264, 850, 288),
    ]
    return sheet(1000, 410, "The layers of DeepSeek-V3, one block, and the MTP layer", *parts)


def fp8_blocks() -> str:
    tints = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY)
    weight = {(c, r): tints[(c // 2 + r // 2 * 3) % 6] for c in range(8) for r in range(6)}
    rows = {(c, r): tints[(c // 2 + r * 3) % 6] for c in range(8) for r in range(4)}
    parts = [
        text(20, 32, "Weights: one scale per 128 x 128 block", 19, bold=True),
        grid(20, 56, 8, 6, 34, weight),
        text(310, 110, "FP8 E4M3 weight", 17),
        text(310, 134, f"two cells are {BLOCK} numbers wide;", 16),
        text(310, 156, "a colour is a block", 16),
        text(310, 200, "weight_scale_inv, float32:", 17),
        grid(310, 216, 4, 3, 20, {(c, r): tints[(c + r * 3) % 6] for c in range(4) for r in range(3)}),
        text(600, 32, "Activations: one scale per 1 x 128", 19, bold=True),
        grid(600, 56, 8, 4, 34, rows),
        text(600, 220, "quantised on the fly, for each token", 16),
        text(600, 244, "One outlier spoils only its own group.", 16),
    ]
    return sheet(1000, 290, "FP8 weights in 128 by 128 blocks, activations in groups of 128", *parts)


def mla() -> str:
    kept = CFG.kv_lora_rank + CFG.qk_rope_head_dim
    h, n, r, c, p = CFG.n_heads, CFG.qk_nope_head_dim, CFG.qk_rope_head_dim, CFG.kv_lora_rank, CFG.v_head_dim
    parts = [
        text(20, 30, f"MLA keeps {kept} numbers a token and layer, for all {h} heads", 19, bold=True),
        box(16, 196, 90, 60, f"x\n{CFG.dim:,}", PALE),
        box(150, 62, 140, 56, f"query latent\n{CFG.q_lora_rank:,}", SKY),
        box(340, 62, 160, 56, f"queries\n{h} x ({n} + {r})", SKY),
        box(140, 218, 160, 180, "", "none"),
        box(150, 230, 140, 64, f"latent c\n{c}", YELLOW),
        box(150, 322, 140, 64, f"rotated key\n{r}", YELLOW),
        text(220, 418, f"the cache: {kept}", 17, "middle", True),
        text(560, 62, "expanded form", 17, bold=True),
        box(560, 124, 190, 64, f"keys and values\n{h} x ({n + r} + {p})", GREY, 16),
        box(800, 76, 100, 112, "attention", BLUE),
        text(560, 238, "absorbed form", 17, bold=True),
        box(560, 256, 190, 64, f"queries x W_UK\n{h} x ({c} + {r})", SKY, 16),
        box(800, 270, 100, 112, "attention", BLUE),
        box(918, 296, 70, 60, "x W_UV", GREY, 16),
        box(918, 196, 70, 52, "wo", PALE),
        arrow(106, 206, 148, 120),
        arrow(106, 226, 148, 256),
        arrow(106, 246, 148, 340),
        arrow(290, 90, 338, 90),
        arrow(500, 90, 798, 100),
        arrow(480, 118, 558, 272),
        arrow(300, 262, 558, 166),
        arrow(300, 358, 798, 358),
        arrow(750, 156, 798, 150),
        arrow(750, 292, 798, 300),
        arrow(900, 150, 932, 194),
        arrow(900, 326, 916, 326),
        arrow(953, 296, 953, 250),
        text(548, 374, "the cache itself, latent and rotated key, is every head's key", 16, "middle"),
        text(
            990, 418, "Both forms read the latent and the rotated key, and give the same answer.", 16, "end"
        ),
    ]  # fmt: skip
    return sheet(1000, 440, "Multi-head latent attention: what is kept, and the two ways to use it", *parts)


def routing() -> str:
    per = CFG.n_routed_experts // CFG.n_expert_groups
    parts = [
        text(20, 32, f"{CFG.n_activated_experts} of {CFG.n_routed_experts} experts for a token", 19, bold=True),
        box(20, 70, 150, 60, "token\nscores: sigmoid", PALE),
        arrow(172, 100, 208, 100),
    ]
    chosen = {0: (3, 11), 2: (7,), 4: (1, 20, 30), 7: (9, 26)}
    for g in range(CFG.n_expert_groups):
        x, keep = 210 + g * 97, g in chosen
        fills = {(i % 8, i // 8): ORANGE if keep and i in chosen[g] else (SKY if keep else GREY) for i in range(per)}
        parts += [grid(x, 66, 8, per // 8, 11, fills), text(x + 44, 128, f"group {g}", 16, "middle", keep)]
    parts += [
        text(
            20,
            176,
            f"1. scores + bias; a group's score is the sum of its best two; the best {CFG.n_limited_groups} groups stay (bold).",
            17,
        ),
        text(
            20,
            204,
            f"2. the best {CFG.n_activated_experts} experts of those groups are chosen (orange). The bias decides only this.",
            17,
        ),
        text(
            20,
            232,
            f"3. weights: the scores without bias, divided by their sum, times {CFG.route_scale}; plus the shared expert.",
            17,
        ),
        text(
            20,
            260,
            "Training lowers the bias of busy experts and raises that of idle ones: balance without a loss.",
            17,
        ),
    ]
    return sheet(1000, 290, "Group-limited routing: 256 experts in 8 groups, 4 groups kept, 8 experts chosen", *parts)


def triton_tiles() -> str:
    a = {(c, 1): BLUE for c in range(6)} | {(2, 1): ORANGE}
    b = {(2, r): GREEN for r in range(6)} | {(2, 2): ORANGE}
    parts = [
        text(20, 32, "One program, one tile of the result", 19, bold=True),
        text(100, 76, "activations, 1 x 128 scales", 16),
        grid(100, 90, 6, 4, 36, a),
        text(20, 130, "pid_m", 16),
        text(420, 76, "weights, 128 x 128 scales", 16),
        grid(420, 90, 5, 6, 36, b),
        text(492, 322, "pid_n", 16),
        text(700, 76, "result", 16),
        grid(700, 90, 5, 4, 36, {(2, 1): PINK}),
        text(350, 160, "x", 26, "middle"),
        text(640, 160, "=", 26, "middle"),
        text(20, 356, "for k in blocks of 128:   acc += dot(a, b) * a_scale[k] * b_scale[k]", 18),
        text(20, 382, "The two scales belong to this k alone, so they are applied before the sum goes on.", 17),
    ]
    return sheet(1000, 410, "A Triton program computes one tile, rescaling each block of 128 along K", *parts)
