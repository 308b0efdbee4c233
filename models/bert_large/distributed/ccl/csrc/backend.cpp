// A c10d backend over oneCCL, for CPU tensors.
//
// Every operation is submitted to oneCCL by the calling thread and computed by oneCCL's workers. One thread per backend
// waits for the operations in the order of their submission and completes their work objects and futures. No thread
// waits inside oneCCL, because an operation whose peer is dead never ends there: a caller waits on a condition variable
// and raises an error when the timeout of the process group has passed.
//
// The library is loaded by torch.ops.load_library and needs no Python headers: ranks get the process group as a
// TorchScript object, which `ProcessGroup.unbox` turns into the one of torch.distributed.

#include <oneapi/ccl.hpp>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/library.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

namespace {

using c10d::OpType;
using c10d::Work;
using Tensors = std::vector<at::Tensor>;
using Milliseconds = std::chrono::milliseconds;

// The waiting thread looks for the end of an operation at intervals that grow with its duration. Spinning would take
// the core from computation.
constexpr auto kShortestPause = std::chrono::microseconds(20);
constexpr auto kLongestPause = std::chrono::microseconds(200);

ccl::datatype datatype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat: return ccl::datatype::float32;
    case at::kDouble: return ccl::datatype::float64;
    case at::kBFloat16: return ccl::datatype::bfloat16;
    case at::kHalf: return ccl::datatype::float16;
    case at::kLong: return ccl::datatype::int64;
    case at::kInt: return ccl::datatype::int32;
    case at::kChar: return ccl::datatype::int8;
    case at::kByte:
    case at::kBool: return ccl::datatype::uint8;
    default: TORCH_CHECK(false, "ccl: dtype ", tensor.scalar_type(), " is not supported");
  }
}

void check_tensor(const at::Tensor& tensor) {
  TORCH_CHECK(
      tensor.device().is_cpu() && tensor.is_non_overlapping_and_dense() && !tensor.is_sparse(), "ccl: found a tensor of ",
      tensor.toString(), " with strides ", tensor.strides(), ", expected a dense CPU tensor");
}

const at::Tensor& only_tensor(const Tensors& tensors) {
  TORCH_CHECK(tensors.size() == 1, "ccl: found ", tensors.size(), " tensors, expected one");
  check_tensor(tensors[0]);
  return tensors[0];
}

class CclWork : public Work {
 public:
  CclWork(int rank, OpType type, ccl::event event, Tensors outputs, Tensors inputs, Milliseconds timeout)
      : Work(rank, type),
        event_(std::move(event)),
        outputs_(std::move(outputs)),
        inputs_(std::move(inputs)),
        timeout_(timeout),
        future_(c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()))) {}

  bool wait(Milliseconds timeout = kNoTimeout) override {
    return Work::wait(timeout == kNoTimeout ? timeout_ : timeout);
  }
  Tensors result() override { return outputs_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }

  // Return whether the operation has ended; on an error of oneCCL it ends with that.
  bool poll() {
    std::exception_ptr error;
    try {
      if (!event_.test()) return false;
    } catch (...) {
      error = std::current_exception();
    }
    inputs_.clear();
    if (error) {
      future_->setErrorIfNeeded(error);
    } else {
      future_->markCompleted(c10::IValue(outputs_));
    }
    finish(error);
    return true;
  }

 private:
  ccl::event event_;
  Tensors outputs_;
  Tensors inputs_;  // kept alive while oneCCL reads them
  Milliseconds timeout_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

// Completes operations in a thread of its own. The thread shares ownership of the state, because it outlives the queue
// if an operation never ends.
class CompletionQueue {
 public:
  CompletionQueue() : state_(std::make_shared<State>()), thread_(run, state_) {}

  ~CompletionQueue() {
    bool idle;
    {
      std::lock_guard<std::mutex> lock(state_->mutex);
      state_->closed = true;
      idle = state_->pending.empty();
    }
    state_->changed.notify_all();
    if (idle) thread_.join(); else thread_.detach();
  }

  void add(c10::intrusive_ptr<CclWork> work) {
    {
      std::lock_guard<std::mutex> lock(state_->mutex);
      state_->pending.push_back(std::move(work));
    }
    state_->changed.notify_all();
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<c10::intrusive_ptr<CclWork>> pending;
    bool closed = false;
  };

  static void run(std::shared_ptr<State> state) {
    while (true) {
      c10::intrusive_ptr<CclWork> work;
      {
        std::unique_lock<std::mutex> lock(state->mutex);
        state->changed.wait(lock, [&] { return state->closed || !state->pending.empty(); });
        if (state->pending.empty()) return;
        work = state->pending.front();
      }
      auto pause = kShortestPause;
      while (!work->poll()) {
        std::this_thread::sleep_for(pause);
        pause = std::min(pause * 2, kLongestPause);
      }
      std::lock_guard<std::mutex> lock(state->mutex);
      state->pending.pop_front();
    }
  }

  std::shared_ptr<State> state_;
  std::thread thread_;
};

class CclBackend : public c10d::Backend {
 public:
  CclBackend(int rank, int size, ccl::communicator communicator, Milliseconds timeout)
      : Backend(rank, size), communicator_(std::move(communicator)), timeout_(timeout) {}

  const std::string getBackendName() const override { return "ccl"; }
  void setTimeout(Milliseconds timeout) override { timeout_ = timeout; }

