// An allocator that keeps large blocks for the next tensor.
//
// malloc returns large blocks to the system when they are freed. Every large activation is then mapped again, and each
// of its pages costs a page fault in which the system clears it. Kept blocks lie on huge pages where the system grants
// them, which saves misses in the cache of address translations.
#pragma once

#include <cstdint>

namespace bert_large {

// Makes PyTorch take CPU tensors of a megabyte and more from blocks that are kept when tensors are freed. Calling it
// again has no effect.
void keep_large_blocks();

struct MemoryUse {
  int64_t in_use, kept;  // bytes in tensors, bytes waiting for the next one
};
MemoryUse memory_use();

}  // namespace bert_large
