#include "products.h"

#include <unistd.h>

#include <optional>

#include "memory.h"
#include "product_pack.h"
#include "scratch.h"

namespace bert_large {
namespace {

// Of the left part that stays in the second-level cache: 512 KiB, or up to 1 MiB where half of the cache is as large.
constexpr int64_t kRowPanels = 8, kMostRowPanels = 16;
static_assert(kMostRowPanels * Ahead::kShare <= kStep * (int64_t)sizeof(BFloat16), "shares of a panel exceed it");
// Of a weight that is transposed at once: BERT-large's layers have as many outputs at most, its vocabulary 61 MiB.
constexpr int64_t kTransposedSteps = 128;
constexpr double kWait = 2;  // some microseconds for all threads to finish packing, in blocks of AMX products

// Panels of a left part that half of the second-level cache holds; the other half is for right panels and results.
int64_t cached_row_panels() {
  static const int64_t panels = sysconf(_SC_LEVEL2_CACHE_SIZE) / 2 / (kMostSteps * kStep * (int64_t)sizeof(BFloat16));
  return std::clamp(panels, kRowPanels, kMostRowPanels);
}

// A matrix [rows, columns] in blocks, of which the last ones need not be whole.
template <typename T>
struct BlockedMatrix {
  T* to;
  int64_t rows, columns;

  // Calls work(r, c, at, count) for the rows of a block and vectors of columns: the sums from r * kBlock + c on belong
  // to the elements from to[at] on. There may be fewer than kLanes in a block that is not whole.
  template <typename Work>
  void for_vectors(int64_t row_block, int64_t column_block, const Work& work) const {
    const int64_t row = row_block * kBlock, column = column_block * kBlock;
    const int64_t height = std::min(kBlock, rows - row), width = std::min(kBlock, columns - column);
    for (int64_t r = 0; r < height; ++r) {
      const int64_t at = (row + r) * columns + column;
      if (width == kBlock) {
        for (int64_t c = 0; c < kBlock; c += kLanes) work(r, c, at + c, kLanes);
      } else {
        for (int64_t c = 0; c < width; c += kLanes) work(r, c, at + c, width - c);
      }
    }
  }

  const T* place(int64_t row, int64_t column_block) const { return to + row * columns + column_block * kBlock; }
};

// Takes sums to their place in a matrix: put(at, column, count, sums) is called for `count` sums of a row.
template <typename T, typename Put>
struct Result : BlockedMatrix<T> {
  Put put;

  void operator()(int64_t row_block, int64_t column_block, const float* sums) const {
    this->for_vectors(row_block, column_block, [&](int64_t r, int64_t c, int64_t at, int64_t count) {
      put(at, column_block * kBlock + c, count, load(sums + r * kBlock + c));
    });
  }
};
template <typename T, typename Put>
Result(BlockedMatrix<T>, Put) -> Result<T, Put>;

// Multiplies sums by GELU's derivative, and writes the column sums of each block to block_sums [blocks][32].
struct GeluGradientResult : BlockedMatrix<BFloat16> {
  const BFloat16* derivative;
  float* block_sums;

  void operator()(int64_t row_block, int64_t column_block, const float* sums) const {
    Floats totals[kBlock / kLanes] = {};
    for_vectors(row_block, column_block, [&](int64_t r, int64_t c, int64_t at, int64_t count) {
      const Floats value = load(sums + r * kBlock + c) * load_up_to(derivative + at, count);
      store_up_to(to + at, value, count);
      totals[c / kLanes] += value;
    });
    float* target = block_sums + (row_block * count_blocks(columns) + column_block) * kBlock;
    for (int64_t c = 0; c < kBlock; c += kLanes) store(target + c, totals[c / kLanes]);
  }
};

// A product of a left factor that is still to be packed and a packed right factor.
template <typename Left, typename Sink>
class Product {
 public:
  Product(const ProductUnit& unit, const ProductSizes& sizes, const Left& left, const BFloat16* right,
          const Sink& sink)
      : unit_(unit),
        rows_(count_blocks(sizes.rows)),
        columns_(count_blocks(sizes.columns)),
        steps_(count_blocks(sizes.depth)),
        left_(left),
        right_(right),
        sink_(sink) {}

