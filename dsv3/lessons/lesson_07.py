"""The parts of lesson 07: what makes a model of attention and experts.

Letters as in ``dsv3/model.py``: S tokens, D model width, V vocabulary. Layers come as functions from [..., D] to [..., D].
A part calls no other part: ``transplant_07`` puts them together with those of lessons 05 and 06.
"""

import torch

from .inputs_07 import BF16, checkpoint_names, configs, guessing, layers, pairs, random, stacked, wide
from .part import Fault, Part, Witness

# ---------------------------------------------------------------------------------------------------- the parts


def rms_norm(x, weight, eps):
    """x [..., D], weight [D] -> [..., D], computed in float32."""
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    return (h * weight.float()).to(x.dtype)


def block(x, attn_norm, attn, ffn_norm, ffn):
    """x [..., D] and four functions [..., D] -> [..., D]. Return the stream after the block; x stays as it is."""
    h = x + attn(attn_norm(x))
    return h + ffn(ffn_norm(h))


def transformer(tokens, embedding, blocks, norm):
    """ids [..., S], embedding [V, D], functions [..., S, D] -> [..., S, D]: the finished stream, after the norm."""
    h = embedding[tokens]
    for block in blocks:
        h = block(h)
    return norm(h)


def scores(h, head):
    """h [..., D], head [V, D] -> [..., V]: a score for each word, in float32 (so is the product)."""
    wide = h.float()
    return wide @ head.float().T


def count(cfg):
    """A ModelConfig -> parameters stored, and parameters that one token is multiplied with (two whole numbers).

    Matrices only: no norms, no biases, no MTP layer.
    """
    D, H, N, R = cfg.dim, cfg.n_heads, cfg.qk_nope_head_dim, cfg.qk_rope_head_dim
    P, C, Q = cfg.v_head_dim, cfg.kv_lora_rank, cfg.q_lora_rank
    E, K, shared = cfg.n_routed_experts, cfg.n_activated_experts, cfg.n_shared_experts
    dense_layers, expert_layers = cfg.n_dense_layers, cfg.n_layers - cfg.n_dense_layers
    # yours from here
    query = Q * D + H * (N + R) * Q if Q else H * (N + R) * D
    attention = query + (C + R) * D + H * (N + P) * C + D * H * P
    expert = 3 * cfg.moe_inter_dim * D
    always = cfg.n_layers * attention + dense_layers * 3 * cfg.inter_dim * D
    always += expert_layers * (E * D + shared * expert) + cfg.vocab_size * D  # gate, shared experts; head
    stored = always + expert_layers * E * expert + cfg.vocab_size * D  # embedding
    return stored, always + expert_layers * K * expert


def mtp(h, e, hnorm, enorm, join, block, norm):
    """h [..., D] of tokens i, e [..., D]: embeddings of tokens i + 1, join [D, 2 D] -> [..., D] for tokens i + 2."""
    x = torch.cat([enorm(e), hnorm(h)], dim=-1) @ join.T
    return norm(block(x))


# --------------------------------------------------------------------------------------------------- the checks

