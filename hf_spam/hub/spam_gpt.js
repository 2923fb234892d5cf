/**
 * SpamGPT in plain JavaScript: a tokenizer, the GPT of modeling_spam_gpt.py with the same names, and its decision.
 *
 * Runs in any browser and in Node.js, without a library. It is written to be read: each function says which shapes it
 * takes and returns. Shapes: T tokens of one message, C = n_embd, H = n_head, D = C / H. A matrix (T, C) is a
 * Float32Array of T * C numbers, row after row. As in PyTorch, a linear layer stores its weight as (n_out, n_in).
 */
"use strict";

// ---- Tokenizer: normalize, split into words, and merge the bytes of each word (byte-level BPE, as in GPT-2) ----

/** GPT-2's pattern for words, without \s: JavaScript and the tokenizers library disagree on U+0085 and U+FEFF. */
const WORD = new RegExp(
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+" +
    "|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+",
  "gu",
);

/** Characters newer than the Unicode version of the tokenizers library, which normalizes nothing in them. */
const NOT_NORMALIZED = new RegExp(
  "([" +
    "\\u07fd\\u0897-\\u089f\\u08ca-\\u08d3\\u09fe\\u0c3c\\u0d3b\\u0d3c\\u0eba\\u1715\\u1abf-\\u1add" +
    "\\u1ae0-\\u1aeb\\u1df6-\\u1dfa\\u32ff\\ua7f1-\\ua7f4\\ua82c\\uab69\\u{10781}-\\u{107ba}\\u{10d24}-\\u{10d27}" +
    "\\u{10d69}-\\u{10d6d}\\u{10eab}\\u{10eac}\\u{10efa}-\\u{10eff}\\u{10f46}-\\u{10f50}\\u{10f82}-\\u{10f85}" +
    "\\u{11070}\\u{1133b}\\u{113ce}-\\u{113d0}\\u{1145e}\\u{11839}\\u{1183a}\\u{1193d}\\u{1193e}\\u{11943}" +
    "\\u{119e0}\\u{11a34}\\u{11a47}\\u{11a99}\\u{11d42}\\u{11d44}\\u{11d45}\\u{11d97}\\u{11f41}\\u{11f42}" +
    "\\u{1612f}\\u{16ff0}\\u{16ff1}\\u{1ccd6}-\\u{1ccf9}\\u{1e030}-\\u{1e08f}\\u{1e130}-\\u{1e136}\\u{1e2ae}" +
    "\\u{1e2ec}-\\u{1e2ef}\\u{1e4ec}-\\u{1e4ef}\\u{1e5ee}\\u{1e5ef}\\u{1e6e3}-\\u{1e6f5}\\u{1f16c}" +
    "\\u{1fbf0}-\\u{1fbf9}" +
    "]+)",
  "u",
);

class Tokenizer {
  /**
   * @param {object} settings `specials` (text -> id), `normalizers`, `byte_ids` (byte -> id), and the ids that are put
   *   before and after every text: `prefix`, `suffix`.
   * @param {ArrayLike<number>} merges (n, 3): the ids of a left and a right token and of both together, best first.
   */
  constructor({ specials, normalizers, byte_ids, prefix, suffix }, merges) {
    Object.assign(this, { byte_ids, prefix, suffix, merges });
    this.specials = new Map(specials);
    const names = [...this.specials.keys()].sort((a, b) => b.length - a.length); // the longest that matches
    this.special = new RegExp(`(${names.map((name) => name.replace(/[^\p{L}\p{N}]/gu, "\\$&")).join("|")})`);
    this.normalizers = normalizers.map(({ type, pattern, content }) => {
      const searched = new RegExp(pattern, "gu");
      if (!type) return (text) => text.replaceAll(searched, () => content);
      if (type === "Lowercase") return (text) => text.toLowerCase();
      // Parts with odd numbers are the characters at which the text was split.
      return (text) => text.split(NOT_NORMALIZED).map((part, i) => (i % 2 ? part : part.normalize(type))).join("");
    });
    this.ranks = new Map(); // pair of ids -> its row in `merges`
    this.stride = 1 + Math.max(...byte_ids, merges.reduce((highest, id) => Math.max(highest, id), 0));
    for (let rank = merges.length / 3 - 1; rank >= 0; rank--)
      this.ranks.set(merges[3 * rank] * this.stride + merges[3 * rank + 1], rank);
  }

