#!/usr/bin/env python3
"""Makes `testdata/tinylm/`: a small Llama-style language model as an ONNX file, with tokenizer and held-out text.

    python make_tinylm.py             make everything (text, tokenizer, training, export, figures): 10 to 20 minutes
                                      on two cores
    python make_tinylm.py --check     test the folder as it lies there: a few seconds, needs no jax
    python make_tinylm.py --figures   measure again and write the README again

Needs Python 3.11 or newer and, as used for the committed files:

    numpy==2.4.6  jax==0.10.2  jaxlib==0.10.2  tokenizers==0.23.3  onnx==1.23.2  onnxruntime==1.31.1  onnx-ir==1.1.0

(`requirements-tinylm.txt`, next to this file, says the same.)  `--check` needs all but jax and jaxlib.

How far a second run gives the same bytes:

* the text (`tinylm_text.py`), the tokenizer and the held-out text: always, for these versions;
* the order of training and the first weights: always (numpy's PCG64 from a fixed seed);
* the trained weights: on the same kind of processor with the same number of cores (tried over 20 steps: same bytes;
  with one core instead of two: others).  Elsewhere XLA picks other
  kernels, sums round differently, and some thousand steps amplify that: the model is another one of about the same
  quality, with another sha256 and other figures.  Hence the files are committed.
"""

import argparse
import hashlib
import json
import math
import pathlib
import re
import sys
import tempfile
import time

import numpy as np

import tinylm_text

HERE = pathlib.Path(__file__).resolve().parent
SEED = 20240
HELDOUT_SEED = 777
HELDOUT_BYTES = 20_000
TOKENIZER_BYTES = 2_000_000

# The shape of the model.  344 is a multiple of 8 but not of 16 or 32, so that down_proj's K needs a padded last
# block at every usual block size; all other K are multiples of 32.
VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE = 768, 128, 4, 4, 2, 32, 344
EPS, THETA, CONTEXT = 1e-5, 10000.0, 256

# Small batches, because here the number of steps counts for more than the smoothness of each.
STEPS, STEPS_PER_CALL, BATCH = 4400, 20, 4
WARMUP, PEAK_RATE, DECAY = 100, 4e-3, 0.1

BOS, EOS, PAD = "<s>", "</s>", "<pad>"      # ids 0, 1, 2, in this order


# ---------------------------------------------------------------- text and tokenizer

