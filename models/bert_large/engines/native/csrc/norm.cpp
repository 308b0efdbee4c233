#include "norm.h"

#include <cmath>

#include "parallel.h"

namespace bert_large {
namespace {

struct Moments {
  float mean, rstd;
};

Moments row_moments(const float* row, int64_t columns, float eps) {
  Floats total{};
  for (int64_t c = 0; c < columns; c += kLanes) total += load_up_to(row + c, columns - c);
  float mean = sum(total) / columns;
  Floats squares{};
  for (int64_t c = 0; c < columns; c += kLanes) {
    Floats centered = first_lanes(load_up_to(row + c, columns - c) - mean, columns - c, 0.0f);
    squares += centered * centered;
  }
  return {mean, 1.0f / std::sqrt(sum(squares) / columns + eps)};
}

Floats normalized(Floats values, const Moments& moments) { return (values - moments.mean) * moments.rstd; }

// LayerNorm's backward pass for one row, given z (`z_at(column, left)` returns a vector of it) and dy: calls
// emit(column, left, dx) vector by vector, and adds to the sums of dw and db.
template <typename T, typename ZAt, typename Emit>
inline void norm_backward_row(const T* out_gradient, const ZAt& z_at, float rstd, const float* weight, int64_t columns,
                              float* weight_sums, float* bias_sums, const Emit& emit) {
  Floats total{}, projected{};
  for (int64_t c = 0; c < columns; c += kLanes) {
    const int64_t left = columns - c;
    Floats gradient = load_up_to(out_gradient + c, left);  // 0 beyond the row, so z may be anything finite there
    const Floats z = z_at(c, left);
    store_up_to(weight_sums + c, load_up_to(weight_sums + c, left) + gradient * z, left);
    store_up_to(bias_sums + c, load_up_to(bias_sums + c, left) + gradient, left);
    gradient *= load_up_to(weight + c, left);
    total += gradient;
    projected += gradient * z;
  }
  const float mean_gradient = sum(total) / columns, mean_projected = sum(projected) / columns;
  for (int64_t c = 0; c < columns; c += kLanes) {
    const int64_t left = columns - c;
    const Floats gradient = load_up_to(out_gradient + c, left) * load_up_to(weight + c, left);
    emit(c, left, (gradient - mean_gradient - z_at(c, left) * mean_projected) * rstd);
  }
}

void embedding_row(const EmbeddingTables& tables, int64_t token, int64_t columns, float* row) {
  const float* word = tables.words + tables.input_ids[token] * columns;
  const float* position = tables.positions + tables.position_ids[token] * columns;
  const float* type = tables.token_types + tables.token_type_ids[token] * columns;
  for (int64_t c = 0; c < columns; ++c) row[c] = word[c] + position[c] + type[c];
}

}  // namespace

template <typename T>
void residual_norm_forward(int threads, int64_t rows, int64_t columns, T* dense, const float* dense_bias,
                           const T* residual, const NormParameters& norm, const Dropout& dropout,
                           const TokenRows& tokens, T* out, float* rstds) {
  parallel_parts(threads, rows, [&](int, int64_t begin, int64_t end) {
    std::vector<float> row(columns);
    for (int64_t r = begin; r < end; ++r) {
      const uint32_t key = token_row_key(dropout, tokens, r);
      T* dense_row = dense + r * columns;
      for (int64_t c = 0; c < columns; c += kLanes) {
        const int64_t left = columns - c;
        Floats value = load_up_to(dense_row + c, left) + load_up_to(dense_bias + c, left);
        value = load_up_to(residual + r * columns + c, left) + drop(dropout, key, c, value);
        store_up_to(row.data() + c, value, left);
      }
      const Moments moments = row_moments(row.data(), columns, norm.eps);
      rstds[r] = moments.rstd;
      for (int64_t c = 0; c < columns; c += kLanes) {
        const int64_t left = columns - c;
        const Floats z = normalized(load_up_to(row.data() + c, left), moments);
        store_up_to(dense_row + c, z, left);
        stream_up_to(out + r * columns + c, z * load_up_to(norm.weight + c, left) + load_up_to(norm.bias + c, left),
                     left);
      }
    }
  });
}

template <typename T>
void residual_norm_backward(int threads, int64_t rows, int64_t columns, const T* out_gradient, T* normalized,
                            const float* rstds, const float* weight, const Dropout& dropout, const TokenRows& tokens,
                            T* dense_gradient, const NormGradients& gradients, float* dense_bias_gradient) {
  ColumnSums weight_sums(threads, columns), bias_sums(threads, columns), dense_bias_sums(threads, columns);
  parallel_parts(threads, rows, [&](int thread, int64_t begin, int64_t end) {
    float* dense_bias_sum = dense_bias_sums.of_thread(thread);
    for (int64_t r = begin; r < end; ++r) {
      const uint32_t key = token_row_key(dropout, tokens, r);
      const int64_t at = r * columns;
      norm_backward_row(
          out_gradient + at, [&](int64_t c, int64_t left) { return load_up_to(normalized + at + c, left); }, rstds[r],
          weight, columns, weight_sums.of_thread(thread), bias_sums.of_thread(thread),
          [&](int64_t c, int64_t left, Floats gradient) {
            store_up_to(normalized + at + c, gradient, left);
            gradient = drop(dropout, key, c, gradient);
            stream_up_to(dense_gradient + at + c, gradient, left);
            store_up_to(dense_bias_sum + c, load_up_to(dense_bias_sum + c, left) + gradient, left);
          });
    }
  });
  weight_sums.add_to(gradients.weight);
  bias_sums.add_to(gradients.bias);
  dense_bias_sums.add_to(dense_bias_gradient);
}

template <typename T>
void embed_norm_forward(int threads, int64_t rows, int64_t columns, const EmbeddingTables& tables,
                        const NormParameters& norm, const Dropout& dropout, const TokenRows& tokens, T* out,
                        float* means, float* rstds) {
  parallel_parts(threads, rows, [&](int, int64_t begin, int64_t end) {
    std::vector<float> row(columns);
    for (int64_t r = begin; r < end; ++r) {
      const uint32_t key = token_row_key(dropout, tokens, r);
      embedding_row(tables, r, columns, row.data());
      const Moments moments = row_moments(row.data(), columns, norm.eps);
      means[r] = moments.mean;
      rstds[r] = moments.rstd;
      for (int64_t c = 0; c < columns; c += kLanes) {
        int64_t left = columns - c;
        Floats value = normalized(load_up_to(row.data() + c, left), moments);
        value = value * load_up_to(norm.weight + c, left) + load_up_to(norm.bias + c, left);
        store_up_to(out + r * columns + c, drop(dropout, key, c, value), left);
      }
    }
  });
}

template <typename T>
void embed_norm_backward(int threads, int64_t rows, int64_t columns, const T* out_gradient,
                         const EmbeddingTables& tables, const float* means, const float* rstds, const float* weight,
                         const Dropout& dropout, const TokenRows& tokens, float* scratch,
                         const EmbeddingGradients& gradients) {
  ColumnSums weight_sums(threads, columns), bias_sums(threads, columns);
  parallel_parts(threads, rows, [&](int thread, int64_t begin, int64_t end) {
    std::vector<float> row(columns), dropped(columns);
    for (int64_t r = begin; r < end; ++r) {
      const uint32_t key = token_row_key(dropout, tokens, r);
      for (int64_t c = 0; c < columns; c += kLanes) {
        int64_t left = columns - c;
        Floats gradient = load_up_to(out_gradient + r * columns + c, left);
        store_up_to(dropped.data() + c, drop(dropout, key, c, gradient), left);
      }
      embedding_row(tables, r, columns, row.data());
      const Moments moments{means[r], rstds[r]};
      norm_backward_row(
          dropped.data(),
          [&](int64_t c, int64_t left) { return normalized(load_up_to(row.data() + c, left), moments); }, rstds[r],
          weight, columns, weight_sums.of_thread(thread), bias_sums.of_thread(thread),
          [&](int64_t c, int64_t left, Floats gradient) { store_up_to(scratch + r * columns + c, gradient, left); });
    }
  });
  weight_sums.add_to(gradients.norm.weight);
  bias_sums.add_to(gradients.norm.bias);
  // Threads share columns out, not rows: tokens that share a row of a table are added in their order, without locks.
  parallel_parts(threads, columns, [&](int, int64_t begin, int64_t end) {
    for (int64_t r = 0; r < rows; ++r) {
      const float* gradient = scratch + r * columns;
      float* word = gradients.words + tables.input_ids[r] * columns;
      float* position = gradients.positions + tables.position_ids[r] * columns;
      float* type = gradients.token_types + tables.token_type_ids[r] * columns;
      for (int64_t c = begin; c < end; ++c) {
        word[c] += gradient[c];
        position[c] += gradient[c];
        type[c] += gradient[c];
      }
    }
  });
}

// A macro, since an explicit instantiation must repeat the whole signature for each type.
#define INSTANTIATE(T)                                                                                               \
  template void residual_norm_forward(int, int64_t, int64_t, T*, const float*, const T*, const NormParameters&,      \
                                      const Dropout&, const TokenRows&, T*, float*);                                 \
  template void residual_norm_backward(int, int64_t, int64_t, const T*, T*, const float*, const float*,              \
                                       const Dropout&, const TokenRows&, T*, const NormGradients&, float*);          \
  template void embed_norm_forward(int, int64_t, int64_t, const EmbeddingTables&, const NormParameters&,             \
                                   const Dropout&, const TokenRows&, T*, float*, float*);                            \
  template void embed_norm_backward(int, int64_t, int64_t, const T*, const EmbeddingTables&, const float*,           \
                                    const float*, const float*, const Dropout&, const TokenRows&, float*,            \
                                    const EmbeddingGradients&);
INSTANTIATE(float)
INSTANTIATE(BFloat16)

}  // namespace bert_large
