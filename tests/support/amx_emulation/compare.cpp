// Prints the worst relative error of attention with products of pairs (on emulated tiles or on vectors) against that
// with products of floats, which computes the same from the same bfloat16 inputs: for context, log_sums, qkv_gradient
// and bias_gradient.
#include <cstdio>
#include <random>

#include "attention.h"
#include "vector.h"

using namespace bert_large;

struct Results {
  std::vector<float> context, log_sums, qkv_gradient, bias_gradient;
};

std::vector<float> widen(const std::vector<BFloat16>& values) {
  std::vector<float> result;
  for (BFloat16 value : values) {
    const uint32_t bits = (uint32_t)value.bits << 16;
    result.emplace_back();
    std::memcpy(&result.back(), &bits, sizeof bits);
  }
  return result;
}

template <typename Forward, typename Backward>
Results run(const AttentionShape& shape, const Dropout& dropout, const Forward& forward, const Backward& backward) {
  const int64_t tokens = shape.tokens(), width = shape.width();
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  auto draw = [&](int64_t count) {
    std::vector<BFloat16> values(count);
    for (BFloat16& value : values) {
      const float drawn = normal(generator);
      std::memcpy(&value.bits, (const char*)&drawn + 2, 2);
    }
    return values;
  };
  std::vector<BFloat16> qkv = draw(tokens * 3 * width);
  const std::vector<BFloat16> context_gradient = draw(tokens * width);
  const std::vector<float> bias = widen(draw(3 * width));
  std::vector<BFloat16> context(tokens * width);
  std::vector<float> log_sums(shape.heads * tokens), bias_gradient(3 * width, 1.0f);
  forward(2, shape, dropout, AttentionForward<BFloat16>{qkv.data(), bias.data(), context.data(), log_sums.data()});
  backward(2, shape, dropout,
           AttentionBackward<BFloat16>{qkv.data(), bias.data(), context.data(), log_sums.data(),
                                       context_gradient.data(), bias_gradient.data()});
  return {widen(context), log_sums, widen(qkv), bias_gradient};  // overwritten with its gradient
}

// The norm of the difference over the norm of what is expected; 1 where a value is not finite.
double error(const std::vector<float>& found, const std::vector<float>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    difference += std::pow((double)found[i] - expected[i], 2);
    norm += std::pow((double)expected[i], 2);
  }
  return std::isfinite(difference) ? std::sqrt(difference / norm) : 1.0;
}

int main() {
  double worst[4] = {};
  for (bool active : {false, true}) {
    for (auto [heads, head_size] : {std::pair<int64_t, int64_t>{1, 1}, {3, 24}, {1, 80}}) {
      for (std::vector<int32_t> ends : {std::vector<int32_t>{0, 1}, {0, 33, 33, 35, 105}, {0, 64, 193}}) {
        const std::vector<int64_t> samples(ends.size() - 1, int64_t{5} << 33);
        // With dropout, the last third of a sequence is not attended to; but not for a head of one column, whose bias
        // gradients are sums that cancel.
        std::vector<int32_t> keys;
        for (size_t i = 1; i < ends.size(); ++i) keys.push_back((2 * (ends[i] - ends[i - 1]) + 2) / 3);
        const AttentionShape shape{(int64_t)samples.size(), heads, head_size, ends.data(), samples.data(),
                                   active && head_size > 1 ? keys.data() : nullptr};
        const Dropout dropout{active, 0x12345678u, -859045376, 1 / 0.7f};
        const Results found = run(shape, dropout, attention_forward_pairs, attention_backward_pairs);
        const Results expected = run(shape, dropout, attention_forward<BFloat16>, attention_backward<BFloat16>);
        worst[0] = std::max(worst[0], error(found.context, expected.context));
        worst[1] = std::max(worst[1], error(found.log_sums, expected.log_sums));
        worst[2] = std::max(worst[2], error(found.qkv_gradient, expected.qkv_gradient));
        worst[3] = std::max(worst[3], error(found.bias_gradient, expected.bias_gradient));
      }
    }
  }
  std::printf("%g %g %g %g\n", worst[0], worst[1], worst[2], worst[3]);
}
