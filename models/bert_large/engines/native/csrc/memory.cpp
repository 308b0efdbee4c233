#include "memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>
#include <unordered_map>

#include "pages.h"

namespace bert_large {
namespace {

constexpr size_t kLarge = size_t{1} << 20;

// Sizes are rounded up to one of four steps between powers of two, so that micro-batches of nearly the same number of
// tokens share blocks.
size_t block_size(size_t bytes) {
  size_t power = kLarge;
  while (power * 2 <= bytes) power *= 2;
  size_t step = power / 4;
  return (bytes + step - 1) / step * step;
}

class KeptBlocks {
  using Waiting = std::multimap<size_t, void*>;  // by size

 public:
  // Tensors get blocks of their size: the larger ones would be missing when these are needed again. What a kernel gives
  // back before the next tensor is taken may be larger, if not so much that it would leave nothing for a second array.
  void* take(size_t bytes, bool briefly) {
    size_t size = block_size(bytes);
    std::lock_guard<std::mutex> guard(mutex_);
    auto found = waiting_.lower_bound(size);
    void* block = nullptr;
    if (found != waiting_.end() && found->first <= (briefly ? 4 * size : size)) {
      size = found->first;
      found = std::prev(waiting_.upper_bound(size));  // the last one given back, which caches may still hold
      block = found->second;
      waiting_.erase(found);
      kept_ -= size;
    } else {
      block = make(size);
    }
    sizes_[block] = size;
    in_use_ += size;
    return block;
  }

  // Keeps a block for the next tensor; returns false if it is not one of these blocks.
  bool give_back(void* block) {
    std::lock_guard<std::mutex> guard(mutex_);
    auto found = sizes_.find(block);
    if (found == sizes_.end()) return false;
    const size_t size = found->second;
    sizes_.erase(found);
    waiting_.emplace(size, block);
    in_use_ -= size;
    kept_ += size;
    return true;
  }

  MemoryUse use() {
    std::lock_guard<std::mutex> guard(mutex_);
    return {in_use_, kept_};
  }

 private:
  // No block of the size waits. The largest smaller one grows to it: where batches have grown, its size will not be
  // needed again, and only its new pages have to be cleared.
  void* make(size_t size) {
    void* block = nullptr;
    const auto next = waiting_.lower_bound(size);
    if (next == waiting_.begin()) {
      block = map_pages(size);
    } else {
      const auto [smaller, memory] = *std::prev(next);
      waiting_.erase(std::prev(next));
      kept_ -= smaller;
      block = grow_pages(memory, smaller, size);
    }
    if (block == nullptr) {
      for (auto [kept, memory] : waiting_) unmap_pages(memory, kept);
      waiting_.clear();
      kept_ = 0;
      block = map_pages(size);
      TORCH_CHECK_WITH(OutOfMemoryError, block != nullptr, "cannot allocate ", size, " bytes of memory");
    }
    return block;
  }

  std::mutex mutex_;
  Waiting waiting_;
  std::unordered_map<void*, size_t> sizes_;
  int64_t in_use_ = 0, kept_ = 0;
};

// Never destroyed, because tensors may be freed after static objects are.
KeptBlocks& kept_blocks() {
  static KeptBlocks* blocks = new KeptBlocks;
  return *blocks;
}

c10::Allocator* small_allocator() {
  static c10::Allocator* allocator = c10::GetCPUAllocator();
  return allocator;
}

// The deleter of memory that PyTorch frees by its pointer alone, which may be of either allocator.
void give_back_any(void* block) {
  if (block != nullptr && !kept_blocks().give_back(block)) small_allocator()->raw_deallocate(block);
}

class KeepingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < kLarge) return small_allocator()->allocate(bytes);
    void* block = kept_blocks().take(bytes, false);
    return {block, block, &give_back_block, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &give_back_any; }

  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
};

}  // namespace

void* take_block(size_t bytes) { return kept_blocks().take(std::max<size_t>(bytes, 1), true); }

void give_back_block(void* block) {
  if (block != nullptr) kept_blocks().give_back(block);
}

void keep_large_blocks() {
  static KeepingAllocator* allocator = [] {
    small_allocator();  // look it up while it is still PyTorch's CPU allocator
    auto* made = new KeepingAllocator;
    c10::SetCPUAllocator(made, /*priority=*/100);
    return made;
  }();
  (void)allocator;
}

MemoryUse memory_use() { return kept_blocks().use(); }

}  // namespace bert_large
