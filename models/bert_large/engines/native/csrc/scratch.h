// Memory that kernels work in, such as packed matrices: kept from call to call.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "vector.h"

namespace bert_large {

// Memory of one thread: pieces are taken one after the other, and `start` releases all of them. It is kept from task to
// task, because the kernel clears a fresh page before its first use, which costs as much as a product on it.
class Scratch {
 public:
  void start() { piece_ = 0; }

  // `count` uninitialized elements, at the start of a cache line.
  template <typename T = float>
  T* take(int64_t count) {
    const int64_t bytes = count * sizeof(T);
    if (piece_ == pieces_.size()) pieces_.emplace_back();
    Piece& piece = pieces_[piece_++];
    if (piece.capacity < bytes) {
      piece.memory.reset(std::aligned_alloc(64, round_up(bytes, 4096)));
      piece.capacity = bytes;
    }
    return static_cast<T*>(piece.memory.get());
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  struct Piece {
    std::unique_ptr<void, Free> memory;
    int64_t capacity = 0;
  };
  std::vector<Piece> pieces_;
  size_t piece_ = 0;
};

inline Scratch& thread_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

}  // namespace bert_large