PARTS = [
    Part(
        rms_norm, "RMSNorm", 1, 10,
        "The root of the mean of the squares, over the last dimension (`keepdim=True`). eps stands inside the root. "
        "No mean is taken away. Work in float32, and cast back at the end.",
        (
            Witness("x divided by the root of the mean of its squares", lambda: (*wide(4, 6, weight=False), 1e-6)),
            Witness("each number has its own weight", lambda: (*wide(4, 6), 1e-6)),
            Witness("a batch [B, S, D]: each vector has its own length", lambda: (*wide(2, 3, 5), 1e-6)),
            Witness("eps stands inside the root", lambda: (*wide(3, 8, size=1e-3), 1e-5)),
            Witness("bfloat16 in, bfloat16 out, computed in float32", lambda: (*wide(3, 200, dtype=BF16), 1e-6)),
            Witness("squares of large numbers need float32", lambda: (*wide(3, 6, size=3e4, dtype=torch.float16), 1e-6)),
        ),
        (
            Fault("h = x.float()", "h = x.float() - x.float().mean(-1, keepdim=True)", "RMSNorm takes no mean away; that is LayerNorm"),
            Fault(" + eps", "", "eps is missing: with small numbers it shows"),
            Fault("torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)", "1 / (h.pow(2).mean(-1, keepdim=True).sqrt() + eps)", "eps stands INSIDE the root"),
            Fault(".mean(-1, keepdim=True)", ".sum(-1, keepdim=True)", "divide by the root of the MEAN of the squares, not of their sum"),
            Fault(".mean(-1, keepdim=True)", ".mean()", "the mean is over the last dimension: each vector has its own length"),
            Fault("h * weight.float()", "h", "the weight is missing"),
            Fault("h * weight.float()", "h * (1 + weight.float())", "the weight is w, not 1 + w (Gemma has that)"),
            Fault(").to(x.dtype)", ")", "the result is float32 for bfloat16 input: cast back"),
            Fault("h = x.float()", "h = x", "the squares are taken in the input's number format: cast to float32 first"),
        ),
    ),
    Part(
        block, "a block", 1, 10,
        "Two lines. The norm is for reading only: what you add to is the stream itself. The feed-forward layer reads the "
        "stream after attention.",
        (
            Witness("x + attn(attn_norm(x)), then the same with ffn", lambda: layers(3, 4)),
            Witness("a batch [B, S, D]", lambda: layers(2, 5, 8)),
            Witness("one token, another width", lambda: layers(1, 16)),
            Witness("bfloat16 in, bfloat16 out", lambda: layers(4, 6, dtype=BF16)),
        ),
        (
            Fault("return h + ffn(ffn_norm(h))", "return h + ffn(ffn_norm(x))", "the feed-forward layer reads the stream AFTER attention, not x"),
            Fault("return h + ffn", "return ffn", "the second residual is missing: add the stream to what ffn gives"),
            Fault("h = x + attn", "h = attn", "the first residual is missing: add x to what attn gives"),
            Fault("h = x + attn(attn_norm(x))\n    return h + ffn(ffn_norm(h))", "h = attn(attn_norm(x))\n    return ffn(ffn_norm(h))", "both residuals are missing"),
            Fault("h = x + attn(attn_norm(x))\n    return h + ffn(ffn_norm(h))", "h = attn_norm(x + attn(x))\n    return ffn_norm(h + ffn(h))", "the norms stand after the sums; they belong in front of attn and ffn, beside the stream"),
            Fault("h = x + attn(attn_norm(x))\n    return h + ffn(ffn_norm(h))", "h = x + attn(x)\n    return h + ffn(h)", "the norms are missing"),
            Fault("h = x + attn(attn_norm(x))", "x = attn_norm(x)\n    h = x + attn(x)", "what attention's result is added to must be the stream, not the normed stream"),
            Fault("return h + ffn(ffn_norm(h))", "h = ffn_norm(h)\n    return h + ffn(h)", "what ffn's result is added to must be the stream, not the normed stream"),
            Fault("attn(attn_norm(x))\n    return h + ffn(ffn_norm(h))", "attn(ffn_norm(x))\n    return h + ffn(attn_norm(h))", "the two norms are swapped"),
        ),
    ),
    Part(
        transformer, "the model", 1, 10,
        "`embedding[tokens]` looks up a row for each id. Then a loop: each block reads what the one before returned. The "
        "norm comes once, after the last block.",
        (
            Witness("one block: norm(block(embedding[tokens]))", lambda: stacked(1, 5)),
            Witness("blocks one after the other, in order", lambda: stacked(3, 4)),
            Witness("a batch of ids [B, S]", lambda: stacked(2, 2, 3)),
            Witness("no block at all: the embedding, normed", lambda: stacked(0, 6)),
            Witness("bfloat16 in, bfloat16 out", lambda: stacked(2, 4, dtype=BF16)),
        ),
        (
            Fault("return norm(h)", "return h", "the last norm is missing"),
            Fault("h = block(h)", "h = h + block(h)", "a block has its residuals inside: it returns the stream, so do not add it again"),
            Fault("h = block(h)", "h = block(norm(h))", "the norm comes once, after the last block; blocks have norms of their own"),
            Fault("h = block(h)\n    return norm(h)", "h = norm(block(h))\n    return h", "the norm comes once, after the last block, not after each"),
            Fault("h = block(h)", "h = block(embedding[tokens])", "every block reads the embedding: it must read what the block before returned"),
            Fault("in blocks:", "in reversed(list(blocks)):", "the blocks run in the wrong order"),
            Fault("h = embedding[tokens]", "h = embedding[tokens] * embedding.shape[1] ** 0.5", "the embedding is not scaled (Gemma does that)"),
            Fault("h = embedding[tokens]", "h = norm(embedding[tokens])", "the norm comes once, after the last block, not before the first"),
        ),
    ),
    Part(
        scores, "the head", 1, 8,
        "Cast both to float32 before the product. `head` has a row for each word, so its transpose is what you multiply "
        "with. No softmax: scores are what is asked for.",
        (
            Witness("a score is the product of h and a word's row", lambda: random((3, 4), (5, 4))),
            Witness("a batch [B, S, D]", lambda: random((2, 3, 6), (9, 6))),
            Witness("as many words as numbers: rows are words", lambda: random((4, 7), (7, 7))),
            Witness("bfloat16 in: the product is float32", lambda: tuple(x.to(BF16) for x in random((5, 64), (11, 64)))),
        ),
        (
            Fault("return wide @ head.float().T", "return (wide @ head.float().T).softmax(-1)", "these are probabilities: scores are asked for, before the softmax"),
            Fault("return wide @ head.float().T", "return (wide @ head.float().T).log_softmax(-1)", "these are logarithms of probabilities: scores are asked for"),
            Fault("return wide @ head.float().T", "return (h @ head.T).float()", "the product is in bfloat16, and only its result is float32: cast before"),
            Fault("return wide @ head.float().T", "return (wide @ head.float().T).to(h.dtype)", "the scores are cast back: they stay in float32"),
            Fault("return wide @ head.float().T", "return (wide @ head.float().T)[..., -1, :]", "only the last token's scores: those of all tokens are asked for"),
            Fault("head.float().T", "head.float()", "head's ROWS are the words: multiply with its transpose"),
        ),
    ),
    Part(
        count, "671 B and 37 B", 3, 15,
        "Three kinds of sums: all layers have attention; `dense_layers` have three matrices [inter_dim, D]; "
        "`expert_layers` have a gate [E, D], shared experts, and E routed ones of three matrices [moe_inter_dim, D] each. "
        "A token meets K of the E. Embedding and head are [V, D] each; the embedding is looked up, not multiplied.",
        tuple(Witness(hint, given) for hint, given in configs()),
        (
            Fault("E * D + shared * expert", "shared * expert", "the gates are missing: [E, D] in each layer of experts"),
            Fault("E * D + shared * expert", "shared * expert + 2 * D", "the gates are missing, and norms are counted"),
            Fault("attention = query", "attention = 2 * D + query", "norms are counted: matrices only"),
            Fault("(E * D + shared * expert) + cfg.vocab_size * D", "(E * D + shared * expert)", "the head is missing: every token is multiplied with it"),
            Fault("return stored, always", "return stored, always + cfg.vocab_size * D", "the embedding is looked up, not multiplied: it is stored only"),
            Fault("E * expert + cfg.vocab_size * D", "E * expert", "the embedding is stored, too"),
            Fault("E * D + shared * expert", "E * D", "the shared experts are missing"),
            Fault("expert_layers * K * expert", "expert_layers * E * expert", "a token is multiplied with K of the E routed experts, not with all"),
            Fault("expert_layers * K * expert", "cfg.n_layers * K * expert", "the dense layers have no experts"),
            Fault(" + dense_layers * 3 * cfg.inter_dim * D", "", "the dense layers are missing: three matrices [inter_dim, D] each"),
            Fault(" + D * H * P", "", "the output matrix wo [D, H P] is missing"),
            Fault(" if Q else H * (N + R) * D", "", "where q_lora_rank is 0, one matrix wq [H (N + R), D] stands for wq_a and wq_b"),
            Fault("(C + R) * D", "C * D", "the down-projection has C + R rows: the rotated key's R are missing"),
            Fault("3 * cfg.moe_inter_dim * D", "2 * cfg.moe_inter_dim * D", "an expert has THREE matrices: w1, w2 and w3"),
            Fault("H * (N + P) * C", "H * N * C", "the up-projection has N key rows and P value rows for each head"),
        ),
    ),
    Part(
        mtp, "two tokens ahead", 2, 10,
        "Norm both, each with its own norm. Put them side by side: the embedding first, then h. `join` brings 2 D numbers "
        "back to D. Then the block, then the norm. Nothing is added to h.",
        (
            Witness("the embedding's half stands first, then that of h", lambda: pairs(3, 4)),
            Witness("a batch [B, S, D]", lambda: pairs(2, 3, 6)),
            Witness("one token, another width", lambda: pairs(1, 9)),
            Witness("bfloat16 in, bfloat16 out", lambda: pairs(4, 5, dtype=BF16)),
        ),
        (
            Fault("[enorm(e), hnorm(h)]", "[hnorm(h), enorm(e)]", "the order is turned round: the embedding of the next token comes first"),
            Fault("[enorm(e), hnorm(h)]", "[hnorm(e), enorm(h)]", "the norms are swapped: enorm is the embedding's"),
            Fault("[enorm(e), hnorm(h)]", "[enorm(e), h]", "h is not normed: hnorm is missing"),
            Fault("[enorm(e), hnorm(h)]", "[e, hnorm(h)]", "the embedding is not normed: enorm is missing"),
            Fault("[enorm(e), hnorm(h)]", "[e, h]", "both norms before the join are missing"),
            Fault("return norm(block(x))", "return block(x)", "the last norm is missing"),
            Fault("return norm(block(x))", "return norm(h + block(x))", "the MTP layer does not write into the stream: h is not added"),
            Fault("return norm(block(x))", "return norm(x + block(x))", "the block has its residuals inside: do not add x again"),
            Fault("return norm(block(x))", "return norm(x)", "the block is missing"),
        ),
    ),
]  # fmt: skip