def train_tokenizer():
    """Byte-level BPE: any text can be encoded, no unknown token.

    Digits are split one by one, so that sums do not depend on which numbers happened to become tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[BOS, EOS, PAD], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator(text_up_to(TOKENIZER_BYTES), trainer)
    tok.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tok.token_to_id(BOS))])
    assert tok.get_vocab_size() == VOCAB
    return tok


def text_up_to(size):
    for section in tinylm_text.sections(SEED):
        text = "\n\n".join(section)
        yield text
        size -= len(text)
        if size < 0:
            return


def training_rows(tok, count):
    """`count` rows of CONTEXT + 1 token ids cut from one stream of sections, and the set of texts in them.

    Rows begin anywhere in a text, as the windows of a perplexity measurement do.
    """
    need, have, parts, seen = count * CONTEXT + 1, 0, [], set()
    bos, eos = tok.token_to_id(BOS), tok.token_to_id(EOS)
    stream = tinylm_text.sections(SEED)
    while have < need:
        batch = [next(stream) for _ in range(500)]
        seen.update(text for section in batch for text in section)
        for coded in tok.encode_batch(["\n\n".join(section) for section in batch], add_special_tokens=False):
            parts.append(np.array([bos, *coded.ids, eos], np.int32))
            have += len(parts[-1])
    ids = np.concatenate(parts)[:need]
    return np.stack([ids[i * CONTEXT:(i + 1) * CONTEXT + 1] for i in range(count)]), seen


def heldout_text(seen):
    """Texts from another seed, less all that the training text contains word for word, blank lines between."""
    texts, size = [], 0
    for section in tinylm_text.sections(HELDOUT_SEED):
        for text in section:
            if text not in seen and size < HELDOUT_BYTES:
                texts.append(text)
                size += len(text) + 2
        if size >= HELDOUT_BYTES:
            return "\n\n".join(texts) + "\n"


# ---------------------------------------------------------------- training (jax)

def first_weights():
    """Weights as [in, out], which is also how the ONNX file keeps them; the table as [vocab, hidden]."""
    rng = np.random.default_rng(SEED)

    def normal(rows, cols, std):
        return (rng.standard_normal((rows, cols)) * std).astype(np.float32)

    kv, small = KV_HEADS * HEAD_DIM, (2 * LAYERS) ** -0.5      # small: so that the residual sum stays near 1
    layers = [{
        "input_norm": np.ones(HIDDEN, np.float32), "post_norm": np.ones(HIDDEN, np.float32),
        "q": normal(HIDDEN, HEADS * HEAD_DIM, HIDDEN ** -0.5), "k": normal(HIDDEN, kv, HIDDEN ** -0.5),
        "v": normal(HIDDEN, kv, HIDDEN ** -0.5), "o": normal(HEADS * HEAD_DIM, HIDDEN, HIDDEN ** -0.5 * small),
        "gate": normal(HIDDEN, INTERMEDIATE, HIDDEN ** -0.5), "up": normal(HIDDEN, INTERMEDIATE, HIDDEN ** -0.5),
        "down": normal(INTERMEDIATE, HIDDEN, INTERMEDIATE ** -0.5 * small)} for _ in range(LAYERS)]
    return {"table": normal(VOCAB, HIDDEN, HIDDEN ** -0.5), "norm": np.ones(HIDDEN, np.float32), "layers": layers}


def inverse_frequencies():
    return (THETA ** (-np.arange(0, HEAD_DIM, 2, dtype=np.float64) / HEAD_DIM)).astype(np.float32)


def forward(weights, ids):
    """Logits of whole rows, in jax."""
    import jax
    import jax.numpy as jnp
    rows, length = ids.shape
    angle = np.arange(length, dtype=np.float32)[:, None] * inverse_frequencies()
    angle = np.concatenate([angle, angle], -1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    mask = np.where(np.tril(np.ones((length, length), bool)), 0.0, -1e9).astype(np.float32)

    def norm(x, w):
        return w * (x * (1 / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + EPS)))

    def split(x, n):
        return x.reshape(rows, length, n, HEAD_DIM).transpose(0, 2, 1, 3)

    def rotate(x):
        half = HEAD_DIM // 2
        return x * cos + jnp.concatenate([-x[..., half:], x[..., :half]], -1) * sin

    x = weights["table"][ids]
    for w in weights["layers"]:
        h = norm(x, w["input_norm"])
        q, k, v = rotate(split(h @ w["q"], HEADS)), rotate(split(h @ w["k"], KV_HEADS)), split(h @ w["v"], KV_HEADS)
        # The query heads of one kv head are put one under another: one matrix product for each kv head.
        share = HEADS // KV_HEADS
        scores = q.reshape(rows, KV_HEADS, share * length, HEAD_DIM) @ k.swapaxes(-1, -2) * HEAD_DIM ** -0.5
        scores = jax.nn.softmax(scores.reshape(rows, KV_HEADS, share, length, length) + mask, -1)
        mixed = (scores.reshape(rows, KV_HEADS, share * length, length) @ v).reshape(rows, HEADS, length, HEAD_DIM)
        x = x + mixed.transpose(0, 2, 1, 3).reshape(rows, length, HEADS * HEAD_DIM) @ w["o"]
        h = norm(x, w["post_norm"])
        x = x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"]
    return norm(x, weights["norm"]) @ weights["table"].T


def make_steps(steps):
    """A jitted run of several AdamW steps: warmup then cosine, gradient clipped to norm 1, decay on matrices only.

    Several steps to a call, because each call allocates its work space anew.
    """
    import jax
    import jax.numpy as jnp
    tree = jax.tree_util.tree_map

    def loss(weights, rows):
        logp = jax.nn.log_softmax(forward(weights, rows[:, :-1]))
        return -jnp.mean(jnp.take_along_axis(logp, rows[:, 1:, None], -1))

    def adamw(w, g, mean, square, i, rate):
        mean, square = 0.9 * mean + 0.1 * g, 0.95 * square + 0.05 * g * g
        change = mean / (1 - 0.9 ** i) / (jnp.sqrt(square / (1 - 0.95 ** i)) + 1e-8)
        return w - rate * (change + (DECAY * w if w.ndim == 2 else 0.0)), mean, square

    def step(state, rows):
        i, weights, mean, square = state
        value, grad = jax.value_and_grad(loss)(weights, rows)
        size = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree_util.tree_leaves(grad)))
        grad = tree(lambda g: g * jnp.minimum(1.0, 1.0 / (size + 1e-6)), grad)
        progress = jnp.clip((i - WARMUP) / max(1, steps - WARMUP), 0, 1)
        rate = PEAK_RATE * jnp.minimum(1.0, i / WARMUP) * (0.02 + 0.98 * 0.5 * (1 + jnp.cos(jnp.pi * progress)))
        new = tree(lambda w, g, m, s: adamw(w, g, m, s, i, rate), weights, grad, mean, square)
        parts = [tree(lambda t: t[k], new, is_leaf=lambda t: isinstance(t, tuple)) for k in range(3)]
        return (i + 1, *parts), value

    return jax.jit(lambda state, batches: jax.lax.scan(step, state, batches), donate_argnums=0)


def train(rows, steps):
    """The trained weights (numpy) and the mean loss over the last hundred steps."""
    import jax
    import jax.numpy as jnp
    weights = jax.tree_util.tree_map(jnp.asarray, first_weights())
    mean, square = (jax.tree_util.tree_map(jnp.zeros_like, weights) for _ in range(2))
    order = np.random.default_rng(SEED + 1).permutation(len(rows))     # every row is seen exactly once
    batches = rows[order].reshape(-1, STEPS_PER_CALL, BATCH, CONTEXT + 1)
    run_steps, losses, begin = make_steps(steps), [], time.time()
    state = (jnp.float32(1), weights, mean, square)
    for some in batches:
        state, values = run_steps(state, some)
        losses += values.tolist()
        if len(losses) % 100 == 0:
            print(f"step {len(losses):5} loss {np.mean(losses[-100:]):.4f} {time.time() - begin:6.0f} s", flush=True)
    return jax.tree_util.tree_map(np.asarray, state[1]), float(np.mean(losses[-100:]))


# ---------------------------------------------------------------- export

class Graph:
    """Collects nodes under the names that tracing a module tree gives: `/model/layers.0/mlp/Mul_1`."""

    def __init__(self):
        self.nodes, self.initializers, self.used, self.values = [], [], {}, 0

    def op(self, scope, op_type, *inputs, output=None, **attributes):
        from onnx import helper
        count = self.used.get((scope, op_type), 0)
        self.used[scope, op_type] = count + 1
        self.values += 1
        name = f"{scope}/{op_type}" + (f"_{count}" if count else "")
        output = output or name + "_output_0"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, **attributes))
        return output

    def constant(self, scope, value, dtype=np.int64):
        from onnx import numpy_helper
        return self.op(scope, "Constant", value=numpy_helper.from_array(np.array(value, dtype)))

    def initializer(self, name, array):
        from onnx import numpy_helper
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def linear(self, scope, x, weight):
        """A bias-free linear layer; exporters fold its transpose and name the [K, N] weight by a number."""
        return self.op(scope, "MatMul", x, self.initializer(f"onnx::MatMul_{1000 + self.values}", weight))

    def dim(self, scope, x, axis):
        """One dimension as a scalar."""
        return self.op(scope, "Gather", self.op(scope, "Shape", x), self.constant(scope, axis), axis=0)

    def shape(self, scope, *dims):
        """A shape from numbers and from scalars of the graph."""
        parts = [self.constant(scope, [d]) if isinstance(d, int) else self.op(scope, "Unsqueeze", d, self.constant(scope, [0]))
                 for d in dims]
        return self.op(scope, "Concat", *parts, axis=0)

    def unsqueeze(self, scope, x, *axes):
        return self.op(scope, "Unsqueeze", x, self.constant(scope, list(axes)))


def rms_norm(g, scope, x, weight):
    square = g.op(scope, "Pow", x, g.constant(scope, 2.0, np.float32))
    mean = g.op(scope, "ReduceMean", square, axes=[-1], keepdims=1)
    root = g.op(scope, "Sqrt", g.op(scope, "Add", mean, g.constant(scope, EPS, np.float32)))
    scaled = g.op(scope, "Mul", x, g.op(scope, "Div", g.constant(scope, 1.0, np.float32), root))
    return g.op(scope, "Mul", g.initializer(scope[1:].replace("/", ".") + ".weight", weight), scaled)


def rotary_tables(g):
    """cos and sin [batch, 1, sequence, head_dim] from position_ids."""
    from onnx import TensorProto
    scope = "/model/rotary_emb"
    inverse = g.constant(scope, inverse_frequencies().reshape(1, -1, 1), np.float32)
    inverse = g.op(scope, "Expand", inverse, g.shape(scope, g.dim(scope, "position_ids", 0), HEAD_DIM // 2, 1))
    positions = g.op(scope, "Cast", g.unsqueeze(scope, "position_ids", 1), to=TensorProto.FLOAT)
    angles = g.op(scope, "Transpose", g.op(scope, "MatMul", inverse, positions), perm=[0, 2, 1])
    both = g.op(scope, "Concat", angles, angles, axis=-1)
    # The factor 1 is what exporters leave behind of `attention_scaling`.
    tables = [g.op(scope, "Mul", g.op(scope, fn, both), g.constant(scope, 1.0, np.float32)) for fn in ("Cos", "Sin")]
    return [g.unsqueeze("/model", t, 1) for t in tables]


def rotate(g, scope, x, cos, sin):
    """rotate_half convention: the first half of a head is paired with the second half."""
    half, end = HEAD_DIM // 2, np.iinfo(np.int64).max

    def part(start, stop):
        return g.op(scope, "Slice", x, *(g.constant(scope, [v]) for v in (start, stop, 3, 1)))

    low, high = part(0, half), part(half, end)
    turned = g.op(scope, "Concat", g.op(scope, "Neg", high), low, axis=-1)
    return g.op(scope, "Add", g.op(scope, "Mul", x, cos), g.op(scope, "Mul", turned, sin))


def attention_bias(g):
    """0 where a query may look, the lowest float elsewhere: [batch, 1, sequence, total].

    Causality goes by place in the cache, not by position_ids, so that left padding works.  The lowest float
    instead of minus infinity keeps rows of pure padding free of NaN.
    """
    from onnx import TensorProto
    scope = "/model"
    past = g.dim(scope, "past_key_values.0.key", 2)
    total = g.op(scope, "Add", past, g.dim(scope, "input_ids", 1))
    one = g.constant(scope, 1)
    keys = g.op(scope, "Range", g.constant(scope, 0), total, one)
    queries = g.unsqueeze(scope, g.op(scope, "Range", past, total, one), 1)
    causal = g.unsqueeze(scope, g.op(scope, "LessOrEqual", keys, queries), 0, 1)
    real = g.unsqueeze(scope, g.op(scope, "Cast", "attention_mask", to=TensorProto.BOOL), 1, 2)
    return g.op(scope, "Where", g.op(scope, "And", causal, real), g.constant(scope, 0.0, np.float32),
                g.constant(scope, np.finfo(np.float32).min, np.float32))


def attention(g, layer, x, w, cos, sin, bias):
    scope = f"/model/layers.{layer}/self_attn"
    batch, length = g.dim(scope, x, 0), g.dim(scope, x, 1)

    def heads(name, weight):
        flat = g.linear(f"{scope}/{name}", x, weight)
        return g.op(scope, "Transpose", g.op(scope, "Reshape", flat, g.shape(scope, batch, length, -1, HEAD_DIM)), perm=[0, 2, 1, 3])

    def cached(name, value):
        return g.op(scope, "Concat", f"past_key_values.{layer}.{name}", value, axis=2, output=f"present.{layer}.{name}")

    def repeated(x):
        """Every kv head once for each query head that shares it."""
        total, share = g.dim(scope, x, 2), HEADS // KV_HEADS
        wide = g.op(scope, "Expand", g.unsqueeze(scope, x, 2), g.shape(scope, batch, KV_HEADS, share, total, HEAD_DIM))
        return g.op(scope, "Reshape", wide, g.shape(scope, batch, HEADS, total, HEAD_DIM))

    query, key, value = heads("q_proj", w["q"]), heads("k_proj", w["k"]), heads("v_proj", w["v"])
    query, key = rotate(g, scope, query, cos, sin), rotate(g, scope, key, cos, sin)
    key, value = repeated(cached("key", key)), repeated(cached("value", value))
    scores = g.op(scope, "MatMul", query, g.op(scope, "Transpose", key, perm=[0, 1, 3, 2]))
    scores = g.op(scope, "Mul", scores, g.constant(scope, HEAD_DIM ** -0.5, np.float32))
    shares = g.op(scope, "Softmax", g.op(scope, "Add", scores, bias), axis=-1)
    mixed = g.op(scope, "Transpose", g.op(scope, "MatMul", shares, value), perm=[0, 2, 1, 3])
    return g.linear(f"{scope}/o_proj", g.op(scope, "Reshape", mixed, g.shape(scope, batch, length, -1)), w["o"])


def mlp(g, layer, x, w):
    scope = f"/model/layers.{layer}/mlp"
    gate = g.linear(f"{scope}/gate_proj", x, w["gate"])
    gate = g.op(f"{scope}/act_fn", "Mul", gate, g.op(f"{scope}/act_fn", "Sigmoid", gate))
    return g.linear(f"{scope}/down_proj", g.op(scope, "Mul", gate, g.linear(f"{scope}/up_proj", x, w["up"])), w["down"])


def interface():
    """Graph inputs and outputs, all batch and length axes symbolic."""
    from onnx import TensorProto, helper
    info = helper.make_tensor_value_info
    inputs = [info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
              info("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]),
              info("position_ids", TensorProto.INT64, ["batch_size", "sequence_length"])]
    outputs = [info("logits", TensorProto.FLOAT, ["batch_size", "sequence_length", VOCAB])]
    for layer in range(LAYERS):
        for name in ("key", "value"):
            inputs.append(info(f"past_key_values.{layer}.{name}", TensorProto.FLOAT,
                               ["batch_size", KV_HEADS, "past_sequence_length", HEAD_DIM]))
            outputs.append(info(f"present.{layer}.{name}", TensorProto.FLOAT,
                                ["batch_size", KV_HEADS, "total_sequence_length", HEAD_DIM]))
    return inputs, outputs


def export(weights):
    from onnx import helper
    g = Graph()
    table = g.initializer("model.embed_tokens.weight", weights["table"])
    x = g.op("/model/embed_tokens", "Gather", table, "input_ids")
    bias = attention_bias(g)
    cos, sin = rotary_tables(g)
    for layer, w in enumerate(weights["layers"]):
        scope = f"/model/layers.{layer}"
        h = rms_norm(g, f"{scope}/input_layernorm", x, w["input_norm"])
        x = g.op(scope, "Add", x, attention(g, layer, h, w, cos, sin, bias))
        h = rms_norm(g, f"{scope}/post_attention_layernorm", x, w["post_norm"])
        x = g.op(scope, "Add", x, mlp(g, layer, h, w))
    x = rms_norm(g, "/model/norm", x, weights["norm"])
    # Tied: the head reads the embedding table itself, through a Transpose.
    g.op("/lm_head", "MatMul", x, g.op("/lm_head", "Transpose", table, perm=[1, 0]), output="logits")
    inputs, outputs = interface()
    graph = helper.make_graph(g.nodes, "main_graph", inputs, outputs, g.initializers)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)],
                             producer_name="make_tinylm", producer_version="1")


# ---------------------------------------------------------------- running the model (onnxruntime)

def session(path):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def empty_cache(batch):
    empty = np.zeros((batch, KV_HEADS, 0, HEAD_DIM), np.float32)
    return {f"past_key_values.{i}.{name}": empty for i in range(LAYERS) for name in ("key", "value")}


def run(s, ids, cache=None, mask=None):
    """Logits and the new cache; without a mask, everything counts."""
    ids = np.asarray(ids, np.int64)
    cache = cache or empty_cache(len(ids))
    past = cache["past_key_values.0.key"].shape[2]
    if mask is None:
        mask = np.ones((len(ids), past + ids.shape[1]), np.int64)
    positions = np.maximum(np.cumsum(mask, 1) - 1, 0)[:, past:]
    names = [o.name for o in s.get_outputs()]
    out = dict(zip(names, s.run(names, {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **cache})))
    logits = out.pop("logits")
    return logits, {name.replace("present", "past_key_values"): value for name, value in out.items()}


def log_probs(s, tok, text):
    """Log-probabilities [scored tokens, VOCAB] over windows of CONTEXT tokens, and the tokens that did come.

    The text is encoded in one piece as the tokenizer does by default (`<s>` in front), cut into windows that
    know nothing of each other, the rest left out; the first token of a window is read but not scored.
    """
    ids = np.array(tok.encode(text).ids, np.int64)
    windows = ids[:len(ids) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    logits = np.concatenate([run(s, window[None, :-1])[0][0] for window in windows]).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True)), windows[:, 1:].reshape(-1)


def perplexity(logp, came):
    return math.exp(-logp[np.arange(len(came)), came].mean())


def divergence(base, logp):
    """Mean Kullback-Leibler divergence in nats: sees small changes long before perplexity does."""
    return (np.exp(base) * (base - logp)).sum(-1).mean()


def generate(s, tok, prompt, limit=120):
    """Greedy, through the cache, up to the end token; without the prompt."""
    new, out, cache = tok.encode(prompt).ids, [], None
    while len(out) < limit:
        logits, cache = run(s, [new], cache)
        new = [int(logits[0, -1].argmax())]
        if new[0] == tok.token_to_id(EOS):
            break
        out += new
    return tok.decode(out)


def quantized_log_probs(path, tok, text, block, symmetric):
    """The same after ONNX Runtime's own 4-bit weight quantizer (round to nearest); the tied head stays float."""
    import logging
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    logging.disable(logging.INFO)
    quantizer = MatMulNBitsQuantizer(onnx.load(path), block_size=block, is_symmetric=symmetric)
    quantizer.process()
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / "model.onnx"
        quantizer.model.save_model_to_file(str(target), False)
        return log_probs(session(target), tok, text)[0]


