// The CUDA driver for src/engine/cuda: opened at run time, so that nothing but a driver has to be installed, and none to build
// this. Addresses are numbers: device addresses have at most 49 bits. An error is thrown as "function: NAME".
#include <node_api.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace {

using Result = int;
using Device = int;
using Address = uint64_t;

// CUlaunchAttribute and CUlaunchConfig.
struct LaunchAttribute {
  int id, pad;
  union {
    int allowed;
    char bytes[64];
  } value;
};
struct LaunchConfig {
  unsigned grid[3], block[3], shared;
  void* stream;
  LaunchAttribute* attributes;
  unsigned count;
};

struct Driver {
  Result (*cuInit)(unsigned);
  Result (*cuDriverGetVersion)(int*);
  Result (*cuDeviceGetCount)(int*);
  Result (*cuDeviceGet)(Device*, int);
  Result (*cuDeviceGetName)(char*, int, Device);
  Result (*cuDeviceGetAttribute)(int*, int, Device);
  Result (*cuDeviceTotalMem_v2)(size_t*, Device);
  Result (*cuMemGetInfo_v2)(size_t*, size_t*);
  Result (*cuDevicePrimaryCtxRetain)(void**, Device);
  Result (*cuCtxSetCurrent)(void*);
  Result (*cuModuleLoadData)(void**, const void*);
  Result (*cuModuleGetFunction)(void**, void*, const char*);
  Result (*cuFuncSetAttribute)(void*, int, int);
  Result (*cuFuncGetAttribute)(int*, int, void*);
  Result (*cuMemAlloc_v2)(Address*, size_t);
  Result (*cuMemFree_v2)(Address);
  Result (*cuMemHostAlloc)(void**, size_t, unsigned);
  Result (*cuMemFreeHost)(void*);
  Result (*cuMemcpyHtoD_v2)(Address, const void*, size_t);
  Result (*cuMemcpyHtoDAsync_v2)(Address, const void*, size_t, void*);
  Result (*cuMemcpyDtoH_v2)(void*, Address, size_t);
  Result (*cuMemcpyDtoDAsync_v2)(Address, Address, size_t, void*);
  Result (*cuMemsetD8Async)(Address, unsigned char, size_t, void*);
  Result (*cuStreamCreate)(void**, unsigned);
  Result (*cuStreamSynchronize)(void*);
  Result (*cuStreamQuery)(void*);
  Result (*cuLaunchKernel)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
  Result (*cuLaunchCooperativeKernel)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**);
  Result (*cuGetErrorName)(Result, const char**);
  /** Null in drivers before CUDA 11.8. */
  Result (*cuLaunchKernelEx)(const LaunchConfig*, void*, void**, void**);
};

// CUdevice_attribute and CUfunction_attribute.
constexpr int MULTIPROCESSORS = 16, MAJOR = 75, MINOR = 76, COOPERATIVE = 95, SHARED_OPTIN = 97, MAX_DYNAMIC_SHARED = 8, PTX_VERSION = 5, MAX_THREADS = 0;
// CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION.
constexpr int BEGINS_EARLY = 6;
constexpr unsigned NON_BLOCKING = 1;
// CUDA_ERROR_NOT_READY.
constexpr Result NOT_READY = 600;

Driver driver;
void* context = nullptr;
void* stream = nullptr;
/** A kernel has not ended in its time: most of what a driver is asked for then waits for it. */
bool stuck = false;
/** A kernel, and the threads of its blocks: as many as it was compiled for. */
struct Function {
  void* handle;
  unsigned threads;
};
std::vector<Function> functions;
/** Do the kernels wait for the ones before them? Only those compiled for 9.0 or later do; PTX text of 8.0 does not. */
bool wait_themselves = false;

std::string failure(const char* call, Result result) {
  const char* name = nullptr;
  if (driver.cuGetErrorName) driver.cuGetErrorName(result, &name);
  return std::string(call) + ": " + (name ? name : "error " + std::to_string(result));
}

