// Compares the kernels with a product in double, without Python: for sanitizers, and for CPUs that only an emulator has.
// So is the attention of a new token; a decoding step is run, too. Includes csrc/kernels.cpp. Prints the largest errors;
// exits with 1 if one is over its bound.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <random>
#include <vector>

#include "kernels.cpp"

static std::mt19937 generator(7);

static double integer(const std::vector<int8_t>& packed, int64_t row_bytes, int64_t row, int64_t column, int bits) {
    if (bits == 8) return packed[row * row_bytes + column];
    int byte = packed[row * row_bytes + column / 2];
    return column % 2 ? (byte & 15) - 2 * (byte & 8) : byte >> 4;
}

// The largest error in units of the size that a sum of such terms has: what cancels counts too.
static double error_of(int64_t rows, int64_t columns, int64_t outputs, int bits, bool quantize) {
    std::normal_distribution<float> normal;
    std::uniform_int_distribution<int> byte(-128, 127);
    // Exactly as large as they are, so that a sanitizer sees a read past the end.
    std::vector<float> x(rows * columns), scale(outputs), bias(outputs), out(rows * outputs);
    std::vector<int8_t> weight(outputs * columns * bits / 8);
    for (float& v : x) v = normal(generator);
    for (float& v : scale) v = 0.5f + fabsf(normal(generator));
    for (float& v : bias) v = normal(generator);
    for (int8_t& v : weight) v = static_cast<int8_t>(byte(generator));
    if (glm_matmul(x.data(), 0, rows, columns, weight.data(), scale.data(), 0, outputs, bits, bias.data(), out.data(),
                   quantize, 1))
        return INFINITY;
    double worst = 0, largest = 0;
    for (int64_t n = 0; n < rows; n++)
        for (int64_t r = 0; r < outputs; r++) {
            double sum = 0, squares = 0;
            for (int64_t k = 0; k < columns; k++) {
                double term = x[n * columns + k] * integer(weight, columns * bits / 8, r, k, bits);
                sum += term;
                squares += term * term;
            }
            double error = fabs(out[n * outputs + r] - (sum * scale[r] + bias[r]));
            worst = !(error <= worst) ? error : worst;  // NaN counts
            largest = fmax(largest, sqrt(squares) * scale[r]);
        }
    return worst / largest;
}

// The largest error of a head's context beside attention in double over what the cache holds then: of the second of two
// sequences and the second of two heads. Every third token is hidden.
static double attention_error(int64_t head_dim, int64_t cached, Type type) {
    const int64_t tokens = cached + 1, count = tokens * head_dim, stride = count + 8;
    std::normal_distribution<float> normal;
    auto floats = [&](int64_t size) {
        std::vector<float> made(size);
        for (float& v : made) v = normal(generator);
        return made;
    };
    // Nothing behind the last head's new token.
    const int64_t numbers = stride + count;
    std::vector<uint8_t> keys(numbers * type_size(type)), values(numbers * type_size(type)), visible(tokens);
    write_numbers(floats(numbers).data(), numbers, keys.data(), type, 0);
    write_numbers(floats(numbers).data(), numbers, values.data(), type, 0);
    for (int64_t t = 0; t < tokens; t++) visible[t] = t % 3 != 1 || t == cached;
    const std::vector<float> fused = floats(3 * head_dim), cosines = floats(2 * head_dim), sines = floats(2 * head_dim);
    const float *cos = &cosines[head_dim], *sin = &sines[head_dim];
    const Heads heads{2, head_dim, 2};
    const KeysAndValues cache{keys.data(), values.data(), stride};
    const Sequence sequences[] = {{1000, nullptr}, {cached, visible.data()}};
    const Step step{2, cosines.data(), sines.data(), sequences, nullptr, type};
    std::vector<float> scratch(scratch_of_a_head(heads, tokens)), context(head_dim), query(head_dim);
    attend(heads, step, cache, 1, 1, fused.data(), scratch.data(), context.data());

    rotate(fused.data(), cos, sin, heads, query.data());
    std::vector<float> key(count), value(count);
    read_numbers(keys.data(), type, stride, count, key.data());
    read_numbers(values.data(), type, stride, count, value.data());
    std::vector<double> weights(tokens), expected(head_dim);
    double sum = 0, worst = 0;
    for (int64_t t = 0; t < tokens; t++) {
        double score = 0;
        for (int64_t i = 0; i < head_dim; i++) score += double(query[i]) * key[t * head_dim + i];
        sum += weights[t] = visible[t] ? exp(score / sqrt(double(head_dim))) : 0;
    }
    for (int64_t i = 0; i < head_dim; i++) {
        for (int64_t t = 0; t < tokens; t++) expected[i] += weights[t] / sum * value[t * head_dim + i];
        const double error = fabs(context[i] - expected[i]);
        worst = !(error <= worst) ? error : worst;
    }
    return worst;
}

