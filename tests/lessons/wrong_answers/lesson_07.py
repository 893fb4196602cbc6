"""Answers to lesson 07's stubs as learners write them, independent of the errors that its module knows."""

_COUNT = """
def count(cfg):
    d, heads = cfg.dim, cfg.n_heads
    widths = cfg.qk_nope_head_dim + cfg.qk_rope_head_dim
    q = {q}
    kv = (cfg.kv_lora_rank + cfg.qk_rope_head_dim) * d
    kv = kv + heads * (cfg.qk_nope_head_dim + cfg.v_head_dim) * cfg.kv_lora_rank
    attention = (q + kv + heads * cfg.v_head_dim * d + {norms}) * cfg.n_layers
    one = 3 * cfg.moe_inter_dim * d
    moe = cfg.n_layers - cfg.n_dense_layers
    rest = attention + cfg.n_dense_layers * 3 * cfg.inter_dim * d + moe * ({gate} + cfg.n_shared_experts * one)
    words = cfg.vocab_size * d
    return rest + 2 * words + moe * cfg.n_routed_experts * one, rest + {words} * words + moe * {chosen} * one
"""
_Q = "cfg.q_lora_rank * (d + heads * widths) if cfg.q_lora_rank else heads * widths * d"
_RIGHT = {"q": _Q, "norms": "0", "gate": "cfg.n_routed_experts * d", "words": "1", "chosen": "cfg.n_activated_experts"}

