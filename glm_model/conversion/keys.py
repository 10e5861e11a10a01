"""Published tensor names and this package's, as a table. Imports nothing of ours.

Applied by transformers when it loads (left to right) and when it saves (right to left), so that a folder saved here
has the published names again.
"""

RENAMED_KEYS: tuple[tuple[str, str], ...] = (
    ("transformer.word_embeddings", "model.embed_tokens"),
    ("transformer.layers", "model.layers"),
    ("transformer.final_layernorm", "model.norm"),
    ("transformer.prefix_encoder", "model.prefix_encoder"),
    (".attention.query_key_value", ".self_attn.query_key_value"),
    (".attention.dense", ".self_attn.dense"),
)

# In every published file, ignored by the original: it computes the frequencies anew.
IGNORED_KEYS = r"rotary_emb\.inv_freq$"