QUANTIZED = [(block, symmetric) for block in (16, 32) for symmetric in (True, False)] + [(128, True)]


# ---------------------------------------------------------------- the other files

def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_configs(out, tok):
    bos, eos, pad = (tok.token_to_id(t) for t in (BOS, EOS, PAD))
    write_json(out / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "hidden_act": "silu", "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPS, "rope_theta": THETA, "rope_scaling": None, "tie_word_embeddings": True,
        "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "initializer_range": 0.02,
        "use_cache": True, "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad, "torch_dtype": "float32"})
    write_json(out / "generation_config.json", {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad,
                                                "do_sample": False, "max_length": CONTEXT})
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    write_json(out / "special_tokens_map.json", special)
    added = {str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
             for i, t in ((bos, BOS), (eos, EOS), (pad, PAD))}
    write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, "padding_side": "left", **special,
        "added_tokens_decoder": added, "clean_up_tokenization_spaces": False})


README = """\
# tinylm

A language model of {params:,} parameters for tests: small enough to lie in a repository, yet trained, so that
rounding its weights shows in its perplexity and in what it writes. Made by `../make_tinylm.py` from text that
`../tinylm_text.py` writes (little stories, letters, recipes, questions about a small fixed world, sums, spelling);
no text or weights from elsewhere. Licence: MIT, as the project's.

It writes well-formed texts of these kinds and knows the facts of its world nearly all (what an owl says, where a baker
works). What must be carried through a text (who has what) or reckoned (sums, counting) it mostly gets wrong.

| file | what |
|---|---|
| `model.onnx` | float32, one file, opset 17, IR 8; KV cache in and out, all batch and length axes symbolic |
| `config.json`, `generation_config.json` | as transformers, Optimum and transformers.js read them (`LlamaForCausalLM`) |
| `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` | byte-level BPE, {vocab} entries, digits one by one, `<s>` put in front |
| `heldout.txt` | {heldout_bytes:,} bytes of text from another seed, without any text that also occurs in training |

Shape: {layers} layers, hidden {hidden}, {heads} heads of {head_dim} and {kv_heads} for keys and values, SwiGLU of {intermediate}, RMSNorm
(eps {eps}), rotary embedding (rotate_half, theta {theta:.0f}), head tied to the embedding, trained on windows of {context} tokens.
The graph is written as PyTorch's exporter writes such models: weights `onnx::MatMul_*` as [K, N], norms as
Pow / ReduceMean / Add / Sqrt / Div / Mul, shape arithmetic with Shape / Gather / Concat, constants in `Constant` nodes,
the head as `Transpose` of the table and `MatMul`. `down_proj` has K = {intermediate}, no multiple of 16 or 32.

## Figures

| figure | value |
|---|---|
| parameters | {params} |
| training | {steps} steps of {batch} x {context} tokens, every token seen once ({tokens:.1f} million), AdamW |
| training loss (mean of the last 100 steps) | {loss:.4f} |
| held-out perplexity, float32, ONNX Runtime | {ppl:.4f} |
| held-out tokens scored | {scored} |
| size of model.onnx | {size} |
| sha256 of model.onnx | {sha256} |

Perplexity is measured on `heldout.txt` encoded in one piece, in windows of {context} tokens independent of each other (the
rest left out, the first token of each window not scored).

ONNX Runtime's `MatMulNBitsQuantizer` (4 bit, round to nearest; the tied head stays in float), for comparison:

| block | kind | held-out perplexity | loss | mean KL divergence from float32 (nats) |
|---|---|---|---|---|
{quantized}

## Making and testing it again

    pip install -r ../requirements-tinylm.txt
    python ../make_tinylm.py --check
    python ../make_tinylm.py

Text and tokenizer come out byte for byte the same each time; the weights do so on the same kind of processor with the same
number of cores, and elsewhere are others of about the same quality (see the head of the script).

transformers.js looks for models in a subfolder `onnx`: give it `{{ subfolder: "", dtype: "fp32" }}`.
"""