WRONG = {
    "rms_norm": [
        ("LayerNorm", "LayerNorm", """
def rms_norm(x, weight, eps):
    return torch.nn.functional.layer_norm(x.float(), weight.shape, weight.float(), None, eps).to(x.dtype)
"""),
        ("eps outside", "INSIDE", """
def rms_norm(x, weight, eps):
    y = x.float()
    return (y / (y.square().mean(-1, keepdim=True).sqrt() + eps) * weight).to(x.dtype)
"""),
        ("the length, not the root of the mean", "MEAN", """
def rms_norm(x, weight, eps):
    y = torch.nn.functional.normalize(x.float(), dim=-1)
    return (y * weight.float()).to(x.dtype)
"""),
        ("not cast back", "cast back", """
def rms_norm(x, weight, eps):
    return torch.nn.functional.rms_norm(x.float(), weight.shape, weight.float(), eps)
"""),
        ("over all of the tensor", "last dimension", """
def rms_norm(x, weight, eps):
    y = x.float()
    return (y * (y ** 2).mean().add(eps).rsqrt() * weight.float()).to(x.dtype)
"""),
    ],
    "block": [
        ("no second residual", "second residual", """
def block(x, attn_norm, attn, ffn_norm, ffn):
    x = attn(attn_norm(x)) + x
    return ffn(ffn_norm(x))
"""),
        ("norms after the sums, as in the first transformers", "norms stand after", """
def block(x, attn_norm, attn, ffn_norm, ffn):
    y = attn_norm(attn(x) + x)
    return ffn_norm(ffn(y) + y)
"""),
        ("in place", "changes its arguments", """
def block(x, attn_norm, attn, ffn_norm, ffn):
    x += attn(attn_norm(x))
    x += ffn(ffn_norm(x))
    return x
"""),
        ("side by side, as in GPT-J", "AFTER attention", """
def block(x, attn_norm, attn, ffn_norm, ffn):
    return x + attn(attn_norm(x)) + ffn(ffn_norm(x))
"""),
        ("the normed stream goes on", "not the normed", """
def block(x, attn_norm, attn, ffn_norm, ffn):
    n = attn_norm(x)
    y = n + attn(n)
    return y + ffn(ffn_norm(y))
"""),
    ],
    "transformer": [
        ("no last norm", "last norm", """
def transformer(tokens, embedding, blocks, norm):
    x = torch.nn.functional.embedding(tokens, embedding)
    for b in blocks:
        x = b(x)
    return x
"""),
        ("another residual", "do not add", """
def transformer(tokens, embedding, blocks, norm):
    x = torch.nn.functional.embedding(tokens, embedding)
    for b in blocks:
        x = b(x) + x
    return norm(x)
"""),
        ("all blocks read the embedding", "reads the embedding|in order", """
def transformer(tokens, embedding, blocks, norm):
    x = embedding[tokens]
    out = [b(x) for b in blocks]
    return norm(out[-1] if out else x)
"""),
        ("a norm after each block", "once", """
def transformer(tokens, embedding, blocks, norm):
    x = embedding[tokens]
    for b in blocks:
        x = norm(b(x))
    return norm(x) if not blocks else x
"""),
    ],
    "scores": [
        ("probabilities", "probabilities", """
def scores(h, head):
    return torch.softmax(torch.nn.functional.linear(h.float(), head.float()), dim=-1)
"""),
        ("in bfloat16", "cast before", """
def scores(h, head):
    return torch.nn.functional.linear(h, head).to(torch.float32)
"""),
        ("the last token alone", "last token", """
def scores(h, head):
    return torch.nn.functional.linear(h[..., -1, :].float(), head.float())
"""),
        ("float32 lost on the way out", "cast back|stay in float32", """
def scores(h, head):
    return torch.einsum("...d,vd->...v", h.float(), head.float()).type_as(h)
"""),
    ],
    "count": [
        ("every expert works", "K of the E", _COUNT.format(**_RIGHT | {"chosen": "cfg.n_routed_experts"})),
        ("the embedding is multiplied", "looked up", _COUNT.format(**_RIGHT | {"words": "2"})),
        ("the gates are missing", "gates are missing", _COUNT.format(**_RIGHT | {"gate": "0"})),
        (
            "the gates are missing, and norms are there", "gates are missing",
            _COUNT.format(**_RIGHT | {"gate": "2 * d", "norms": "0"}),
        ),
        ("norms are counted", "norms", _COUNT.format(**_RIGHT | {"norms": "2 * d"})),
        ("right for V3, not for V2-Lite", "q_lora_rank", _COUNT.format(**_RIGHT | {"q": _Q.split(" if ")[0]})),
        ("published", "671,025,397,760", """
def count(cfg):
    return 671_000_000_000, 37_000_000_000
"""),
    ],
    "mtp": [
        ("h first", "next token comes first", """
def mtp(h, e, hnorm, enorm, join, block, norm):
    return norm(block(torch.nn.functional.linear(torch.cat((hnorm(h), enorm(e)), -1), join)))
"""),
        ("one norm over both", "half stands first|norm", """
def mtp(h, e, hnorm, enorm, join, block, norm):
    both = torch.cat((e, h), -1)
    both = both * both.float().square().mean(-1, keepdim=True).rsqrt().to(h.dtype)
    return norm(block(torch.nn.functional.linear(both, join)))
"""),
        ("it writes into the stream", "h is not added", """
def mtp(h, e, hnorm, enorm, join, block, norm):
    y = block(torch.nn.functional.linear(torch.cat((enorm(e), hnorm(h)), -1), join))
    return norm(y + h)
"""),
        ("no last norm", "last norm", """
def mtp(h, e, hnorm, enorm, join, block, norm):
    return block(torch.nn.functional.linear(torch.cat((enorm(e), hnorm(h)), -1), join))
"""),
    ],
    "second_ahead": [
        ("the token itself", "token AFTER it", """
def second_ahead(tokens, hidden, predict, read):
    h = hidden(tokens)
    return read(predict(h, tokens))[:, :-1].argmax(dim=-1)
"""),
        ("the main model's guess", "main model", """
def second_ahead(tokens, hidden, predict, read):
    return read(hidden(tokens)).argmax(dim=-1)[:, :-1]
"""),
        ("the last one is guessed, too", "last token has no next", """
def second_ahead(tokens, hidden, predict, read):
    return read(predict(hidden(tokens), torch.roll(tokens, -1, dims=1))).argmax(dim=-1)
"""),
    ],
    "owner": [
        ("61 is written down", "61 is", """
def owner(name, n_layers):
    if name.startswith("model.layers.61."):
        return "mtp.0"
    return ".".join(name.split(".")[1:3]) if name.startswith("model.layers.") else "model"
"""),
        ("a text is compared", "text", """
def owner(name, n_layers):
    if not name.startswith("model.layers."):
        return "model"
    i = name.split(".")[2]
    return "layers." + i if i < str(n_layers) else "mtp." + str(int(i) - n_layers)
"""),
        ("one too many", "count from 0", """
def owner(name, n_layers):
    if not name.startswith("model.layers."):
        return "model"
    i = int(name.split(".")[2])
    return f"mtp.{i - n_layers}" if i > n_layers else f"layers.{i}"
"""),
    ],
}  # fmt: skip

RIGHT = {
    "rms_norm": ["""
def rms_norm(x, weight, eps):
    return torch.nn.functional.rms_norm(x.float(), weight.shape, weight.float(), eps).type_as(x)
"""],
    "count": [_COUNT.format(**_RIGHT)],
    "scores": ["""
def scores(h, head):
    return torch.nn.functional.linear(h.to(torch.float32), head.to(torch.float32))
"""],
    "owner": ["""
def owner(name, n_layers):
    if not name.startswith("model.layers."):
        return "model"
    i = int(name.removeprefix("model.layers.").partition(".")[0])
    return ("layers.%d" % i) if i in range(n_layers) else ("mtp.%d" % (i - n_layers))
"""],
}  # fmt: skip