# ------------------------------------------------------------------------------------- transfers, at the lesson's end


def second_ahead(tokens, hidden, predict, read):
    """ids [B, S] -> ids [B, S - 1]: entry i is the MTP layer's guess of token i + 2.

    hidden(ids) -> h [B, S, D]; predict(h, the tokens after each) -> [B, S, D]; read(h) -> scores [B, S, V].
    """
    h = hidden(tokens)
    ahead = predict(h[:, :-1], tokens[:, 1:])
    return read(ahead).argmax(-1)


def owner(name, n_layers):
    """A checkpoint's tensor name -> "model", or "layers.3", or "mtp.0": who has it, in a model of n_layers blocks."""
    words = name.split(".")
    if words[:2] != ["model", "layers"]:
        return "model"
    i = int(words[2])
    return f"layers.{i}" if i < n_layers else f"mtp.{i - n_layers}"


TRANSFERS = [
    Part(
        second_ahead, "what the MTP layer guesses", 2, 10,
        "Shift by one: the hidden states `h[:, :-1]` belong with the tokens `tokens[:, 1:]`. The last token has no next "
        "one, so it gives no guess.",
        (
            Witness("h of token i goes with token i + 1", lambda: guessing(1, 5)),
            Witness("a batch", lambda: guessing(3, 4)),
            Witness("two tokens give one guess", lambda: guessing(2, 2)),
            Witness("a long text", lambda: guessing(2, 30)),
        ),
        (
            Fault("predict(h[:, :-1], tokens[:, 1:])", "predict(h[:, :-1], tokens[:, :-1])", "the MTP layer was given token i with h_i: it wants the token AFTER it"),
            Fault("predict(h[:, :-1], tokens[:, 1:])", "h[:, :-1]", "these are the main model's guesses of token i + 1: send h through predict"),
            Fault("predict(h[:, :-1], tokens[:, 1:])", "predict(h[:, 1:], tokens[:, 1:])", "h of token i + 1 stands with token i + 1: h must be one earlier"),
            Fault("predict(h[:, :-1], tokens[:, 1:])", "predict(h, tokens.roll(-1, 1))", "the last token has no next one, so it gives no guess: S - 1 guesses"),
            Fault(".argmax(-1)", "", "ids are asked for: the place of the largest score"),
        ),
    ),
    Part(
        owner, "is layer 61 MTP or a block?", 1, 8,
        'Split at the dots. Names that do not begin with "model.layers." belong to the model itself. Compare NUMBERS: '
        'as text, "9" is more than "61".',
        tuple(Witness(hint, given) for hint, given in checkpoint_names()),
        (
            Fault("i < n_layers", "i < 61", "61 is DeepSeek-V3's number: use n_layers"),
            Fault("mtp.{i - n_layers}", "mtp.{i - 61}", "61 is DeepSeek-V3's number: use n_layers"),
            Fault("i < n_layers", "i <= n_layers", "blocks count from 0, so the first MTP layer has the number n_layers"),
            Fault("i < n_layers", "words[2] < str(n_layers)", 'numbers are compared as text: "9" is not less than "61" there'),
            Fault("mtp.{i - n_layers}", "mtp.{i}", "MTP layers count from 0, too"),
            Fault('    if words[:2] != ["model", "layers"]:\n        return "model"\n    i = int(words[2])\n', '    if not words[2].isdigit():\n        return "model"\n    i = int(words[2])\n', "a name may have two words only, or a number elsewhere: ask whether it begins with model.layers"),
        ),
    ),
]  # fmt: skip
