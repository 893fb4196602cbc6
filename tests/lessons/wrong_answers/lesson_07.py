"""Plausible mistakes in the exercises of lesson 07."""

_ACTIVATED = """
def activated(cfg):
    queries = cfg.n_heads * cfg.qk_head_dim
    q = {q}
    kv = (cfg.kv_lora_rank + cfg.qk_rope_head_dim) * cfg.dim
    kv += cfg.n_heads * (cfg.qk_nope_head_dim + cfg.v_head_dim) * cfg.kv_lora_rank
    attention = q + kv + cfg.dim * cfg.n_heads * cfg.v_head_dim
    experts = ({chosen} + cfg.n_shared_experts) * 3 * cfg.moe_inter_dim * cfg.dim + cfg.n_routed_experts * cfg.dim
    with_experts = cfg.n_layers - cfg.n_dense_layers
    total = cfg.n_layers * attention + cfg.n_dense_layers * 3 * cfg.inter_dim * cfg.dim + with_experts * experts
    return total + {vocabularies} * cfg.vocab_size * cfg.dim
"""
_Q = "cfg.q_lora_rank * (cfg.dim + queries) if cfg.q_lora_rank else queries * cfg.dim"

WRONG = {
    "ex1": [
        # No residual around the feed-forward layer.
        """
def block(x, attn_norm, attn, ffn_norm, ffn):
    h = x + attn(attn_norm(x))
    return ffn(ffn_norm(h))
""",
        # The norms behind the sums, as in the first transformers.
        """
def block(x, attn_norm, attn, ffn_norm, ffn):
    h = attn_norm(x + attn(x))
    return ffn_norm(h + ffn(h))
""",
        # The stream is overwritten for everyone else, too.
        """
def block(x, attn_norm, attn, ffn_norm, ffn):
    x += attn(attn_norm(x))
    x += ffn(ffn_norm(x))
    return x
""",
        # Both layers side by side.
        """
def block(x, attn_norm, attn, ffn_norm, ffn):
    return x + attn(attn_norm(x)) + ffn(ffn_norm(x))
""",
    ],
    "ex2": [
        _ACTIVATED.format(q=_Q, chosen="cfg.n_routed_experts", vocabularies=1),  # every expert
        _ACTIVATED.format(q=_Q, chosen="cfg.n_activated_experts", vocabularies=2),  # the embedding, too
        _ACTIVATED.format(  # right for V3, not for V2-Lite
            q="cfg.q_lora_rank * (cfg.dim + queries)", chosen="cfg.n_activated_experts", vocabularies=1
        ),
        # Published, and of no other model.
        """
def activated(cfg):
    return 37e9
""",
    ],
    "ex3": [
        # The token itself instead of the one after it.
        """
def guess_after_next(model, tokens):
    h = model(tokens)
    return model.logits(model.predict(h[:, :-1], tokens[:, :-1])).argmax(-1)
""",
        # The main model's guess of the next token.
        """
def guess_after_next(model, tokens):
    return model.logits(model(tokens)).argmax(-1)[:, :-1]
""",
        # The last token gets a next one that it does not have.
        """
def guess_after_next(model, tokens):
    return model.logits(model.predict(model(tokens), tokens.roll(-1, 1))).argmax(-1)
""",
    ],
}
