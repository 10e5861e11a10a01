// Attention of one new token of each sequence over a cache of keys and values: rotary positions, the token's own key
// and value written behind the cached ones, scores, softmax, sum. One task is one head of one sequence.
#pragma once
#include <math.h>

#include <algorithm>

#include "numbers.h"
#include "simd.h"

// Keys and values of one layer, each [batch, heads, room, head_dim]; the first tokens of every room are cached.
struct Rooms {
    void *keys, *values;
    int64_t room;
};

struct Heads {
    int64_t heads, head_dim;
    int64_t position_rows;  // 1, or 2: each half of a head has positions of its own
};

// What is the same in every layer.
struct Step {
    int64_t batch, cached;   // sequences, tokens in front of the new one
    const float *cos, *sin;  // [batch, head_dim]
    const uint8_t* visible;  // [batch, cached + 1], or null where every sequence sees all its tokens
    const Rooms* rooms;      // of each layer
    Type type;               // in the rooms
};

inline float dot(const float* a, const float* b, int64_t count) {
    Floats sums[2] = {zero(), zero()};
    int64_t i = 0;
    for (; i + 2 * kLanes <= count; i += 2 * kLanes)
        for (int k = 0; k < 2; k++) sums[k] = multiply_add(load(a + i + k * kLanes), load(b + i + k * kLanes), sums[k]);
    float sum = total(sums[0]) + total(sums[1]);
    for (; i < count; i++) sum += a[i] * b[i];
    return sum;
}

// (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) over the two halves of each row of positions.
inline void rotate(const float* from, const float* cos, const float* sin, const Heads& h, float* to) {
    const int64_t width = h.head_dim / h.position_rows, half = width / 2;
    for (int64_t first = 0; first < h.head_dim; first += width)
        for (int64_t i = first; i < first + half; i++) {
            to[i] = from[i] * cos[i] - from[i + half] * sin[i];
            to[i + half] = from[i + half] * cos[i + half] + from[i] * sin[i + half];
        }
}

// Reads rows of a room as float32; those that are so already stay where they are.
struct RoomRows {
    const void* room;
    Type type;
    int64_t first, width;
    float* row;  // [width], for the others

    const float* operator[](int64_t token) const {
        const int64_t at = first + token * width;
        if (type == kFloat32) return static_cast<const float*>(room) + at;
        read_numbers(room, type, at, width, row);
        return row;
    }
};

// Scores to probabilities; at least one is finite, as a token sees itself.
inline void softmax(float* scores, int64_t count) {
    const float highest = *std::max_element(scores, scores + count);
    float sum = 0;
    for (int64_t i = 0; i < count; i++) sum += scores[i] = expf(scores[i] - highest);
    for (int64_t i = 0; i < count; i++) scores[i] /= sum;
}

inline int64_t scratch_of_a_head(const Heads& h, const Step& step) { return 3 * h.head_dim + step.cached + 1; }

// query_key_value: q, k and v of this head. scratch: see above. context: [head_dim].
inline void attend(const Heads& h, const Step& step, const Rooms& rooms, int64_t sequence, int64_t head,
                   const float* query_key_value, float* scratch, float* context) {
    const int64_t width = h.head_dim, tokens = step.cached + 1;
    const int64_t first = (sequence * h.heads + head) * rooms.room * width;
    const float *cos = step.cos + sequence * width, *sin = step.sin + sequence * width;
    float *query = scratch, *key = query + width, *row = key + width, *scores = row + width;
    rotate(query_key_value, cos, sin, h, query);
    rotate(query_key_value + width, cos, sin, h, key);
    write_numbers(key, width, rooms.keys, step.type, first + step.cached * width);
    write_numbers(query_key_value + 2 * width, width, rooms.values, step.type, first + step.cached * width);

    const uint8_t* visible = step.visible ? step.visible + sequence * tokens : nullptr;
    const float scaling = 1 / sqrtf(static_cast<float>(width));
    const RoomRows keys{rooms.keys, step.type, first, width, row};
    for (int64_t t = 0; t < tokens; t++)
        scores[t] = visible && !visible[t] ? -INFINITY : scaling * dot(query, keys[t], width);
    softmax(scores, tokens);
    const RoomRows values{rooms.values, step.type, first, width, row};
    std::fill_n(context, width, 0.0f);
    for (int64_t t = 0; t < tokens; t++) {
        const float* value = values[t];
        for (int64_t i = 0; i < width; i++) context[i] += scores[t] * value[i];
    }
}