  void run(int threads) {
    if (rows_ == 0) return;
    const Split split = split_product(threads, rows_, columns_, unit_.packing);
    std::optional<SharedArray<BFloat16>> shared;
    if (split.shares_left) {
      shared_ = shared.emplace(rows_ * steps_ * kStep);
      pack_together(threads, left_, rows_, steps_, shared_);
    }
    // All threads, also those without a part: OpenMP would end the others, and start them again for the next kernel.
    parallel_parts(threads, threads, [&](int, int64_t begin, int64_t end) {
      unit_.start();
      for (int64_t part = begin; part < std::min(end, split.parts()); ++part) {
        multiply_rectangle(split.rectangle(part));
      }
      unit_.finish();
    });
  }

 private:
  // Panels of the left factor, `stride` elements apart.
  struct Panels {
    const BFloat16* data;
    int64_t stride;
  };

  void multiply_rectangle(const Rectangle& rectangle) const {
    const int64_t depth_parts = divide_up(steps_, kMostSteps);
    // Sums that are kept from part to part need the other half of the cache.
    const int64_t height = depth_parts > 1 ? kRowPanels : cached_row_panels();
    const int64_t row_parts = divide_up(rectangle.rows.count(), height);
    Scratch& scratch = thread_scratch();
    scratch.start();
    BFloat16* packed = scratch.take<BFloat16>(height * kMostSteps * kStep);
    const int64_t stride = depth_parts > 1 ? height * kStep : 0;  // from the sums of a right panel to those of the next
    float* sums = scratch.take(std::max(rectangle.columns.count() * stride, height * kStep));
    for (int64_t part = 0; part < row_parts; ++part) {
      const Range panels = rectangle.rows.part(part, row_parts);
      for (int64_t depth = 0; depth < depth_parts; ++depth) {
        const Range steps = Range{0, steps_}.part(depth, depth_parts);
        multiply_strip(panels, rectangle.columns, steps, pack_left(panels, steps, packed), sums, stride);
      }
    }
  }

  Panels pack_left(Range panels, Range steps, BFloat16* packed) const {
    if (shared_) return {shared_ + (panels.begin * steps_ + steps.begin) * kStep, steps_ * kStep};
    left_.pack(panels, steps, packed, steps.count() * kStep);
    return {packed, steps.count() * kStep};
  }

  // Some left panels times all right panels of the thread, over a part of the depth.
  void multiply_strip(Range panels, Range columns, Range steps, Panels left, float* sums, int64_t stride) const {
    const int64_t chunks = divide_up(steps.count(), unit_.cached_steps);
    for (int64_t column = columns.begin; column < columns.end; ++column, sums += stride) {
      const BFloat16* right = right_ + column * steps_ * kStep;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const Range own = steps.part(chunk, chunks);
        const int64_t done = own.begin - steps.begin;
        // Each block that is computed from steps of a right panel prefetches its share of the next, and at the end of
        // the depth a row per step of where the result goes.
        const bool ends = chunk + 1 == chunks;
        const BFloat16* next = ends ? right + (steps_ + steps.begin) * kStep : right + own.end * kStep;
        if (ends && column + 1 == columns.end) next = nullptr;
        const int64_t next_row = steps.end == steps_ ? done : kBlock;
        multiply_chunk(panels, column, own, {left.data + done * kStep, left.stride}, sums, next, next_row);
      }
    }
  }

  // Some left panels times some steps of a right panel.
  void multiply_chunk(Range panels, int64_t column, Range steps, Panels left, float* sums, const BFloat16* next,
                      int64_t next_row) const {
    const bool is_first = steps.begin == 0, is_last = steps.end == steps_;
    const BFloat16* right = right_ + (column * steps_ + steps.begin) * kStep;
    for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
      const int64_t number = panel - panels.begin;
      float* block = sums + (is_first && is_last ? 0 : number * kStep);
      Ahead ahead(block);
      if (next) ahead.set_right(reinterpret_cast<const char*>(next) + number * steps.count() * Ahead::kShare);
      if (next_row < kBlock) ahead.set_result(sink_.place(panel * kBlock + next_row, column), sink_.columns);
      unit_.multiply(steps.count(), left.data + number * left.stride, right, block, !is_first, ahead);
      if (is_last) sink_(panel, column, block);
    }
  }

  const ProductUnit& unit_;
  const int64_t rows_, columns_, steps_;  // blocks, and steps of the depth
  const Left left_;
  const BFloat16* const right_;
  const Sink sink_;
  BFloat16* shared_ = nullptr;  // the left factor, if all threads pack it together
};

