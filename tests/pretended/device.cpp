// A device whose memory is the host's and whose kernels are the CPU's: torch's PrivateUse1.
// gpu.py registers it, with the copies between it and the host; watch.py watches what happens.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <vector>

namespace {

constexpr auto PRETENDED = c10::DeviceType::PrivateUse1;

// One device with one stream; nothing is ever waited for.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  using Device = c10::Device;
  using Stream = c10::Stream;
  const Device only{PRETENDED, 0};

  c10::DeviceType type() const override { return PRETENDED; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  Device getDevice() const override { return only; }
  Device exchangeDevice(Device) const override { return only; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return Stream(Stream::DEFAULT, only); }
  Stream exchangeStream(Stream) const override { return Stream(Stream::DEFAULT, only); }
  void record(void**, const Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}
  void synchronizeDevice(c10::DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

// For storages that Python makes, such as those of deep copies.
struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto host = c10::GetAllocator(at::kCPU)->allocate(bytes);
    auto free = host.get_deleter();
    auto* start = host.get();
    return {start, host.release_context(), free, c10::Device(PRETENDED, 0)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};
Memory memory;
REGISTER_ALLOCATOR(PRETENDED, &memory)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};

bool is_pretended(const at::Tensor& x) {
  return x.defined() && x.device().type() == PRETENDED;
}

at::Tensor sized(at::Tensor x, const at::Tensor& like) {
  auto* inner = x.unsafeGetTensorImpl();
  inner->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return x;
}

at::Tensor tensor_of(c10::Storage storage, c10::DispatchKey key, const at::Tensor& like) {
  return sized(at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(key), like.dtype()), like);
}

at::Tensor view_of(const at::Tensor& x, const at::Tensor& like) {
  return sized(at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(x.storage()), x.key_set(), like.dtype()), like);
}

// The same memory as a tensor of the CPU.
at::Tensor on_host(const at::Tensor& x) {
  if (!is_pretended(x)) return x;
  auto memory = c10::DataPtr(x.storage().mutable_data(), at::kCPU);
  auto storage = c10::Storage(c10::Storage::use_byte_size_t(), x.storage().nbytes(),
                              std::move(memory), c10::GetAllocator(at::kCPU), true);
  return tensor_of(std::move(storage), c10::DispatchKey::CPU, x);
}

// The memory of a CPU's tensor as memory of the pretended device, which keeps it alive.
c10::DataPtr memory_of(const at::Tensor& x) {
  auto* kept = new c10::Storage(x.storage());
  auto free = [](void* storage) { delete static_cast<c10::Storage*>(storage); };
  return {kept->mutable_data(), kept, free, c10::Device(PRETENDED, 0)};
}

at::Tensor on_device(const at::Tensor& x) {
  auto storage = c10::Storage(c10::Storage::use_byte_size_t(), x.storage().nbytes(),
                              memory_of(x), nullptr, false);
  return tensor_of(std::move(storage), c10::DispatchKey::PrivateUse1, x);
}

// Runs an operator on the CPU. What it returns of its arguments' memory stays their memory.
struct OnHost {
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs;  // an argument and the same on the host
  bool is_made_here = false;                             // the operator was asked for our device

  c10::IValue there(const c10::IValue& value) {
    if (value.isDevice() && value.toDevice().type() == PRETENDED) {
      is_made_here = true;
      return c10::Device(at::kCPU);
    }
    if (value.isTensor() && is_pretended(value.toTensor())) {
      pairs.emplace_back(value.toTensor(), on_host(value.toTensor()));
      return pairs.back().second;
    }
    if (!value.isList()) return value;
    auto list = value.toList().copy();
    for (size_t i = 0; i < list.size(); ++i) list.set(i, there(list.get(i)));
    return list;
  }

  c10::IValue back(const c10::IValue& value) {
    if (value.isTensor() && value.toTensor().defined()) {
      const auto x = value.toTensor();
      for (const auto& [ours, host] : pairs) {
        if (x.is_same(host)) return ours;
        if (x.storage().data() && x.storage().data() == host.storage().data())
          return view_of(ours, x);
      }
      return pairs.empty() && !is_made_here ? x : on_device(x);
    }
    if (!value.isList()) return value;
    auto list = value.toList().copy();
    for (size_t i = 0; i < list.size(); ++i) list.set(i, back(list.get(i)));
    return list;
  }

  // What the operator did to its arguments' sizes, such as those of an empty `out`.
  void resize() {
    for (const auto& [ours, host] : pairs) {
      if (host.storage().data() != ours.storage().data()) {
        ours.storage().set_data_ptr_noswap(memory_of(host));
        ours.storage().set_nbytes(host.storage().nbytes());
      }
      if (host.sizes() != ours.sizes() || host.strides() != ours.strides())
        ours.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides());
    }
  }
};

void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  OnHost run;
  const auto& schema = op.schema();
  const auto before = stack->size() - schema.arguments().size();
  for (auto i = before; i < stack->size(); ++i) (*stack)[i] = run.there((*stack)[i]);
  op.callBoxed(*stack);
  run.resize();
  for (auto i = before; i < stack->size(); ++i) (*stack)[i] = run.back((*stack)[i]);
}

void copy(const at::Tensor& from, const at::Tensor& to) { on_host(to).copy_(on_host(from)); }

at::Tensor& set_storage(at::Tensor& x, at::Storage storage, int64_t offset,
                        c10::IntArrayRef sizes, c10::IntArrayRef strides) {
  auto* inner = x.unsafeGetTensorImpl();
  inner->set_storage_keep_dtype(std::move(storage));
  inner->set_sizes_and_strides(sizes, strides, offset);
  return x;
}

at::Tensor& set_whole_storage(at::Tensor& x, at::Storage storage) {
  const auto count = static_cast<int64_t>(storage.nbytes() / x.itemsize());
  return set_storage(x, std::move(storage), 0, {count}, {1});
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}
TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("set_.source_Storage", &set_whole_storage);
}

TORCH_LIBRARY(pretended, library) { library.def("copy(Tensor from, Tensor to) -> ()", &copy); }

const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  return true;
}();

}  // namespace
