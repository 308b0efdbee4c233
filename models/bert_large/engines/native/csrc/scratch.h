// Memory that kernels work in, such as packed matrices: kept from call to call.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "pages.h"

namespace bert_large {

// Memory of one thread: pieces are taken one after the other, and `start` releases all of them. It is kept from task to
// task, because the kernel clears a fresh page before its first use, which costs as much as a product on it.
class Scratch {
 public:
  void start() { piece_ = 0; }

  // `count` uninitialized elements, at the start of a cache line.
  template <typename T = float>
  T* take(int64_t count) {
    const size_t bytes = count * sizeof(T);
    if (piece_ == pieces_.size()) pieces_.emplace_back();
    Piece& piece = pieces_[piece_++];
    if (!piece || piece.get_deleter().bytes < bytes) {
      piece.reset();  // before the larger one is mapped
      piece = Piece(map_pages(bytes), {bytes});
      if (!piece) throw std::bad_alloc();
    }
    return static_cast<T*>(piece.get());
  }

 private:
  struct Unmap {
    size_t bytes;
    void operator()(void* memory) const { unmap_pages(memory, bytes); }
  };
  using Piece = std::unique_ptr<void, Unmap>;
  std::vector<Piece> pieces_;
  size_t piece_ = 0;
};

inline Scratch& thread_scratch() {
  static thread_local Scratch scratch;
  return scratch;
}

}  // namespace bert_large
