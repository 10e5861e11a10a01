// A decoding step: one new token of each sequence through all layers, as model/layers.py says it in torch.
//
// At 50 GB/s a layer's INT4 weights are read in two milliseconds. Half a millisecond of small torch operations between
// the products, whose code and data the weights have driven from every cache, would be a fifth of the whole.
#pragma once
#include <math.h>

#include "attention.h"
#include "product.h"

struct Linear {
    const uint8_t* weight;  // packed
    const void* scale;
    const float* bias;
    int64_t outputs, columns;
    int scale_type, bits;
};

struct Norm {
    const float *weight, *bias;
};

struct Layer {
    Norm input_norm, output_norm;
    Linear query_key_value, dense, up, down;
};

struct Decoder {
    const Layer* layers;
    int64_t count, hidden;
    Heads heads;
    float alpha, epsilon;  // of the residual, of the norms
    int gated, quantize;   // the MLP, activations to 8 bits
};

inline void apply(const Linear& l, const float* x, int64_t rows, bool quantize, Team& team, float* out) {
    multiply(Product{x, kFloat32, rows, l.columns, l.weight, l.scale, static_cast<Type>(l.scale_type), l.outputs,
                     l.bits, l.bias, out},
             quantize, team);
}

// LayerNorm of a row.
inline void normalize(const float* x, const Norm& norm, float epsilon, int64_t count, float* out) {
    auto mean_of = [&](auto value) { return reduce(x, count, 0, value, sum_of) / count; };
    const float mean = mean_of(itself);
    const float variance = mean_of([mean](float v) { return (v - mean) * (v - mean); });
    const float factor = 1 / sqrtf(variance + epsilon);
    for (int64_t i = 0; i < count; i++) out[i] = (x[i] - mean) * factor * norm.weight[i] + norm.bias[i];
}

// The tanh approximation, as x times a logistic function: 0.5 (1 + tanh u) = 1 / (1 + exp(-2 u)).
inline float gelu_tanh(float x) {
    const float u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    return x / (1 + exponential(-2 * u));
}
inline float gelu(float x) { return 0.5f * x * (1 + erff(x * 0.7071067811865476f)); }

// [count] in place, or the first half of [2, count] times the GELU of the second.
inline void activate(float* x, bool gated, int64_t first, int64_t last, int64_t count) {
    if (gated)
        for (int64_t i = first; i < last; i++) x[i] *= gelu(x[count + i]);
    else
        for (int64_t i = first; i < last; i++) x[i] = gelu_tanh(x[i]);
}

// Made before the threads begin: what fails in one of them ends the program.
struct Workspace {
    std::vector<float> input, fused, scratch, context, inner;
    Workspace(const Decoder& d, const Step& step)
        : input(step.batch * d.hidden),
          fused(step.batch * d.layers->query_key_value.outputs),
          scratch(scratch_of(d.heads, step)),
          context(step.batch * d.layers->dense.columns),
          inner(step.batch * d.layers->up.outputs) {}
};

// caches: [batch], of this layer.
inline void attention_block(const Decoder& d, const Layer& layer, const KeysAndValues* caches, const Step& step,
                            Workspace& w, Team& team, float* out) {
    apply(layer.query_key_value, w.input.data(), step.batch, d.quantize, team, w.fused.data());
    attend_all(d.heads, step, caches, w.fused.data(), w.scratch, team, w.context.data());
    apply(layer.dense, w.context.data(), step.batch, d.quantize, team, out);
}

inline void mlp_block(const Decoder& d, const Layer& layer, const Step& step, Workspace& w, Team& team, float* out) {
    constexpr int64_t kPiece = 1024;
    const int64_t inner = layer.down.columns, width = layer.up.outputs, pieces = (inner + kPiece - 1) / kPiece;
    apply(layer.up, w.input.data(), step.batch, d.quantize, team, w.inner.data());
    team.run(step.batch * pieces, [&](int64_t task) {
        const int64_t first = task % pieces * kPiece;
        activate(&w.inner[task / pieces * width], d.gated, first, std::min(first + kPiece, inner), inner);
    });
    for (int64_t row = 1; d.gated && row < step.batch; row++)
        std::copy_n(&w.inner[row * width], inner, &w.inner[row * inner]);
    apply(layer.down, w.inner.data(), step.batch, d.quantize, team, out);
}

// DeepNorm: the residual is the normalised input, scaled by alpha. states: [batch, hidden].
inline void decode(const Decoder& d, const Step& step, float* states, Team& team) {
    Workspace w(d, step);
    auto norm_rows = [&](const Norm& norm) {
        team.run(step.batch, [&](int64_t row) {
            normalize(states + row * d.hidden, norm, d.epsilon, d.hidden, &w.input[row * d.hidden]);
        });
    };
    auto add_residual = [states, input = w.input.data(), alpha = d.alpha, count = step.batch * d.hidden] {
        for (int64_t i = 0; i < count; i++) states[i] += alpha * input[i];
    };
    for (int64_t n = 0; n < d.count; n++) {
        norm_rows(d.layers[n].input_norm);
        attention_block(d, d.layers[n], step.caches + n * step.batch, step, w, team, states);
        add_residual();
        norm_rows(d.layers[n].output_norm);
        mlp_block(d, d.layers[n], step, w, team, states);
        add_residual();
    }
}
