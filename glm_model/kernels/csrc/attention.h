// Attention of one new token of each sequence over a cache of keys and values: rotary positions, the token's own key
// and value written behind the cached ones, scores, softmax, sum. One task is one head of one sequence.
#pragma once
#include <math.h>

#include <algorithm>
#include <vector>

#include "numbers.h"
#include "simd.h"
#include "threads.h"

struct Heads {
    int64_t heads, head_dim;
    int64_t position_rows;  // 1, or 2: each half of a head has positions of its own
};

// Keys and values of one sequence in one layer, each [heads, at least cached + 1, head_dim]: heads are `head_stride`
// numbers apart, the tokens of a head lie one after the other. The new token's are written behind the cached ones.
struct KeysAndValues {
    void *keys, *values;
    int64_t head_stride;
};

// Sequences of one step may have lengths of their own: none is padded to another's.
struct Sequence {
    int64_t cached;          // tokens in front of the new one
    const uint8_t* visible;  // [cached + 1], or null where the new token sees all of them and itself
};

// What is the same in every layer, and where each layer finds each sequence's keys and values.
struct Step {
    int64_t batch;
    const float *cos, *sin;       // [batch, head_dim]
    const Sequence* sequences;    // [batch]
    const KeysAndValues* caches;  // [layers, batch]
    Type type;                    // of all keys and values
};

// (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) over the two halves of each row of positions.
inline void rotate(const float* from, const float* cos, const float* sin, const Heads& h, float* to) {
    const int64_t width = h.head_dim / h.position_rows, half = width / 2;
    for (int64_t first = 0; first < h.head_dim; first += width)
        for (int64_t i = first; i < first + half; i++) {
            to[i] = from[i] * cos[i] - from[i + half] * sin[i];
            to[i + half] = from[i + half] * cos[i + half] + from[i] * sin[i + half];
        }
}

// What a cache holds, a number or a vector of them.
inline Floats load(const Half* p) { return load_halves(&p->bits); }
inline Floats load(const BFloat* p) { return load_bfloats(&p->bits); }
inline float number(float v) { return v; }
inline float number(Half v) { return half_to_float(v.bits); }
inline float number(BFloat v) { return bfloat_to_float(v.bits); }

// The product of a query with the whole vectors of a key, lane by lane.
template <class Stored>
inline Floats dot(const float* query, const Stored* key, int64_t width) {
    Floats sums = zero();
    for (int64_t i = 0; i + kLanes <= width; i += kLanes) sums = multiply_add(load(key + i), load(query + i), sums);
    return sums;
}

// scores[t] = query . keys[t]
template <class Stored>
inline void score(const Stored* keys, const float* query, int64_t tokens, int64_t width, float* scores) {
    constexpr int64_t kAhead = 4096;  // bytes, the next page: four keys at a time are too irregular to be foreseen
    std::fill_n(scores, tokens, 0.0f);
    int64_t t = 0;
    for (; t + 4 <= tokens; t += 4) {
        const Stored* key = keys + t * width;
        for (int64_t i = 0; i < 4 * width; i += 64 / sizeof(Stored))
            __builtin_prefetch(reinterpret_cast<const char*>(key + i) + kAhead, 0, 2);
        add_totals(dot(query, key, width), dot(query, key + width, width), dot(query, key + 2 * width, width),
                   dot(query, key + 3 * width, width), scores + t);
    }
    for (; t < tokens; t++) scores[t] = total(dot(query, keys + t * width, width));
    for (int64_t i = width / kLanes * kLanes; i < width; i++)
        for (t = 0; t < tokens; t++) scores[t] += query[i] * number(keys[t * width + i]);
}

// context[i] = sum of weights[t] * values[t][i], of kVectors vectors of a row.
template <int kVectors, class Stored>
inline void sum_vectors(const float* weights, const Stored* values, int64_t tokens, int64_t width, float* context) {
    Floats sums[kVectors];
    for (int k = 0; k < kVectors; k++) sums[k] = zero();
    for (int64_t t = 0; t < tokens; t++) {
        const Floats weight = broadcast(weights[t]);
        for (int k = 0; k < kVectors; k++)
            sums[k] = multiply_add(load(values + t * width + k * kLanes), weight, sums[k]);
    }
    for (int k = 0; k < kVectors; k++) store(context + k * kLanes, sums[k]);
}