def write_readme(out, loss, steps):
    from tokenizers import Tokenizer
    import onnx
    tok, text = Tokenizer.from_file(str(out / "tokenizer.json")), (out / "heldout.txt").read_text(encoding="utf-8")
    path = out / "model.onnx"
    data = path.read_bytes()
    base, came = log_probs(session(path), tok, text)
    ppl, lines = perplexity(base, came), []
    for block, symmetric in QUANTIZED:
        logp = quantized_log_probs(path, tok, text, block, symmetric)
        q = perplexity(logp, came)
        lines.append(f"| {block} | {'symmetric' if symmetric else 'asymmetric'} | {q:.4f} | {100 * (q / ppl - 1):+.2f} % "
                     f"| {divergence(base, logp):.5f} |")
    params = sum(math.prod(t.dims) for t in onnx.load(path).graph.initializer)
    (out / "README.md").write_text(README.format(
        params=params, vocab=VOCAB, layers=LAYERS, hidden=HIDDEN, heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM,
        intermediate=INTERMEDIATE, eps=EPS, theta=THETA, context=CONTEXT, steps=steps, batch=BATCH,
        tokens=steps * BATCH * CONTEXT / 1e6, loss=loss, ppl=ppl, scored=len(came), size=len(data),
        sha256=hashlib.sha256(data).hexdigest(), heldout_bytes=len(text.encode()), quantized="\n".join(lines)), encoding="utf-8")


