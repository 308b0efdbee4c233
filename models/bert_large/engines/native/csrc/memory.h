// An allocator that keeps large blocks for the next tensor.
//
// malloc returns large blocks to the system when they are freed. Every large activation is then mapped again, and each
// of its pages costs a page fault in which the system clears it. Kept blocks lie on huge pages where the system grants
// them, which saves misses in the cache of address translations.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bert_large {

// A block of at least so many bytes; throws if memory is exhausted. Its contents are uninitialized.
void* take_block(size_t bytes);
void give_back_block(void* block);

// Makes PyTorch take CPU tensors of a megabyte and more from blocks that are kept when tensors are freed. Calling it
// again has no effect.
void keep_large_blocks();

struct MemoryUse {
  int64_t in_use, kept;  // bytes in tensors, bytes waiting for the next one
};
MemoryUse memory_use();

// Memory that the threads of one kernel share, such as a packed matrix: a block that waits for a tensor, of this or a
// larger size, or a new one.
template <typename T>
class SharedArray {
 public:
  explicit SharedArray(int64_t count) : block_(take_block(count * sizeof(T))) {}
  ~SharedArray() { give_back_block(block_); }
  SharedArray(const SharedArray&) = delete;
  SharedArray& operator=(const SharedArray&) = delete;

  operator T*() const { return static_cast<T*>(block_); }

 private:
  void* const block_;
};

}  // namespace bert_large