// matrix [rows, columns] = left times right, or += where `add`.
template <typename T, typename Left>
void put_product(int threads, const ProductUnit& unit, const ProductSizes& sizes, const Left& left,
                 const BFloat16* right, T* matrix, bool add) {
  const BlockedMatrix<T> blocks{matrix, sizes.rows, sizes.columns};
  const auto put = [=](int64_t at, int64_t, int64_t count, Floats sums) { store_up_to(matrix + at, sums, count); };
  const auto put_sum = [=](int64_t at, int64_t, int64_t count, Floats sums) {
    store_up_to(matrix + at, load_up_to(matrix + at, count) + sums, count);
  };
  if (add) {
    Product(unit, sizes, left, right, Result{blocks, put_sum}).run(threads);
  } else {
    Product(unit, sizes, left, right, Result{blocks, put}).run(threads);
  }
}

template <Activation (*gelu)(Floats)>
auto put_gelu(const GeluResult& result) {
  return [=](int64_t at, int64_t column, int64_t count, Floats sums) {
    const Activation activation = gelu(sums + load_up_to(result.bias + column, count));
    store_up_to(result.activated + at, activation.value, count);
    store_up_to(result.derivative + at, activation.derivative, count);
  };
}

// rows [32][32] = a block of a weight [outputs, inputs], rounded; zeros beyond the weight.
void round_block(const float* weight, int64_t outputs, int64_t inputs, int64_t output_block, int64_t input_block,
                 BFloat16* rows) {
  const int64_t output = output_block * kBlock, input = input_block * kBlock;
  const int64_t height = std::min(kBlock, outputs - output), width = std::min(kBlock, inputs - input);
  if (height < kBlock || width < kBlock) std::memset(rows, 0, kStep * sizeof(BFloat16));
  for (int64_t r = 0; r < height; ++r) {
    for (int64_t c = 0; c < width; c += kLanes) {
      store_up_to(rows + r * kBlock + c, load_up_to(weight + (output + r) * inputs + input + c, width - c), width - c);
    }
  }
}

// Elements of a packed right factor.
int64_t count_packed(const ProductSizes& sizes) {
  return count_blocks(sizes.columns) * count_blocks(sizes.depth) * kStep;
}

// The right factor of dx from that of y. The sizes are those of dx = dy W.
void transpose_weight(int threads, const ProductSizes& sizes, const BFloat16* weight, BFloat16* to) {
  const int64_t panels = count_blocks(sizes.columns), steps = count_blocks(sizes.depth);
  parallel_parts(threads, panels * steps, [&](int, int64_t begin, int64_t end) {
    alignas(64) BFloat16 columns[kStep];
    for (int64_t block = begin; block < end; ++block) {
      const int64_t panel = block / steps, step = block % steps;
      transpose_words(weight + (step * panels + panel) * kStep, kBlock / 2, kBlock, columns);
      pack_pairs({columns, kBlock}, to + block * kStep);
    }
  });
}

}  // namespace

Rectangle Split::rectangle(int64_t part) const {
  return {Range{0, row_blocks}.part(part / column_parts, row_parts),
          Range{0, column_blocks}.part(part % column_parts, column_parts)};
}

Split split_product(int threads, int64_t row_blocks, int64_t column_blocks, double packing) {
  Split best{row_blocks, column_blocks, 1, 1, false};
  double least = row_blocks * (column_blocks + packing);
  for (int64_t row_parts = 1; row_parts <= std::min<int64_t>(threads, row_blocks); ++row_parts) {
    const int64_t column_parts = std::min(threads / row_parts, column_blocks);
    const int64_t height = divide_up(row_blocks, row_parts), width = divide_up(column_blocks, column_parts);
    for (bool shares_left : {false, true}) {
      const double packed = shares_left ? packing * row_blocks / threads + kWait : packing * height;
      const double work = height * width + packed;
      if (work < least) {
        least = work;
        best = {row_blocks, column_blocks, row_parts, column_parts, shares_left};
      }
    }
  }
  return best;
}

void pack_weight(int threads, int64_t first, int64_t outputs, int64_t inputs, const float* weight, BFloat16* panels) {
  const int64_t steps = count_blocks(inputs);
  parallel_parts(threads, count_blocks(outputs) * steps, [&](int, int64_t begin, int64_t end) {
    alignas(64) BFloat16 rows[kStep];
    for (int64_t block = begin; block < end; ++block) {
      round_block(weight, outputs, inputs, block / steps, block % steps, rows);
      transpose_words(rows, kBlock, kBlock / 2, panels + (first / kBlock * steps + block) * kStep);
    }
  });
}

