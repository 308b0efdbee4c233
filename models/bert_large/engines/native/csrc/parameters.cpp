#include "parameters.h"

#include <cmath>

#include "parallel.h"

namespace bert_large {
namespace {

typedef double Doubles __attribute__((vector_size(kLanes * 8)));

constexpr int64_t kPiece = 1 << 16;  // elements that a thread takes at a time; fixed, so that sums are

struct Piece {
  size_t array;
  int64_t begin, end;
};

std::vector<Piece> cut_into_pieces(const std::vector<int64_t>& counts) {
  std::vector<Piece> pieces;
  for (size_t array = 0; array < counts.size(); ++array) {
    for (int64_t begin = 0; begin < counts[array]; begin += kPiece) {
      pieces.push_back({array, begin, std::min(begin + kPiece, counts[array])});
    }
  }
  return pieces;
}

class SquareSum {
 public:
  void add(Floats values) {
    Doubles wide = __builtin_convertvector(values, Doubles);
    lanes_ += wide * wide;
  }
  double total() const {
    double total = 0;
    for (int lane = 0; lane < kLanes; ++lane) total += lanes_[lane];
    return total;
  }

 private:
  Doubles lanes_{};
};

Floats update_of(const LambSettings& settings, float decay, Floats weight, Floats mean, Floats mean_square) {
  Floats denominator = square_root(mean_square * settings.square_correction) + settings.epsilon;
  return mean * settings.mean_correction / denominator + decay * weight;
}

struct Norms {
  double weight = 0, update = 0;  // squared
};

// LAMB's first pass.
Norms update_moments(const LambSettings& settings, float decay, const LambArrays& arrays, const Piece& piece) {
  SquareSum weights, updates;
  for (int64_t i = piece.begin; i < piece.end; i += kLanes) {
    int64_t left = piece.end - i;
    Floats gradient = load_up_to(arrays.gradient + i, left) * settings.gradient_scale;
    Floats mean = load_up_to(arrays.mean + i, left) * settings.beta_1 + gradient * settings.new_1;
    Floats mean_square =
        load_up_to(arrays.mean_square + i, left) * settings.beta_2 + gradient * gradient * settings.new_2;
    store_up_to(arrays.mean + i, mean, left);
    store_up_to(arrays.mean_square + i, mean_square, left);
    if (!settings.adapt) continue;
    Floats weight = load_up_to(arrays.weight + i, left);
    weights.add(weight);
    updates.add(first_lanes(update_of(settings, decay, weight, mean, mean_square), left, 0.0f));
  }
  return {weights.total(), updates.total()};
}

// LAMB's second pass.
void update_weights(const LambSettings& settings, float decay, float rate, const LambArrays& arrays,
                    const Piece& piece) {
  for (int64_t i = piece.begin; i < piece.end; i += kLanes) {
    int64_t left = piece.end - i;
    Floats weight = load_up_to(arrays.weight + i, left);
    Floats mean = load_up_to(arrays.mean + i, left), mean_square = load_up_to(arrays.mean_square + i, left);
    store_up_to(arrays.weight + i, weight - rate * update_of(settings, decay, weight, mean, mean_square), left);
  }
}

double trust_ratio(const Norms& squares) {
  return squares.weight > 0 && squares.update > 0 ? std::sqrt(squares.weight / squares.update) : 1.0;
}

}  // namespace

void lamb_step(int threads, const std::vector<LambArrays>& parameters, const LambSettings& settings) {
  std::vector<int64_t> counts;
  for (const LambArrays& arrays : parameters) counts.push_back(arrays.count);
  std::vector<Piece> pieces = cut_into_pieces(counts);
  const float decay = settings.adapt ? settings.weight_decay : 0.0f;

  std::vector<Norms> piece_norms(pieces.size());
  parallel_tasks(threads, pieces.size(), [&](int64_t i) {
    piece_norms[i] = update_moments(settings, decay, parameters[pieces[i].array], pieces[i]);
  });
  std::vector<Norms> norms(parameters.size());
  for (size_t i = 0; i < pieces.size(); ++i) {
    norms[pieces[i].array].weight += piece_norms[i].weight;
    norms[pieces[i].array].update += piece_norms[i].update;
  }
  std::vector<float> rates;
  for (const Norms& squares : norms) rates.push_back(settings.rate * (settings.adapt ? trust_ratio(squares) : 1.0));
  parallel_tasks(threads, pieces.size(), [&](int64_t i) {
    update_weights(settings, decay, rates[pieces[i].array], parameters[pieces[i].array], pieces[i]);
  });
}

double squared_norm(int threads, const std::vector<const float*>& arrays, const std::vector<int64_t>& counts) {
  std::vector<Piece> pieces = cut_into_pieces(counts);
  std::vector<double> sums(pieces.size());
  parallel_tasks(threads, pieces.size(), [&](int64_t i) {
    SquareSum squares;
    for (int64_t at = pieces[i].begin; at < pieces[i].end; at += kLanes) {
      squares.add(load_up_to(arrays[pieces[i].array] + at, pieces[i].end - at));
    }
    sums[i] = squares.total();
  });
  double total = 0;
  for (double part : sums) total += part;
  return total;
}

}  // namespace bert_large