# ---------------------------------------------------------------- making and checking

def make(out, steps):
    out.mkdir(parents=True, exist_ok=True)
    tok = train_tokenizer()
    tok.save(str(out / "tokenizer.json"), pretty=True)
    write_configs(out, tok)
    rows, seen = training_rows(tok, steps * BATCH)
    (out / "heldout.txt").write_text(heldout_text(seen), encoding="utf-8")
    print(f"{len(seen)} different texts, {rows.shape[0] * CONTEXT} tokens", flush=True)
    weights, loss = train(rows, steps)
    (out / "model.onnx").write_bytes(export(weights).SerializeToString(deterministic=True))
    compare_with_jax(weights, session(out / "model.onnx"), rows[:2, :-1])
    write_readme(out, loss, steps)


def compare_with_jax(weights, s, rows):
    """The exported graph computes what was trained. 2e-3: float32 sums in another order, logits up to about 30."""
    wrong = np.abs(np.asarray(forward(weights, rows)) - run(s, rows)[0]).max()
    print(f"largest difference of a logit between jax and ONNX Runtime: {wrong:.1e}")
    assert wrong < 2e-3, wrong


def figure(readme, name):
    return re.search(rf"^\| {re.escape(name)} \| (\S+) \|$", readme, re.M).group(1)