// The same of whole rows; heads of 128 columns, as both models have, are read in the order in which they lie in memory.
template <class Stored>
inline void sum_values(const float* weights, const Stored* values, int64_t tokens, int64_t width, float* context) {
    constexpr int kHead = 128;
    int64_t i = 0;
    for (; i + kHead <= width; i += kHead)
        sum_vectors<kHead / kLanes>(weights, values + i, tokens, width, context + i);
    for (; i + kLanes <= width; i += kLanes) sum_vectors<1>(weights, values + i, tokens, width, context + i);
    for (; i < width; i++) {
        context[i] = 0;
        for (int64_t t = 0; t < tokens; t++) context[i] += weights[t] * number(values[t * width + i]);
    }
}

// Scores to probabilities; of a token that sees nothing, padding, all are 0, as torch has it.
inline void softmax(float* scores, int64_t count) {
    const float highest = reduce(scores, count, scores[0], itself, larger_of);
    if (highest == -INFINITY) {
        std::fill_n(scores, count, 0.0f);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        const float below = scores[i] - highest;
        scores[i] = below < -87 ? 0 : exponential(below);  // what is masked counts for nothing at all
    }
    const float sum = reduce(scores, count, 0, itself, sum_of);
    for (int64_t i = 0; i < count; i++) scores[i] /= sum;
}

// The attention of one head to `tokens` rows of keys and values. scores: [tokens]; context: [width].
template <class Stored>
inline void attend_to(const Stored* keys, const Stored* values, const uint8_t* visible, const float* query,
                      int64_t tokens, int64_t width, float* scores, float* context) {
    score(keys, query, tokens, width, scores);
    const float scaling = 1 / sqrtf(static_cast<float>(width));
    for (int64_t t = 0; t < tokens; t++) scores[t] = visible && !visible[t] ? -INFINITY : scaling * scores[t];
    softmax(scores, tokens);
    sum_values(scores, values, tokens, width, context);
}

inline int64_t scratch_of_a_head(const Heads& h, int64_t tokens) { return 2 * h.head_dim + tokens; }

// The new token of sequence number `row`. query_key_value: q, k and v of this head. scratch: see above, of cached + 1
// tokens. context: [head_dim].
inline void attend(const Heads& h, const Step& step, const KeysAndValues& cache, int64_t row, int64_t head,
                   const float* query_key_value, float* scratch, float* context) {
    const Sequence& sequence = step.sequences[row];
    const int64_t width = h.head_dim, tokens = sequence.cached + 1, first = head * cache.head_stride;
    const float *cos = step.cos + row * width, *sin = step.sin + row * width;
    float *query = scratch, *key = query + width, *scores = key + width;
    rotate(query_key_value, cos, sin, h, query);
    rotate(query_key_value + width, cos, sin, h, key);
    write_numbers(key, width, cache.keys, step.type, first + sequence.cached * width);
    write_numbers(query_key_value + 2 * width, width, cache.values, step.type, first + sequence.cached * width);

    auto attend_in = [&](auto stored) {
        using Stored = decltype(stored);
        attend_to(static_cast<const Stored*>(cache.keys) + first, static_cast<const Stored*>(cache.values) + first,
                  sequence.visible, query, tokens, width, scores, context);
    };
    if (step.type == kFloat32) attend_in(float());
    if (step.type == kFloat16) attend_in(Half());
    if (step.type == kBFloat16) attend_in(BFloat());
}

// Numbers that attend_all() works with: as many for each head of each sequence as the longest of them needs.
inline int64_t scratch_of(const Heads& h, const Step& step) {
    int64_t most = 0;
    for (int64_t row = 0; row < step.batch; row++) most = std::max(most, step.sequences[row].cached + 1);
    return step.batch * h.heads * scratch_of_a_head(h, most);
}

// The attention of one layer. caches: [batch]. query_key_value: [batch, heads, 3 * head_dim]; scratch: see above;
// context: [batch, heads, head_dim].
inline void attend_all(const Heads& h, const Step& step, const KeysAndValues* caches, const float* query_key_value,
                       std::vector<float>& scratch, Team& team, float* context) {
    const int64_t tasks = step.batch * h.heads, each = static_cast<int64_t>(scratch.size()) / tasks;
    team.run(tasks, [&](int64_t task) {
        const int64_t row = task / h.heads;
        attend(h, step, caches[row], row, task % h.heads, query_key_value + task * 3 * h.head_dim,
               &scratch[task * each], context + task * h.head_dim);
    });
}