  /** Return the token ids of a text, at most `max_tokens`; a text that is cut keeps its suffix. */
  encode(text, max_tokens) {
    text = text.replace(/\p{Surrogate}/gu, "\ufffd"); // halves of a character
    const ids = [];
    const parts = this.specials.size ? text.split(this.special) : [text];
    parts.forEach((part, i) => {
      if (i % 2) return ids.push(this.specials.get(part));
      for (const [word] of this.normalize(part).matchAll(WORD)) for (const id of this.encodeWord(word)) ids.push(id);
    });
    const room = max_tokens - this.prefix.length - this.suffix.length;
    return [...this.prefix, ...ids.slice(0, room), ...this.suffix];
  }

  normalize(text) {
    return this.normalizers.reduce((done, normalize) => normalize(done), text);
  }

  /** Start from the bytes of a word, and merge the pair of the lowest rank, wherever it is, until no pair has one. */
  encodeWord(word) {
    let ids = Array.from(new TextEncoder().encode(word), (byte) => this.byte_ids[byte]);
    for (;;) {
      let best = Infinity;
      for (let i = 0; i + 1 < ids.length; i++) {
        const rank = this.ranks.get(ids[i] * this.stride + ids[i + 1]);
        if (rank < best) best = rank; // false for a pair without a rank
      }
      if (best === Infinity) return ids;
      const [left, right, both] = this.merges.slice(3 * best, 3 * best + 3);
      const merged = [];
      for (let i = 0; i < ids.length; i++) {
        const isPair = ids[i] === left && ids[i + 1] === right;
        merged.push(isPair ? both : ids[i]);
        if (isPair) i++;
      }
      ids = merged;
    }
  }
}

// ---- Network ----

/** Dot product of n numbers of `a` from `i` on and of `b` from `j` on. Four sums at once are twice as fast as one. */
function dot(a, i, b, j, n) {
  let sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0, k = 0;
  for (; k + 3 < n; k += 4) {
    sum0 += a[i + k] * b[j + k];
    sum1 += a[i + k + 1] * b[j + k + 1];
    sum2 += a[i + k + 2] * b[j + k + 2];
    sum3 += a[i + k + 3] * b[j + k + 3];
  }
  for (; k < n; k++) sum0 += a[i + k] * b[j + k];
  return sum0 + sum1 + (sum2 + sum3);
}

/** Add `factor` times n numbers of `b` from `j` on to those of `a` from `i` on. */
function addScaled(a, i, factor, b, j, n) {
  for (let k = 0; k < n; k++) a[i + k] += factor * b[j + k];
}

/** Turn scores into weights that sum to 1, in place. */
function softmax(scores) {
  const highest = scores.reduce((a, b) => Math.max(a, b), -Infinity); // so that exp does not overflow
  let sum = 0;
  for (let i = 0; i < scores.length; i++) sum += scores[i] = Math.exp(scores[i] - highest);
  for (let i = 0; i < scores.length; i++) scores[i] /= sum;
  return scores;
}

class Linear {
  constructor({ weight, bias }) {
    this.weight = weight.data; // (n_out, n_in)
    [this.n_out, this.n_in] = weight.shape;
    this.bias = bias ? bias.data : new Float32Array(this.n_out); // (n_out,)
  }

  /** (T, n_in) -> (T, n_out) */
  forward(x) {
    const { weight, bias, n_in, n_out } = this;
    const T = x.length / n_in;
    const y = new Float32Array(T * n_out);
    for (let o = 0; o < n_out; o++)
      for (let t = 0; t < T; t++) y[t * n_out + o] = dot(weight, o * n_in, x, t * n_in, n_in) + bias[o];
    return y;
  }
}

class LayerNorm {
  constructor({ weight, bias }, epsilon) {
    Object.assign(this, { weight: weight.data, bias: bias.data, epsilon });
  }

  /** Shift and scale each row to mean 0 and variance 1, then by what was learned: (T, C) -> (T, C) */
  forward(x) {
    const C = this.weight.length;
    const y = new Float32Array(x.length);
    for (let start = 0; start < x.length; start += C) {
      let mean = 0, variance = 0;
      for (let c = 0; c < C; c++) mean += x[start + c];
      mean /= C;
      for (let c = 0; c < C; c++) variance += (x[start + c] - mean) * (x[start + c] - mean);
      const scale = 1 / Math.sqrt(variance / C + this.epsilon);
      for (let c = 0; c < C; c++) y[start + c] = (x[start + c] - mean) * scale * this.weight[c] + this.bias[c];
    }
    return y;
  }
}

class MultiHeadAttention {
  constructor(weights, { n_head }) {
    this.n_head = n_head;
    for (const name of ["W_query", "W_key", "W_value", "out_proj"]) this[name] = new Linear(weights[name]);
    this.head_dim = this.W_query.n_out / n_head;
  }

