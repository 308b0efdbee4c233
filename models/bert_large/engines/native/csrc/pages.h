// Memory for large arrays, from the system itself: on huge pages, which a processor has enough entries for, and given
// back as a whole, where the C library would keep it for small requests.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace bert_large {

constexpr size_t kHugePage = size_t{1} << 21;

// Maps memory that starts at the boundary of a huge page; nullptr if there is none left.
inline void* map_pages(size_t bytes) {
  constexpr size_t kPage = 4096;
  const size_t size = (bytes + kPage - 1) / kPage * kPage;
  void* mapped = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* const start = static_cast<char*>(mapped);
  const size_t before = -reinterpret_cast<uintptr_t>(start) % kHugePage;
  if (before > 0) munmap(start, before);
  munmap(start + before + size, kHugePage - before);
  madvise(start + before, size, MADV_HUGEPAGE);  // advice only: small pages serve as well
  return start + before;
}

inline void unmap_pages(void* memory, size_t bytes) { munmap(memory, bytes); }

// Moves memory to where it has `bytes`: its pages, and new ones after them. Both sizes are multiples of a page's. If
// there is not enough memory, unmaps it and returns nullptr.
inline void* grow_pages(void* memory, size_t old_bytes, size_t bytes) {
  void* place = map_pages(bytes);
  if (place != nullptr) {
    // Replaces the mapping at that place, so that the result is one mapping, which can be moved again.
    void* grown = mremap(memory, old_bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    if (grown != MAP_FAILED) return grown;
  }
  unmap_pages(memory, old_bytes);
  return nullptr;
}

}  // namespace bert_large
