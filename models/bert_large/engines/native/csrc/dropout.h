// Dropout by a counter-based hash: the mask of `bert_large.model.dropout`, element for element.
//
// Whether an element is kept is a function of its place: of (seed, step, layer, site), which Python has mixed into
// `Dropout::key`, and of (sample, row, column). So the backward pass computes the mask again from a few integer
// instructions per vector, where storing it would cost memory traffic, and the mask does not depend on threads,
// micro-batches or ranks. With probability p the forward and backward passes are
//   drop(x) = x / (1 - p) where kept, 0 elsewhere;  d x = drop(d drop(x)).
#pragma once

#include "vector.h"

namespace bert_large {

struct Dropout {
  bool active;
  uint32_t key;       // of the site in this step
  int32_t threshold;  // an element is kept if its hash, as a signed number, is at least this
  float scale;        // factor of kept elements: 1 / (1 - probability)
};

// The token of each row: sample number and position in its sequence.
struct TokenRows {
  const int64_t* samples;       // [sequences]
  const int64_t* sequence_ids;  // [rows]
  const int64_t* position_ids;  // [rows]
};

inline uint32_t sample_key(const Dropout& dropout, int64_t sample) {
  uint64_t bits = (uint64_t)sample;
  return hash32(hash32((uint32_t)bits ^ dropout.key) ^ (uint32_t)(bits >> 32));
}

inline uint32_t row_key(uint32_t sample_key, uint32_t row) { return hash32(sample_key + row); }

inline uint32_t token_row_key(const Dropout& dropout, const TokenRows& tokens, int64_t row) {
  if (!dropout.active) return 0;
  return row_key(sample_key(dropout, tokens.samples[tokens.sequence_ids[row]]), (uint32_t)tokens.position_ids[row]);
}

// A row of attention probabilities is (head, query position); positions are below 2^16.
inline uint32_t attention_row_key(uint32_t sample_key, int64_t head, int64_t query) {
  return row_key(sample_key, ((uint32_t)head << 16) + (uint32_t)query);
}

// Lanes of all ones where the row keeps the columns from `column` on.
inline Ints keep_lanes(const Dropout& dropout, uint32_t row_key, int64_t column) {
  // (column + lane) * golden + key, written so that the multiplication of vectors can be hoisted out of loops.
  const uint32_t golden = 0x9E3779B9u;
  return (Ints)hash32((Words)lane_numbers() * golden + (row_key + (uint32_t)column * golden)) >= dropout.threshold;
}

// `values` of the columns from `column` on after dropout.
inline Floats drop(const Dropout& dropout, uint32_t row_key, int64_t column, Floats values) {
  if (!dropout.active) return values;
  return keep_lanes(dropout, row_key, column) ? values * dropout.scale : Floats{};
}

}  // namespace bert_large