  /** Each position reads itself and all earlier ones: (T, C) -> (T, C) */
  forward(x) {
    const D = this.head_dim, C = this.n_head * D, T = x.length / C;
    const query = this.W_query.forward(x), key = this.W_key.forward(x), value = this.W_value.forward(x); // (T, C) each
    const context = new Float32Array(T * C);
    for (let start = 0; start < C; start += D) // a head has columns start ... start + D of each
      for (let t = 0; t < T; t++) {
        const weights = new Float64Array(t + 1); // (t + 1,)
        for (let s = 0; s <= t; s++) weights[s] = dot(query, t * C + start, key, s * C + start, D) / Math.sqrt(D);
        softmax(weights).forEach((weight, s) => addScaled(context, t * C + start, weight, value, s * C + start, D));
      }
    return this.out_proj.forward(context);
  }

  /**
   * The same for the last position only, (T, C) -> (1, C), without a key and a value for every position:
   * q·(W_key x + b) = (q W_key)·x + a number that is the same for all x, which softmax ignores; and
   * Σ w (W_value x + b) = W_value (Σ w x) + b, since the weights w sum to 1.
   */
  forwardLast(x) {
    const D = this.head_dim, C = this.n_head * D, T = x.length / C;
    const query = this.W_query.forward(x.subarray((T - 1) * C)); // (1, C)
    const context = new Float32Array(C);
    for (let start = 0; start < C; start += D) {
      const absorbed = new Float32Array(C); // q W_key
      for (let d = start; d < start + D; d++) addScaled(absorbed, 0, query[d], this.W_key.weight, d * C, C);
      const weights = new Float64Array(T);
      for (let t = 0; t < T; t++) weights[t] = dot(absorbed, 0, x, t * C, C) / Math.sqrt(D);
      const mixed = new Float32Array(C); // Σ w x
      softmax(weights).forEach((weight, t) => addScaled(mixed, 0, weight, x, t * C, C));
      for (let d = start; d < start + D; d++)
        context[d] = dot(this.W_value.weight, d * C, mixed, 0, C) + this.W_value.bias[d];
    }
    return this.out_proj.forward(context);
  }
}

class FeedForward {
  constructor({ layers }) {
    this.layers = [new Linear(layers[0]), GELU, new Linear(layers[2])];
  }

  /** (T, C) -> (T, n_inner) -> (T, C) */
  forward(x) {
    return this.layers[2].forward(this.layers[0].forward(x).map(this.layers[1]));
  }
}

function GELU(x) {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)));
}

class TransformerBlock {
  constructor(weights, config) {
    this.att = new MultiHeadAttention(weights.att, config);
    this.ff = new FeedForward(weights.ff);
    this.norm1 = new LayerNorm(weights.norm1, config.layer_norm_epsilon);
    this.norm2 = new LayerNorm(weights.norm2, config.layer_norm_epsilon);
  }

  /** (T, C) -> (T, C), or (1, C) where only the last position is needed */
  forward(x, onlyLast) {
    const normal = this.norm1.forward(x);
    const context = onlyLast ? this.att.forwardLast(normal) : this.att.forward(normal);
    const rest = x.subarray(x.length - context.length);
    x = context.map((value, i) => rest[i] + value);
    return this.ff.forward(this.norm2.forward(x)).map((value, i) => x[i] + value);
  }
}

class SpamGPTModel {
  constructor(weights, config) {
    this.tok_emb = weights.tok_emb.weight.data; // (vocab_size, C)
    this.pos_emb = weights.pos_emb.weight.data; // (n_positions, C)
    this.n_embd = weights.tok_emb.weight.shape[1];
    this.trf_blocks = Object.values(weights.trf_blocks).map((block) => new TransformerBlock(block, config));
    this.final_norm = new LayerNorm(weights.final_norm, config.layer_norm_epsilon);
  }

  /** Return the hidden state of the last token: (T,) ids -> (1, C) */
  forward(ids) {
    const C = this.n_embd;
    let x = new Float32Array(ids.length * C); // (T, C)
    ids.forEach((id, t) => {
      addScaled(x, t * C, 1, this.tok_emb, id * C, C);
      addScaled(x, t * C, 1, this.pos_emb, t * C, C);
    });
    this.trf_blocks.forEach((block, i) => (x = block.forward(x, i === this.trf_blocks.length - 1)));
    return this.final_norm.forward(x);
  }
}

// ---- Classifier ----