void multiply_packed(int threads, const ProductUnit& unit, const ProductSizes& sizes, const BFloat16* x,
                     const BFloat16* weight, BFloat16* y) {
  put_product(threads, unit, sizes, LeftRows{{x, sizes.rows, sizes.depth, sizes.depth}}, weight, y, false);
}

void multiply_packed_gelu(int threads, const ProductUnit& unit, const ProductSizes& sizes, const BFloat16* x,
                          const BFloat16* weight, const GeluResult& result) {
  const LeftRows left{{x, sizes.rows, sizes.depth, sizes.depth}};
  const BlockedMatrix<BFloat16> matrix{result.derivative, sizes.rows, sizes.columns};
  if (result.form == GeluForm::kTanh) {
    Product(unit, sizes, left, weight, Result{matrix, put_gelu<gelu_tanh>(result)}).run(threads);
  } else {
    Product(unit, sizes, left, weight, Result{matrix, put_gelu<gelu_erf>(result)}).run(threads);
  }
}

void packed_input_gradient(int threads, const ProductUnit& unit, const ProductSizes& sizes, const BFloat16* dy,
                           const BFloat16* weight, BFloat16* dx, bool add) {
  const int64_t steps = count_blocks(sizes.depth), panels = count_blocks(sizes.columns);
  const int64_t parts = std::max<int64_t>(divide_up(steps, kTransposedSteps), 1);
  const SharedArray<BFloat16> right(panels * std::min(steps, kTransposedSteps) * kStep);
  const SharedArray<float> earlier(parts > 1 ? sizes.rows * sizes.columns : 0);  // sums of the parts before
  for (int64_t part = 0; part < parts; ++part) {
    const Range own = Range{0, steps}.part(part, parts);
    const int64_t first = own.begin * kBlock, depth = std::min(own.end * kBlock, sizes.depth) - first;
    const ProductSizes part_sizes{sizes.rows, sizes.columns, depth};
    const LeftRows left{{dy + first, sizes.rows, depth, sizes.depth}};
    transpose_weight(threads, part_sizes, weight + own.begin * panels * kStep, right);
    if (part + 1 < parts) {
      put_product<float>(threads, unit, part_sizes, left, right, earlier, part > 0);
      continue;
    }
    const float* const before = parts > 1 ? (float*)earlier : nullptr;
    const auto put = [=](int64_t at, int64_t, int64_t count, Floats sums) {
      if (before) sums += load_up_to(before + at, count);
      if (add) sums += load_up_to(dx + at, count);
      store_up_to(dx + at, sums, count);
    };
    const BlockedMatrix<BFloat16> matrix{dx, sizes.rows, sizes.columns};
    Product(unit, part_sizes, left, right, Result{matrix, put}).run(threads);
  }
}

void packed_input_gradient_gelu(int threads, const ProductUnit& unit, const ProductSizes& sizes, const BFloat16* dy,
                                const BFloat16* weight, const GeluGradient& result) {
  const int64_t row_blocks = count_blocks(sizes.rows), stride = count_blocks(sizes.columns) * kBlock;
  const SharedArray<BFloat16> right(count_packed(sizes));
  transpose_weight(threads, sizes, weight, right);
  const SharedArray<float> block_sums(row_blocks * stride);
  const GeluGradientResult sink{{result.gradient, sizes.rows, sizes.columns}, result.derivative, block_sums};
  Product(unit, sizes, LeftRows{{dy, sizes.rows, sizes.depth, sizes.depth}}, right, sink).run(threads);
  parallel_parts(threads, sizes.columns, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = 0; row < row_blocks; ++row) {
      const float* sums = block_sums + row * stride;
      for (int64_t column = begin; column < end; ++column) result.bias_gradient[column] += sums[column];
    }
  });
}

void packed_weight_gradient(int threads, const ProductUnit& unit, const ProductSizes& sizes,
                            const BFloat16* out_gradient, const BFloat16* inputs, float* gradient, bool add) {
  const int64_t panels = count_blocks(sizes.columns), steps = count_blocks(sizes.depth);
  if (steps == 0 && !add) std::fill_n(gradient, sizes.rows * sizes.columns, 0.0f);
  if (steps == 0) return;
  const SharedArray<BFloat16> right(count_packed(sizes));
  pack_together(threads, RightRows{{inputs, sizes.depth, sizes.columns, sizes.columns}}, panels, steps, right);
  const LeftColumns left{{out_gradient, sizes.depth, sizes.rows, sizes.rows}};
  put_product(threads, unit, sizes, left, right, gradient, add);
}

}  // namespace bert_large
