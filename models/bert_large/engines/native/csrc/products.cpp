#include "products.h"

#include "product_pack.h"
#include "scratch.h"

namespace bert_large {
namespace {

constexpr int64_t kDepthSteps = 32, kRowPanels = 8;  // of the left part that stays in the second-level cache: 512 KiB
constexpr double kWait = 2;  // some microseconds for all threads to finish packing, in blocks of AMX products

int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// Memory for factors that all threads pack together.
Scratch& shared_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

// A matrix [rows, columns] whose rows need not fill the last blocks.
template <typename T>
struct BlockedMatrix {
  T* to;
  int64_t rows, columns;

  // Calls work(r, c, at) for vectors of a block: sums r * kBlock + c and the following belong to the elements at to[at].
  template <typename Work>
  void for_vectors(int64_t row_block, int64_t column_block, const Work& work) const {
    const int64_t first = row_block * kBlock, count = std::min(kBlock, rows - first);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t c = 0; c < kBlock; c += kLanes) work(r, c, (first + r) * columns + column_block * kBlock + c);
    }
  }

  const T* place(int64_t row_block, int64_t column_block) const {
    return to + row_block * kBlock * columns + column_block * kBlock;
  }
};

// Takes sums to their place in a matrix: put(at, column, sums) is called for kLanes sums of a row.
template <typename T, typename Put>
struct Result : BlockedMatrix<T> {
  Put put;

  void operator()(int64_t row_block, int64_t column_block, const float* sums) const {
    this->for_vectors(row_block, column_block, [&](int64_t r, int64_t c, int64_t at) {
      put(at, column_block * kBlock + c, load(sums + r * kBlock + c));
    });
  }
};
template <typename T, typename Put>
Result(BlockedMatrix<T>, Put) -> Result<T, Put>;

// Multiplies sums by GELU's derivative, and writes the column sums of each block to block_sums [row blocks, columns].
struct GeluGradientResult : BlockedMatrix<BFloat16> {
  const BFloat16* derivative;
  float* block_sums;