class SpamGPT {
  /**
   * @param {object} config The model's configuration, with `labels` and `positive`: the index of spam, or null.
   * @param {object} tokenizer Settings for `Tokenizer`.
   * @param {object} tensors Name -> {shape, data}, as in the model's file, and `merges`.
   */
  constructor(config, tokenizer, tensors) {
    const weights = {}; // "gpt.tok_emb.weight" becomes weights.gpt.tok_emb.weight
    for (const [name, tensor] of Object.entries(tensors)) {
      const path = name.split(".");
      const last = path.pop();
      path.reduce((inner, key) => (inner[key] ??= {}), weights)[last] = tensor;
    }
    this.config = config;
    this.tokenizer = new Tokenizer(tokenizer, tensors.merges.data);
    this.gpt = new SpamGPTModel(weights.gpt, config);
    this.out_head = new Linear(weights.out_head);
  }

  /** Return the token ids that the network reads: at least one, and all `padded_length` where pads are part of it. */
  encode(text) {
    const ids = this.tokenizer.encode(text, this.config.max_tokens);
    while (ids.length < (this.config.padded_length ?? 1)) ids.push(this.config.pad_token_id);
    return ids;
  }

  /** (num_labels,) */
  logits(text) {
    return this.out_head.forward(this.gpt.forward(this.encode(text))).map((logit) => logit / this.config.temperature);
  }

  /** Return the label of a message, the probability of that label, and all of them. */
  classify(text) {
    const probabilities = softmax(Float64Array.from(this.logits(text)));
    const index = this.decide(probabilities);
    return { label: this.config.labels[index], index, score: probabilities[index], probabilities };
  }

  /** With a threshold, a message is spam if the probability of spam reaches it; otherwise the likeliest class wins. */
  decide(probabilities) {
    const { threshold, positive } = this.config;
    if (threshold !== null && probabilities[positive] >= threshold) return positive;
    const others = probabilities.map((p, i) => (threshold !== null && i === positive ? -1 : p));
    return others.indexOf(Math.max(...others));
  }

  /** Return log(p / (1 - p)) for the probability p of a class. */
  logOdds(text, index) {
    const logits = this.logits(text);
    return -Math.log(logits.reduce((sum, logit, i) => (i === index ? sum : sum + Math.exp(logit - logits[index])), 0));
  }
}

const UNSPACED = "\\p{Script=Thai}\\p{Script=Lao}\\p{Script=Khmer}\\p{Script=Myanmar}"; // scripts without spaces
const LETTERS = `\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}ー${UNSPACED}`;
/** Words, or a few letters where no spaces are written. The same as in inference/explain.py. */
const PARTS = new RegExp(
  "[\\p{Script=Hiragana}ー]{1,8}|[\\p{Script=Katakana}ー]{1,8}|\\p{Script=Han}{1,2}" +
    `|(?:[${UNSPACED}]\\p{M}*){1,4}|[^${LETTERS}\\p{White_Space}]{1,200}`,
  "gu",
);

/** Return the words of a text as [start, end]. */
function findWords(text) {
  return Array.from(text.matchAll(PARTS), ({ 0: word, index }) => [index, index + word.length]);
}

/** Return a text without one of its words and the space before it. */
function leaveOut(text, [start, end]) {
  return text.slice(0, start).replace(/\p{White_Space}$/u, "") + text.slice(end);
}

// ---- The file: a gzip stream of all tensors in base64, and a list that says where each lies ----

/** Return the SpamGPT that `hf-spam demo` packed; `layout` has `config`, `tokenizer` and `tensors`. */
async function unpack(layout, base64) {
  const binary = atob(base64.trim());
  const packed = new Uint8Array(binary.length);
  for (let i = 0; i < packed.length; i++) packed[i] = binary.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const tensors = {};
  let offset = 0;
  for (const { name, shape, type } of layout.tensors) {
    const size = shape.reduce((a, b) => a * b, 1);
    const read = (kind, n) => new kind(buffer.slice(offset, (offset += n * kind.BYTES_PER_ELEMENT)));
    let data;
    if (type === "rows") {
      // Whole numbers of 16 bits, first the upper 8 bits of all, then the lower, times a scale for each row.
      const scales = read(Float32Array, shape[0]), upper = read(Int8Array, size), lower = read(Uint8Array, size);
      data = new Float32Array(size);
      for (let row = 0, i = 0; row < shape[0]; row++)
        for (; i < ((row + 1) * size) / shape[0]; i++) data[i] = (upper[i] * 256 + lower[i]) * scales[row];
    } else data = read({ float32: Float32Array, int32: Int32Array }[type], size);
    tensors[name] = { shape, data };
  }
  return new SpamGPT(layout.config, layout.tokenizer, tensors);
}

if (typeof module !== "undefined") module.exports = { SpamGPT, Tokenizer, unpack, findWords, leaveOut };