// Two layers of drawn numbers, sequences of different lengths in caches of their own, just as large as they must be;
// whether the states come out finite and new.
static bool decodes(int64_t batch, int64_t cached, int64_t head_dim, bool gated, bool quantize, Type type) {
    const int64_t heads = 3, hidden = heads * head_dim, inner = 38, layers = 2;
    std::normal_distribution<float> normal;
    auto floats = [&](int64_t count) {
        std::vector<float> made(count);
        for (float& v : made) v = normal(generator);
        return made;
    };
    std::vector<std::vector<float>> kept;
    std::vector<std::vector<uint8_t>> packed;
    auto keep = [&](int64_t count) { return kept.emplace_back(floats(count)).data(); };
    auto linear = [&](int64_t outputs, int64_t columns) {
        auto& weight = packed.emplace_back(outputs * columns / 2);
        for (uint8_t& v : weight) v = static_cast<uint8_t>(generator());
        float* bias = keep(outputs);
        float* scale = keep(outputs);
        return Linear{weight.data(), scale, bias, outputs, columns, kFloat32, 4};
    };
    std::vector<Layer> described;
    for (int64_t n = 0; n < layers; n++) {
        const Norm input{keep(hidden), keep(hidden)}, output{keep(hidden), keep(hidden)};
        described.push_back({input, output, linear(3 * hidden, hidden), linear(hidden, hidden),
                             linear(gated ? 2 * inner : inner, hidden), linear(hidden, inner)});
    }
    std::vector<Sequence> sequences;
    std::vector<std::vector<uint8_t>> stored;
    for (int64_t row = 0; row < batch; row++) {
        const int64_t length = cached + 3 * (row % 4);
        const uint8_t* visible = nullptr;
        if (row % 2) {
            auto& mask = stored.emplace_back(length + 1, 1);
            mask[0] = 0;
            visible = mask.data();
        }
        sequences.push_back({length, visible});
    }
    std::vector<KeysAndValues> caches;
    for (int64_t n = 0; n < layers * batch; n++) {
        const int64_t stride = (sequences[n % batch].cached + 1) * head_dim;
        for (int i = 0; i < 2; i++) stored.emplace_back(heads * stride * type_size(type));
        caches.push_back({stored[stored.size() - 2].data(), stored.back().data(), stride});
    }
    const std::vector<float> cos = floats(batch * head_dim), sin = floats(batch * head_dim);
    const Decoder decoder{described.data(), layers, hidden, {heads, head_dim, 2}, 2.5f, 1e-5f, gated, quantize};
    const Step step{batch, cos.data(), sin.data(), sequences.data(), caches.data(), type};
    std::vector<float> states = floats(batch * hidden);
    const std::vector<float> before = states;
    if (glm_decode(&decoder, &step, states.data(), 1)) return false;
    for (float v : states)
        if (!isfinite(v)) return false;
    return states != before;
}

int main() {
    const int64_t shapes[][3] = {{1, 256, 64}, {2, 2, 1},    {3, 90, 7},    {4, 1000, 33},  {8, 514, 32}, {9, 258, 65},
                                 {1, 14, 37},  {11, 62, 1}, {100, 770, 9}, {98, 1030, 34}, {5, 512, 35}};
    double worst[2] = {0, 0};
    for (const auto& shape : shapes)
        for (int bits : {4, 8})
            for (bool quantize : {false, true}) {
                double error = error_of(shape[0], shape[1], shape[2], bits, quantize);
                worst[quantize] = !(error <= worst[quantize]) ? error : worst[quantize];
            }
    double attention = 0;
    for (int64_t head_dim : {4, 20, 64, 128, 140, 288})
        for (int64_t cached : {0, 2, 6, 33, 70})
            for (Type type : {kFloat32, kFloat16, kBFloat16}) {
                const double error = attention_error(head_dim, cached, type);
                attention = !(error <= attention) ? error : attention;
            }
    printf("%s: exact %.1e, fast %.1e, attention %.1e\n", glm_instructions(), worst[0], worst[1], attention);
    for (int64_t head_dim : {4, 20, 64})
        for (bool other : {false, true})
            for (Type type : {kFloat32, kFloat16, kBFloat16})
                if (!decodes(head_dim / 4, 1 + head_dim, head_dim, other, !other, type)) return 2;
    return worst[0] <= 3e-6 && worst[1] <= 0.02 && attention <= 1e-5 ? 0 : 1;
}