  void operator()(int64_t row_block, int64_t column_block, const float* sums) const {
    Floats totals[kBlock / kLanes] = {};
    for_vectors(row_block, column_block, [&](int64_t r, int64_t c, int64_t at) {
      const Floats value = load(sums + r * kBlock + c) * load(derivative + at);
      store(to + at, value);
      totals[c / kLanes] += value;
    });
    float* target = block_sums + row_block * columns + column_block * kBlock;
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
        rows_(divide_up(sizes.rows, kBlock)),
        columns_(sizes.columns / kBlock),
        steps_(divide_up(sizes.depth, kBlock)),
        left_(left),
        right_(right),
        sink_(sink) {}

  void run(int threads) {
    if (rows_ == 0) return;
    const Split split = split_product(threads, rows_, columns_, unit_.packing);
    if (split.shares_left) {
      shared_ = shared_scratch().take<BFloat16>(rows_ * steps_ * kStep);
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
    const int64_t row_parts = divide_up(rectangle.rows.count(), kRowPanels);
    const int64_t depth_parts = divide_up(steps_, kDepthSteps);
    Scratch& scratch = thread_scratch();
    scratch.start();
    BFloat16* packed = scratch.take<BFloat16>(kRowPanels * kDepthSteps * kStep);
    float* sums = scratch.take(depth_parts > 1 ? kRowPanels * rectangle.columns.count() * kStep : kStep);
    for (int64_t part = 0; part < row_parts; ++part) {
      const Range panels = rectangle.rows.part(part, row_parts);
      for (int64_t depth = 0; depth < depth_parts; ++depth) {
        const Range steps = Range{0, steps_}.part(depth, depth_parts);
        multiply_strip(panels, rectangle.columns, steps, pack_left(panels, steps, packed), sums);
      }
    }
  }

  Panels pack_left(Range panels, Range steps, BFloat16* packed) const {
    if (shared_) return {shared_ + (panels.begin * steps_ + steps.begin) * kStep, steps_ * kStep};
    left_.pack(panels, steps, packed, steps.count() * kStep);
    return {packed, steps.count() * kStep};
  }

  // Some left panels times all right panels of the thread, over a part of the depth.
  void multiply_strip(Range panels, Range columns, Range steps, Panels left, float* sums) const {
    const bool is_first = steps.begin == 0, is_last = steps.end == steps_;
    for (int64_t column = columns.begin; column < columns.end; ++column) {
      const BFloat16* right = right_ + (column * steps_ + steps.begin) * kStep;
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
        const int64_t number = panel - panels.begin;
        float* block = is_first && is_last ? sums : sums + ((column - columns.begin) * kRowPanels + number) * kStep;
        Ahead ahead;
        if (column + 1 < columns.end) prefetch_right(right + steps_ * kStep, number, panels.count(), steps, ahead);
        if (is_last) prefetch_result(panel, column, steps.count(), ahead);
        unit_.multiply(steps.count(), left.data + number * left.stride, right, block, !is_first, ahead);
        if (is_last) sink_(panel, column, block);
      }
    }
  }

  // Each of the blocks that are computed from a right panel prefetches its share of the next.
  static void prefetch_right(const BFloat16* next, int64_t number, int64_t blocks, Range steps, Ahead& ahead) {
    ahead.right_bytes = round_up(divide_up(kStep * sizeof(BFloat16), blocks), kLine);
    ahead.right = reinterpret_cast<const char*>(next) + number * steps.count() * ahead.right_bytes;
  }

  void prefetch_result(int64_t panel, int64_t column, int64_t steps, Ahead& ahead) const {
    const auto* place = sink_.place(panel, column);
    ahead.result = reinterpret_cast<const char*>(place);
    ahead.result_rows = divide_up(kBlock, steps);
    ahead.result_bytes = kBlock * sizeof *place;
    ahead.result_stride = sink_.columns * sizeof *place;
  }

  const ProductUnit& unit_;
  const int64_t rows_, columns_, steps_;  // blocks, and steps of the depth
  const Left left_;
  const BFloat16* const right_;
  const Sink sink_;
  BFloat16* shared_ = nullptr;  // the left factor, if all threads pack it together
};

// A matrix in the order of its rows times a packed weight.
template <typename Sink>
void multiply_rows(int threads, const ProductUnit& unit, const ProductSizes& sizes, const BFloat16* left,
                   const BFloat16* right, const Sink& sink) {
  Product(unit, sizes, LeftRows{left, sizes.rows, sizes.depth}, right, sink).run(threads);
}

template <Activation (*gelu)(Floats)>
auto put_gelu(const GeluResult& result) {
  return [=](int64_t at, int64_t column, Floats sums) {
    const Activation activation = gelu(sums + load(result.bias + column));
    store(result.activated + at, activation.value);
    store(result.derivative + at, activation.derivative);
  };
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

void pack_weight(int threads, int64_t total_outputs, int64_t first, int64_t outputs, int64_t inputs,
                 const float* weight, BFloat16* forward, BFloat16* backward) {
  const int64_t output_steps = total_outputs / kBlock, input_steps = inputs / kBlock;
  parallel_parts(threads, outputs / kBlock * input_steps, [&](int, int64_t begin, int64_t end) {
    alignas(64) BFloat16 rows[kStep];
    for (int64_t block = begin; block < end; ++block) {
      const int64_t output = block / input_steps, input = block % input_steps, place = first / kBlock + output;
      for (int64_t i = 0; i < kStep; i += kLanes) {
        const int64_t row = output * kBlock + i / kBlock, column = input * kBlock + i % kBlock;
        store(rows + i, load(weight + row * inputs + column));
      }
      transpose_pairs(rows, kBlock, kBlock / 2, forward + (place * input_steps + input) * kStep);
      BFloat16* to = backward + (input * output_steps + place) * kStep;
      for (int64_t r = 0; r < kBlock; r += 2) {
        pair_rows(rows + r * kBlock, rows + (r + 1) * kBlock, kBlock, to + r * kBlock);
      }
    }
  });
}

void multiply_packed(int threads, const ProductUnit& unit, const ProductSizes& sizes, const BFloat16* left,
                     const BFloat16* right, BFloat16* result, bool add) {
  const BlockedMatrix<BFloat16> matrix{result, sizes.rows, sizes.columns};
  const auto put = [=](int64_t at, int64_t, Floats sums) { store(result + at, sums); };
  const auto put_sum = [=](int64_t at, int64_t, Floats sums) { store(result + at, load(result + at) + sums); };
  shared_scratch().start();
  if (add) {
    multiply_rows(threads, unit, sizes, left, right, Result{matrix, put_sum});
  } else {
    multiply_rows(threads, unit, sizes, left, right, Result{matrix, put});
  }
}

void multiply_packed_gelu(int threads, const ProductUnit& unit, const ProductSizes& sizes, const BFloat16* left,
                          const BFloat16* right, const GeluResult& result) {
  const BlockedMatrix<BFloat16> matrix{result.derivative, sizes.rows, sizes.columns};
  shared_scratch().start();
  if (result.form == GeluForm::kTanh) {
    multiply_rows(threads, unit, sizes, left, right, Result{matrix, put_gelu<gelu_tanh>(result)});
  } else {
    multiply_rows(threads, unit, sizes, left, right, Result{matrix, put_gelu<gelu_erf>(result)});
  }
}

void multiply_packed_gelu_gradient(int threads, const ProductUnit& unit, const ProductSizes& sizes,
                                   const BFloat16* left, const BFloat16* right, const GeluGradient& result) {
  const int64_t row_blocks = divide_up(sizes.rows, kBlock);
  shared_scratch().start();
  float* block_sums = shared_scratch().take(row_blocks * sizes.columns);
  multiply_rows(threads, unit, sizes, left, right,
                GeluGradientResult{{result.gradient, sizes.rows, sizes.columns}, result.derivative, block_sums});
  parallel_parts(threads, sizes.columns, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = 0; row < row_blocks; ++row) {
      const float* sums = block_sums + row * sizes.columns;
      for (int64_t column = begin; column < end; ++column) result.bias_gradient[column] += sums[column];
    }
  });
}

void add_weight_gradient(int threads, const ProductUnit& unit, const ProductSizes& sizes, const BFloat16* out_gradient,
                         const BFloat16* inputs, float* gradient) {
  const int64_t panels = sizes.columns / kBlock, steps = divide_up(sizes.depth, kBlock);
  if (steps == 0) return;
  shared_scratch().start();
  BFloat16* right = shared_scratch().take<BFloat16>(panels * steps * kStep);
  pack_together(threads, RightRows{inputs, sizes.depth, sizes.columns}, panels, steps, right);
  const BlockedMatrix<float> matrix{gradient, sizes.rows, sizes.columns};
  const auto add = [=](int64_t at, int64_t, Floats sums) { store(gradient + at, load(gradient + at) + sums); };
  Product(unit, sizes, LeftColumns{out_gradient, sizes.rows, sizes.depth}, right, Result{matrix, add}).run(threads);
}

}  // namespace bert_large