  c10::intrusive_ptr<Work> allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    const auto& tensor = only_tensor(tensors);
    TORCH_CHECK(options.reduceOp == c10d::ReduceOp::SUM, "ccl: only sums are supported");
    return start(OpType::ALLREDUCE, {tensor}, {}, [&] {
      return ccl::allreduce(tensor.data_ptr(), tensor.data_ptr(), tensor.numel(), datatype_of(tensor),
                            ccl::reduction::sum, communicator_);
    });
  }

  c10::intrusive_ptr<Work> broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    const auto& tensor = only_tensor(tensors);
    const int root = static_cast<int>(options.rootRank);
    return start(OpType::BROADCAST, {tensor}, {}, [&] {
      return ccl::broadcast(tensor.data_ptr(), tensor.nbytes(), ccl::datatype::uint8, root, communicator_);
    });
  }

  c10::intrusive_ptr<Work> allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                                     const c10d::AllgatherOptions&) override {
    const auto& input = only_tensor(inputs);
    TORCH_CHECK(outputs.size() == 1 && outputs[0].size() == static_cast<size_t>(size_),
                "ccl: expected one output tensor per rank");
    ccl::vector_class<void*> buffers;
    for (const auto& output : outputs[0]) {
      check_tensor(output);
      TORCH_CHECK(output.nbytes() == input.nbytes(), "ccl: output of ", output.nbytes(), " bytes, expected ",
                  input.nbytes());
      buffers.push_back(output.data_ptr());
    }
    const ccl::vector_class<size_t> counts(size_, input.nbytes());
    return start(OpType::ALLGATHER, outputs[0], {input}, [&] {
      return ccl::allgatherv(input.data_ptr(), input.nbytes(), buffers, counts, ccl::datatype::uint8, communicator_);
    });
  }

  // Messages between two ranks arrive in the order in which they were sent; tags are not used.
  c10::intrusive_ptr<Work> send(Tensors& tensors, int to, int) override {
    const auto& tensor = only_tensor(tensors);
    return start(OpType::SEND, {}, {tensor}, [&] {
      return ccl::send(tensor.data_ptr(), tensor.nbytes(), ccl::datatype::uint8, to, communicator_);
    });
  }

  c10::intrusive_ptr<Work> recv(Tensors& tensors, int from, int) override {
    const auto& tensor = only_tensor(tensors);
    return start(OpType::RECV, {tensor}, {}, [&] {
      return ccl::recv(tensor.data_ptr(), tensor.nbytes(), ccl::datatype::uint8, from, communicator_);
    });
  }

  c10::intrusive_ptr<Work> barrier(const c10d::BarrierOptions&) override {
    return start(OpType::BARRIER, {}, {}, [&] { return ccl::barrier(communicator_); });
  }

 private:
  // Submit an operation. Its tensors are kept alive until it ends.
  template <typename Submit>
  c10::intrusive_ptr<Work> start(OpType type, Tensors outputs, Tensors inputs, const Submit& submit) {
    std::lock_guard<std::mutex> lock(submitting_);  // oneCCL needs the same order in both queues
    auto work = c10::make_intrusive<CclWork>(rank_, type, submit(), std::move(outputs), std::move(inputs), timeout_);
    queue_.add(work);
    return work;
  }

  std::mutex submitting_;
  ccl::communicator communicator_;
  Milliseconds timeout_;
  CompletionQueue queue_;  // destroyed first
};

// oneCCL's key-value store, over which communicators connect. Rank 0 serves it; it lives as long as the process.
std::shared_ptr<ccl::kvs> served_store;

// Serve a store and return its address: 256 bytes, to be passed to `create_group` on all ranks.
at::Tensor serve_store() {
  ccl::init();
  served_store = ccl::create_main_kvs();
  const auto address = served_store->get_address();
  auto bytes = at::empty({static_cast<int64_t>(address.size())}, at::kByte);
  std::copy(address.begin(), address.end(), bytes.data_ptr<uint8_t>());
  return bytes;
}

// Return the process group of this rank, once all ranks of the group have called this. Rank 0 has called `serve_store`.
c10::intrusive_ptr<c10d::ProcessGroup> create_group(const at::Tensor& bytes, int64_t rank, int64_t size,
                                                    int64_t timeout_ms) {
  ccl::init();
  ccl::kvs::address_type address;
  TORCH_CHECK(bytes.numel() == static_cast<int64_t>(address.size()), "ccl: address of ", bytes.numel(), " bytes");
  std::copy_n(bytes.data_ptr<uint8_t>(), address.size(), address.begin());
  auto store = rank == 0 && served_store ? served_store : ccl::create_kvs(address);
  auto communicator = ccl::create_communicator(static_cast<int>(size), static_cast<int>(rank), store);
  auto backend = c10::make_intrusive<CclBackend>(rank, size, std::move(communicator), Milliseconds(timeout_ms));
  auto group = c10::make_intrusive<c10d::ProcessGroup>(static_cast<int>(rank), static_cast<int>(size));
  group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::CUSTOM, backend);
  group->setDefaultBackend(c10d::ProcessGroup::BackendType::CUSTOM);
  return group;
}

}  // namespace

TORCH_LIBRARY(bert_large_ccl, library) {
  library.def("serve_store", serve_store);
  library.def("create_group", create_group);
}
