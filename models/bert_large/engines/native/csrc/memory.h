// An allocator that keeps large blocks for the next tensor.
#pragma once

#include <cstdint>

namespace bert_large {

// Makes PyTorch take CPU tensors of a megabyte and more from blocks that are kept when tensors die, on huge pages where
// the system grants them. Without it every large tensor is mapped and cleared by the kernel anew. No effect when called
// again.
void keep_large_blocks();

struct MemoryFigures {
  int64_t in_use, kept;  // bytes in tensors, bytes waiting for the next one
};
MemoryFigures memory_figures();

}  // namespace bert_large