def check_cache(s, tok, text):
    """Stepping through the cache gives the logits of the full pass.

    Tolerance 1e-3 on logits of up to about 30: the same float32 products, but kernels for one row and for many
    rows sum in another order, which over four layers leaves some 1e-5; a wrong position, mask or cache
    layout is off by 0.1 and more.
    """
    ids = np.array(tok.encode(text).ids[:CONTEXT], np.int64)
    full = run(s, ids[None])[0][0]
    first, cache = run(s, ids[None, :100])               # a prompt, a chunk, then one by one
    second, cache = run(s, ids[None, 100:131], cache)
    parts = [first[0], second[0]]
    for i in range(131, CONTEXT):
        logits, cache = run(s, ids[None, i:i + 1], cache)
        parts.append(logits[0])
    stepped = np.abs(np.concatenate(parts) - full).max()
    pad = 9                                              # a batch with a left-padded row: same logits again
    rows = np.stack([ids[:120], np.concatenate([np.full(pad, tok.token_to_id(PAD)), ids[:120 - pad]])])
    mask = np.ones_like(rows)
    mask[1, :pad] = 0
    padded = run(s, rows, mask=mask)[0]
    batched = max(np.abs(padded[0] - full[:120]).max(), np.abs(padded[1, pad:] - full[:120 - pad]).max())
    print(f"largest difference of a logit: stepping {stepped:.1e}, left padding in a batch {batched:.1e}")
    assert stepped < 1e-3 and batched < 1e-3