#define TRY(call, ...)                                          \
  do {                                                          \
    const Result result_ = driver.call(__VA_ARGS__);            \
    if (result_ != 0) return failure(#call, result_);           \
  } while (0)

std::string open_library(const std::string& name) {
#ifdef _WIN32
  HMODULE library = LoadLibraryA(name.c_str());
  if (!library) return "there is no NVIDIA driver here (" + name + " was not found)";
  auto find = [&](const char* symbol) { return (void*)GetProcAddress(library, symbol); };
#else
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return "there is no NVIDIA driver here (" + name + " was not found)";
  auto find = [&](const char* symbol) { return dlsym(library, symbol); };
#endif
#define FIND(symbol)                                                                                          \
  *(void**)&driver.symbol = find(#symbol);                                                                    \
  if (!driver.symbol) return "the NVIDIA driver is too old: it has no " #symbol;
  FIND(cuGetErrorName)
  FIND(cuInit)
  FIND(cuDriverGetVersion)
  FIND(cuDeviceGetCount)
  FIND(cuDeviceGet)
  FIND(cuDeviceGetName)
  FIND(cuDeviceGetAttribute)
  FIND(cuDeviceTotalMem_v2)
  FIND(cuMemGetInfo_v2)
  FIND(cuDevicePrimaryCtxRetain)
  FIND(cuCtxSetCurrent)
  FIND(cuModuleLoadData)
  FIND(cuModuleGetFunction)
  FIND(cuFuncSetAttribute)
  FIND(cuFuncGetAttribute)
  FIND(cuMemAlloc_v2)
  FIND(cuMemFree_v2)
  FIND(cuMemHostAlloc)
  FIND(cuMemFreeHost)
  FIND(cuMemcpyHtoD_v2)
  FIND(cuMemcpyHtoDAsync_v2)
  FIND(cuMemcpyDtoH_v2)
  FIND(cuMemcpyDtoDAsync_v2)
  FIND(cuMemsetD8Async)
  FIND(cuStreamCreate)
  FIND(cuStreamSynchronize)
  FIND(cuStreamQuery)
  FIND(cuLaunchKernel)
  FIND(cuLaunchCooperativeKernel)
  *(void**)&driver.cuLaunchKernelEx = find("cuLaunchKernelEx");
  return "";
}

struct Info {
  std::string name;
  int driver = 0, count = 0, major = 0, minor = 0, multiprocessors = 0, shared = 0, cooperative = 0;
  size_t total = 0;
};

std::string probe(const std::string& library, Info& info) {
  std::string error = open_library(library);
  if (!error.empty()) return error;
  TRY(cuInit, 0);
  TRY(cuDriverGetVersion, &info.driver);
  TRY(cuDeviceGetCount, &info.count);
  if (info.count == 0) return "";
  Device device;
  TRY(cuDeviceGet, &device, 0);
  char name[256] = "";
  TRY(cuDeviceGetName, name, sizeof name, device);
  info.name = name;
  TRY(cuDeviceGetAttribute, &info.major, MAJOR, device);
  TRY(cuDeviceGetAttribute, &info.minor, MINOR, device);
  TRY(cuDeviceGetAttribute, &info.multiprocessors, MULTIPROCESSORS, device);
  TRY(cuDeviceGetAttribute, &info.shared, SHARED_OPTIN, device);
  TRY(cuDeviceGetAttribute, &info.cooperative, COOPERATIVE, device);
  TRY(cuDeviceTotalMem_v2, &info.total, device);
  return "";
}

/** Makes the context and the functions of a module (PTX text or a cubin). */
std::string start(const std::string& image, const std::vector<std::string>& names, int shared) {
  Device device;
  TRY(cuDeviceGet, &device, 0);
  if (!context) TRY(cuDevicePrimaryCtxRetain, &context, device);
  TRY(cuCtxSetCurrent, context);
  if (!stream) TRY(cuStreamCreate, &stream, NON_BLOCKING);
  void* module;
  TRY(cuModuleLoadData, &module, image.c_str());
  functions.clear();
  wait_themselves = driver.cuLaunchKernelEx != nullptr;
  for (const std::string& name : names) {
    void* function;
    TRY(cuModuleGetFunction, &function, module, name.c_str());
    TRY(cuFuncSetAttribute, function, MAX_DYNAMIC_SHARED, shared);
    int version = 0;
    TRY(cuFuncGetAttribute, &version, PTX_VERSION, function);
    if (version < 90) wait_themselves = false;
    int threads = 0;
    TRY(cuFuncGetAttribute, &threads, MAX_THREADS, function);
    functions.push_back({function, (unsigned)threads});
  }
  return "";
}

/** A launch that may begin while the one before it still runs. */
std::string launch_early(const Function& function, unsigned grid, unsigned shared, void** arguments) {
  LaunchAttribute attribute{};
  attribute.id = BEGINS_EARLY;
  attribute.value.allowed = 1;
  const LaunchConfig config{{grid, 1, 1}, {function.threads, 1, 1}, shared, stream, &attribute, 1};
  TRY(cuLaunchKernelEx, &config, function.handle, arguments, nullptr);
  return "";
}

/** Waits for the stream's work, for so many milliseconds at most; does not rest in the first of them, in which most of it ends. */
std::string finish(double limit) {
  using Clock = std::chrono::steady_clock;
  const auto begun = Clock::now();
  for (;;) {
    const Result result = driver.cuStreamQuery(stream);
    if (result == 0) return "";
    if (result != NOT_READY) return failure("cuStreamQuery", result);
    const double taken = std::chrono::duration<double, std::milli>(Clock::now() - begun).count();
    if (taken > limit) break;
    if (taken > 50) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  stuck = true;
  return "the device has not ended its work in " + std::to_string((long)(limit / 1000)) + " s";
}

/** A list of work, in numbers: see `writeWork` of src/engine/cuda/gpu.ts. */
std::string perform(const std::vector<double>& work, double limit) {
  TRY(cuCtxSetCurrent, context);
  size_t i = 0;
  while (i < work.size()) {
    const int kind = (int)work[i++];
    if (kind == 0) {
      const Address to = (Address)work[i], from = (Address)work[i + 1];
      TRY(cuMemcpyHtoDAsync_v2, to, (const void*)from, (size_t)work[i + 2], stream);
      i += 3;
    } else if (kind == 1) {
      TRY(cuMemcpyDtoDAsync_v2, (Address)work[i], (Address)work[i + 1], (size_t)work[i + 2], stream);
      i += 3;
    } else {
      const Function& function = functions.at((size_t)work[i]);
      const unsigned grid = (unsigned)work[i + 1], shared = (unsigned)work[i + 2];
      const bool together = work[i + 3] == 1, early = work[i + 3] == 2;
      // The first argument may be more than a number: then it is told where it lies.
      void* const given = (void*)(uintptr_t)work[i + 4];
      const size_t n = (size_t)work[i + 5], before = given ? 1 : 0;
      i += 6;
      uint64_t values[8];
      void* arguments[9] = {given};
      for (size_t a = 0; a < n && a < 8; a++) {
        values[a] = (uint64_t)work[i + a];
        arguments[before + a] = &values[a];
      }
      i += n;
      if (together) TRY(cuLaunchCooperativeKernel, function.handle, grid, 1, 1, function.threads, 1, 1, shared, stream, arguments);
      else if (early && wait_themselves) {
        const std::string error = launch_early(function, grid, shared, arguments);
        if (!error.empty()) return error;
      }
      else TRY(cuLaunchKernel, function.handle, grid, 1, 1, function.threads, 1, 1, shared, stream, arguments, nullptr);
    }
  }
  return finish(limit);
}

// ---- Node-API

napi_value thrown(napi_env env, const std::string& message) {
  napi_throw_error(env, nullptr, message.c_str());
  return nullptr;
}

struct Arguments {
  napi_env env;
  napi_value values[4];
  size_t count = 4;
  Arguments(napi_env env, napi_callback_info info) : env(env) { napi_get_cb_info(env, info, &count, values, nullptr, nullptr); }
  double number(size_t i) {
    double v = 0;
    napi_get_value_double(env, values[i], &v);
    return v;
  }
  std::string text(size_t i) {
    size_t n = 0;
    napi_get_value_string_utf8(env, values[i], nullptr, 0, &n);
    std::string s(n, 0);
    napi_get_value_string_utf8(env, values[i], s.data(), n + 1, &n);
    return s;
  }
  /** A typed array's bytes. */
  bool bytes(size_t i, void*& data, size_t& size) {
    napi_typedarray_type type;
    size_t length, offset;
    napi_value buffer;
    if (napi_get_typedarray_info(env, values[i], &type, &length, &data, &buffer, &offset) != napi_ok) return false;
    const size_t each = type == napi_float64_array || type == napi_bigint64_array || type == napi_biguint64_array ? 8
                        : type == napi_int32_array || type == napi_uint32_array || type == napi_float32_array     ? 4
                        : type == napi_int16_array || type == napi_uint16_array                                   ? 2
                                                                                                                  : 1;
    size = length * each;
    return true;
  }
};

void set(napi_env env, napi_value object, const char* name, double value) {
  napi_value v;
  napi_create_double(env, value, &v);
  napi_set_named_property(env, object, name, v);
}

struct Task {
  napi_async_work handle = nullptr;
  napi_deferred deferred = nullptr;
  std::function<std::string()> work;
  std::string error;
};

/** Does the work on another thread; a promise of its end. */
napi_value later(napi_env env, std::function<std::string()> work) {
  auto* task = new Task;
  task->work = std::move(work);
  napi_value promise, name;
  napi_create_promise(env, &task->deferred, &promise);
  napi_create_string_utf8(env, "bitnet cuda", NAPI_AUTO_LENGTH, &name);
  napi_create_async_work(
      env, nullptr, name, [](napi_env, void* t) { ((Task*)t)->error = ((Task*)t)->work(); },
      [](napi_env env, napi_status, void* t) {
        auto* task = (Task*)t;
        if (task->error.empty()) {
          napi_value nothing;
          napi_get_undefined(env, &nothing);
          napi_resolve_deferred(env, task->deferred, nothing);
        } else {
          napi_value message, error;
          napi_create_string_utf8(env, task->error.c_str(), NAPI_AUTO_LENGTH, &message);
          napi_create_error(env, nullptr, message, &error);
          napi_reject_deferred(env, task->deferred, error);
        }
        napi_delete_async_work(env, task->handle);
        delete task;
      },
      task, &task->handle);
  napi_queue_async_work(env, task->handle);
  return promise;
}

napi_value probe_(napi_env env, napi_callback_info i) {
  Arguments a(env, i);
  Info info;
  const std::string error = probe(a.text(0), info);
  if (!error.empty()) return thrown(env, error);
  napi_value object, name;
  napi_create_object(env, &object);
  napi_create_string_utf8(env, info.name.c_str(), NAPI_AUTO_LENGTH, &name);
  napi_set_named_property(env, object, "name", name);
  set(env, object, "driver", info.driver);
  set(env, object, "count", info.count);
  set(env, object, "capability", info.major * 10 + info.minor);
  set(env, object, "multiprocessors", info.multiprocessors);
  set(env, object, "sharedBytes", info.shared);
  set(env, object, "cooperative", info.cooperative);
  set(env, object, "memoryBytes", (double)info.total);
  return object;
}

napi_value start_(napi_env env, napi_callback_info i) {
  Arguments a(env, i);
  void* data;
  size_t size;
  if (!a.bytes(0, data, size)) return thrown(env, "start: no bytes");
  std::vector<std::string> names;
  uint32_t n = 0;
  napi_get_array_length(env, a.values[1], &n);
  for (uint32_t k = 0; k < n; k++) {
    napi_value v;
    napi_get_element(env, a.values[1], k, &v);
    char name[64];
    size_t length;
    napi_get_value_string_utf8(env, v, name, sizeof name, &length);
    names.emplace_back(name, length);
  }
  // A driver compiles PTX text for half a minute.
  return later(env, [image = std::string((const char*)data, size), names, shared = (int)a.number(2)] { return start(image, names, shared); });
}

std::string allocate(size_t bytes, Address& at) {
  TRY(cuCtxSetCurrent, context);
  TRY(cuMemAlloc_v2, &at, bytes);
  TRY(cuMemsetD8Async, at, 0, bytes, stream);
  TRY(cuStreamSynchronize, stream);
  return "";
}
napi_value allocate_(napi_env env, napi_callback_info i) {
  Arguments a(env, i);
  Address at = 0;
  const std::string error = allocate((size_t)a.number(0), at);
  if (!error.empty()) return thrown(env, error);
  napi_value v;
  napi_create_double(env, (double)at, &v);
  return v;
}
std::string free_memory(Address at) {
  TRY(cuCtxSetCurrent, context);
  TRY(cuMemFree_v2, at);
  return "";
}
napi_value free_(napi_env env, napi_callback_info i) {
  Arguments a(env, i);
  const std::string error = free_memory((Address)a.number(0));
  return error.empty() ? nullptr : thrown(env, error);
}
std::string upload(Address to, const void* from, size_t bytes) {
  TRY(cuCtxSetCurrent, context);
  TRY(cuMemcpyHtoD_v2, to, from, bytes);
  return "";
}
napi_value upload_(napi_env env, napi_callback_info i) {
  Arguments a(env, i);
  void* data;
  size_t size;
  if (!a.bytes(1, data, size)) return thrown(env, "upload: no bytes");
  const std::string error = upload((Address)a.number(0), data, size);
  return error.empty() ? nullptr : thrown(env, error);
}
std::string download(void* to, Address from, size_t bytes) {
  TRY(cuCtxSetCurrent, context);
  TRY(cuMemcpyDtoH_v2, to, from, bytes);
  return "";
}
napi_value download_(napi_env env, napi_callback_info i) {
  Arguments a(env, i);
  void* data;
  size_t size;
  if (!a.bytes(1, data, size)) return thrown(env, "download: no bytes");
  const std::string error = download(data, (Address)a.number(0), size);
  return error.empty() ? nullptr : thrown(env, error);
}
std::string memory_left(size_t& left) {
  size_t all;
  TRY(cuCtxSetCurrent, context);
  TRY(cuMemGetInfo_v2, &left, &all);
  return "";
}
napi_value memory_left_(napi_env env, napi_callback_info) {
  size_t left = 0;
  const std::string error = memory_left(left);
  if (!error.empty()) return thrown(env, error);
  napi_value v;
  napi_create_double(env, (double)left, &v);
  return v;
}

void free_host(napi_env, void* data, void*) {
  if (!stuck && driver.cuCtxSetCurrent(context) == 0) driver.cuMemFreeHost(data);
}
std::string host(size_t bytes, void*& at) {
  TRY(cuCtxSetCurrent, context);
  // Portable and mapped: kernels write results there themselves.
  TRY(cuMemHostAlloc, &at, bytes, 3);
  return "";
}
/** {address, memory}: memory of this machine that the device reads and writes; freed when nobody holds it any more. */
napi_value host_(napi_env env, napi_callback_info i) {
  Arguments a(env, i);
  void* at = nullptr;
  const size_t bytes = (size_t)a.number(0);
  const std::string error = host(bytes, at);
  if (!error.empty()) return thrown(env, error);
  std::memset(at, 0, bytes);
  napi_value object, memory;
  napi_create_object(env, &object);
  if (napi_create_external_arraybuffer(env, at, bytes, free_host, nullptr, &memory) != napi_ok) {
    free_host(env, at, nullptr);
    return thrown(env, "host: this runtime takes no memory from outside");
  }
  napi_set_named_property(env, object, "memory", memory);
  set(env, object, "address", (double)(uintptr_t)at);
  return object;
}

napi_value perform_(napi_env env, napi_callback_info i) {
  Arguments a(env, i);
  void* data;
  size_t size;
  if (!a.bytes(0, data, size)) return thrown(env, "perform: no numbers");
  const double* numbers = (const double*)data;
  bool here = false;
  napi_get_value_bool(env, a.values[1], &here);
  const double limit = a.number(2);
  std::vector<double> work(numbers, numbers + size / 8);
  if (here) {
    const std::string error = perform(work, limit);
    return error.empty() ? nullptr : thrown(env, error);
  }
  return later(env, [work = std::move(work), limit] { return perform(work, limit); });
}

napi_value init(napi_env env, napi_value exports) {
  const std::pair<const char*, napi_callback> all[] = {
      {"probe", probe_},     {"start", start_},       {"allocate", allocate_},      {"free", free_},       {"upload", upload_},
      {"download", download_}, {"memoryLeft", memory_left_}, {"host", host_}, {"perform", perform_},
  };
  for (const auto& [name, callback] : all) {
    napi_value f;
    napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &f);
    napi_set_named_property(env, exports, name, f);
  }
  return exports;
}

}  // namespace

NAPI_MODULE(NODE_GYP_MODULE_NAME, init)