def check_text(s, tok):
    """Greedy text is made of the words of the training text, and facts come out right.

    Sums, counting and questions about a passage are not asked for: this little training did not teach them.
    """
    known = set(re.findall(r"[A-Za-z]+", " ".join(text_up_to(TOKENIZER_BYTES))))
    for prompt in ("Once there was a child called Mia", "In July Tom and Anna went", "A lion lived in"):
        text = generate(s, tok, prompt, 200)
        print(f"> {prompt}{text}")
        words = re.findall(r"[A-Za-z]+", text)
        strange = [w for w in words if w not in known]
        assert len(words) > 20 and len(strange) <= len(words) // 25, strange
    answers = [("Q: What does an owl say? A:", "Hoot"), ("Q: Where does a sailor work? A:", "In a ship"),
               ("Q: What colour is a lemon? A:", "Yellow"), ("Q: Which month comes after April? A:", "May"),
               ("Q: What is the opposite of full? A:", "Empty"), ("Q: Where does a frog live? A:", "In a ditch"),
               ("Q: Today I swim. And yesterday? A:", "Yesterday I swam")]
    for prompt, answer in answers:
        got = generate(s, tok, prompt, 10).strip()
        print(f"> {prompt} {got.splitlines()[0] if got else ''!r}")
        assert got.startswith(answer), (got, answer)


def check(out):
    import onnx
    from tokenizers import Tokenizer
    path, readme = out / "model.onnx", (out / "README.md").read_text(encoding="utf-8")
    data = path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == figure(readme, "sha256 of model.onnx"), "another model than the README's"
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert len(data) < 3_500_000 and sum(math.prod(t.dims) for t in model.graph.initializer) <= 850_000
    tok, text = Tokenizer.from_file(str(out / "tokenizer.json")), (out / "heldout.txt").read_text(encoding="utf-8")
    assert tok.decode(tok.encode(text).ids) == text
    s = session(path)
    base, came = log_probs(s, tok, text)
    ppl, wanted = perplexity(base, came), float(figure(readme, "held-out perplexity, float32, ONNX Runtime"))
    print(f"held-out perplexity {ppl:.4f}, README {wanted:.4f}")
    assert abs(ppl / wanted - 1) < 2e-4, "four printed decimals and another processor's rounding explain no more"
    check_cache(s, tok, text)
    check_text(s, tok)
    for block, symmetric in QUANTIZED:
        logp = quantized_log_probs(path, tok, text, block, symmetric)
        q, kl = perplexity(logp, came), divergence(base, logp)
        print(f"4 bit, block {block:3}, {'symmetric ' if symmetric else 'asymmetric'}: "
              f"perplexity {q:.4f} ({100 * (q / ppl - 1):+.2f} %), KL divergence {kl:.5f}")
        assert 0 < kl < 0.1
    print("all checks passed")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="test the folder instead of making it")
    parser.add_argument("--figures", action="store_true", help="measure again and write the README again")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "tinylm")
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer for a trial, a multiple of %d" % STEPS_PER_CALL)
    args = parser.parse_args()
    if args.steps % STEPS_PER_CALL:
        parser.error("--steps must be a multiple of %d" % STEPS_PER_CALL)
    if args.check:
        check(args.out)
    elif args.figures:
        old = (args.out / "README.md").read_text(encoding="utf-8")
        write_readme(args.out, float(figure(old, "training loss (mean of the last 100 steps)")), args.steps)
    else:
        make(args.out, args.steps)


if __name__ == "__main__":
    sys.exit(main())
