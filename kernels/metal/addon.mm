// The Node-API addon for Metal: device, library, pipelines, buffers, and one call that runs a whole step as one command
// buffer. It knows no model and no kernel by name; TypeScript (src/engine/metal) owns the graph and hands over a tape.
//
//   open(source)      -> {name, maxBufferLength, workingSet}      compiles the kernels; once per process
//   pipeline(name)    -> {id, maxThreads, threadgroupBytes}
//   allocate(bytes)   -> {id, memory}                             shared memory; `memory` is an ArrayBuffer over it
//   wrap(Uint8Array)  -> {id, offset} or undefined                the caller's own pages as a buffer, without a copy
//   release(id)
//   run(Uint32Array)  -> Promise<seconds on the GPU>
//
// Tape, in 32-bit words, one record per dispatch: pipeline, groups x, y, z, threads, number of bindings, then per binding
//   index, 0, buffer id, byte offset          a buffer
//   index, 1, number of words, words...       an argument struct, copied (setBytes)
//
// Memory is managed by hand (no ARC), so that the file also builds against GNUstep. `new...` methods give an owned
// reference; everything autoreleased lives in the pool of the call that made it.
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>
#include <node_api.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

constexpr size_t MAX_BYTES_ARGUMENT = 4096;  // setBytes takes no more
constexpr uint32_t MAX_BINDING = 30;

/** An owned Objective-C reference. */
template <class T> class Owned {
 public:
  Owned() = default;
  explicit Owned(T owned) : object_(owned) {}
  Owned(const Owned& other) : object_([other.object_ retain]) {}
  Owned(Owned&& other) noexcept : object_(other.object_) { other.object_ = nil; }
  Owned& operator=(Owned other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Owned() { [object_ release]; }
  T get() const { return object_; }
  explicit operator bool() const { return object_ != nil; }

 private:
  T object_ = nil;
};

struct Buffer {
  Owned<id<MTLBuffer>> metal;
  /** Keeps the JavaScript memory of a wrapped buffer alive. */
  napi_ref wrapped = nullptr;
};

struct State {
  Owned<id<MTLDevice>> device;
  Owned<id<MTLCommandQueue>> queue;
  Owned<id<MTLLibrary>> library;
  std::string source;
  std::vector<Owned<id<MTLComputePipelineState>>> pipelines;
  std::map<std::string, uint32_t> pipeline_ids;
  std::map<uint32_t, Buffer> buffers;
  uint32_t next_buffer = 1;
};

State* state_of(napi_env env) {
  void* state = nullptr;
  napi_get_instance_data(env, &state);
  return static_cast<State*>(state);
}

napi_value fail(napi_env env, const std::string& what, NSError* error = nil) {
  std::string message = what;
  if (error != nil) message += std::string(": ") + [[error localizedDescription] UTF8String];
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (!pending) napi_throw_error(env, "ERR_METAL", message.c_str());
  return nullptr;
}

#define CHECK(call) \
  do { \
    if ((call) != napi_ok) return fail(env, "Node-API refused " #call); \
  } while (0)

bool argument(napi_env env, napi_callback_info info, napi_value* value) {
  size_t count = 1;
  return napi_get_cb_info(env, info, &count, value, nullptr, nullptr) == napi_ok && count == 1;
}

bool string_argument(napi_env env, napi_callback_info info, std::string* text) {
  napi_value value;
  size_t length = 0;
  if (!argument(env, info, &value)) return false;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &length) != napi_ok) return false;
  text->resize(length + 1);
  if (napi_get_value_string_utf8(env, value, &(*text)[0], length + 1, &length) != napi_ok) return false;
  text->resize(length);
  return true;
}

bool set_number(napi_env env, napi_value object, const char* name, double number) {
  napi_value value;
  return napi_create_double(env, number, &value) == napi_ok &&
         napi_set_named_property(env, object, name, value) == napi_ok;
}

// A GPU of Apple's seventh family (M1) or later: 8x8 matrix units, simdgroups of 32.
napi_value Open(napi_env env, napi_callback_info info) {
  @autoreleasepool {
    State* state = state_of(env);
    std::string source;
    if (!string_argument(env, info, &source)) return fail(env, "open(source) needs the kernels' text");
    if (!state->library || state->source != source) {
      Owned<id<MTLDevice>> device(MTLCreateSystemDefaultDevice());
      if (!device) return fail(env, "this machine has no Metal device");
      if (![device.get() supportsFamily:MTLGPUFamilyApple7]) {
        return fail(env, std::string("the GPU ") + [[device.get() name] UTF8String] + " is older than Apple's M1");
      }
      Owned<MTLCompileOptions*> options([[MTLCompileOptions alloc] init]);
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wdeprecated-declarations"
      // Fast math assumes that no NaN exists, and a NaN is how broken weights show themselves. (`mathMode` replaces this
      // property only from macOS 15 on.)
      [options.get() setFastMathEnabled:NO];
#pragma clang diagnostic pop
      NSError* error = nil;
      NSString* text = [[[NSString alloc] initWithBytes:source.data()
                                                 length:source.size()
                                               encoding:NSUTF8StringEncoding] autorelease];
      Owned<id<MTLLibrary>> library([device.get() newLibraryWithSource:text options:options.get() error:&error]);
      if (!library) return fail(env, "the kernels do not compile", error);
      Owned<id<MTLCommandQueue>> queue([device.get() newCommandQueue]);
      if (!queue) return fail(env, "the device gives no command queue");
      state->pipelines.clear();
      state->pipeline_ids.clear();
      state->device = device;
      state->queue = queue;
      state->library = library;
      state->source = source;
    }
    id<MTLDevice> device = state->device.get();
    napi_value result, name;
    CHECK(napi_create_object(env, &result));
    CHECK(napi_create_string_utf8(env, [[device name] UTF8String], NAPI_AUTO_LENGTH, &name));
    CHECK(napi_set_named_property(env, result, "name", name));
    if (!set_number(env, result, "maxBufferLength", double([device maxBufferLength]))) return fail(env, "open");
    if (!set_number(env, result, "workingSet", double([device recommendedMaxWorkingSetSize]))) return fail(env, "open");
    return result;
  }
}

napi_value Pipeline(napi_env env, napi_callback_info info) {
  @autoreleasepool {
    State* state = state_of(env);
    std::string name;
    if (!string_argument(env, info, &name)) return fail(env, "pipeline(name) needs a kernel's name");
    if (!state->library) return fail(env, "pipeline before open");
    auto found = state->pipeline_ids.find(name);
    if (found == state->pipeline_ids.end()) {
      Owned<id<MTLFunction>> function(
          [state->library.get() newFunctionWithName:[NSString stringWithUTF8String:name.c_str()]]);
      if (!function) return fail(env, "there is no kernel " + name);
      NSError* error = nil;
      Owned<id<MTLComputePipelineState>> pipeline(
          [state->device.get() newComputePipelineStateWithFunction:function.get() error:&error]);
      if (!pipeline) return fail(env, "no pipeline for kernel " + name, error);
      if ([pipeline.get() threadExecutionWidth] != 32) return fail(env, "simdgroups of this GPU are not 32 wide");
      found = state->pipeline_ids.emplace(name, uint32_t(state->pipelines.size())).first;
      state->pipelines.push_back(pipeline);
    }
    id<MTLComputePipelineState> pipeline = state->pipelines[found->second].get();
    napi_value result;
    CHECK(napi_create_object(env, &result));
    if (!set_number(env, result, "id", found->second) ||
        !set_number(env, result, "maxThreads", double([pipeline maxTotalThreadsPerThreadgroup])) ||
        !set_number(env, result, "threadgroupBytes", double([pipeline staticThreadgroupMemoryLength]))) {
      return fail(env, "pipeline");
    }
    return result;
  }
}

void release_memory(napi_env, void*, void* buffer) { [static_cast<id<MTLBuffer>>(buffer) release]; }

napi_value Allocate(napi_env env, napi_callback_info info) {
  @autoreleasepool {
    State* state = state_of(env);
    napi_value value, result, memory;
    int64_t bytes = 0;
    if (!argument(env, info, &value) || napi_get_value_int64(env, value, &bytes) != napi_ok || bytes <= 0) {
      return fail(env, "allocate(bytes) needs a positive number");
    }
    if (!state->device) return fail(env, "allocate before open");
    if (uint64_t(bytes) > [state->device.get() maxBufferLength]) {
      return fail(env, std::to_string(bytes) + " bytes are more than one Metal buffer may have (" +
                           std::to_string([state->device.get() maxBufferLength]) + ")");
    }
    Owned<id<MTLBuffer>> buffer([state->device.get() newBufferWithLength:NSUInteger(bytes)
                                                                 options:MTLResourceStorageModeShared]);
    if (!buffer) return fail(env, "Metal gives no buffer of " + std::to_string(bytes) + " bytes");
    // The ArrayBuffer holds a reference of its own: JavaScript may look at it after release(id).
    id<MTLBuffer> held = [buffer.get() retain];
    if (napi_create_external_arraybuffer(env, [held contents], size_t(bytes), release_memory, held, &memory) != napi_ok) {
      [held release];
      return fail(env, "this runtime forbids external array buffers");
    }
    const uint32_t id = state->next_buffer++;
    state->buffers[id].metal = buffer;
    CHECK(napi_create_object(env, &result));
    CHECK(napi_set_named_property(env, result, "memory", memory));
    if (!set_number(env, result, "id", id)) return fail(env, "allocate");
    return result;
  }
}

// Metal wants whole pages, so the buffer covers the pages around the bytes, as far as they belong to the same
// ArrayBuffer; `offset` leads back to the bytes.
napi_value Wrap(napi_env env, napi_callback_info info) {
  @autoreleasepool {
    State* state = state_of(env);
    napi_value value, array_buffer, result, nothing;
    napi_typedarray_type type;
    size_t length = 0, whole_length = 0, byte_offset = 0;
    void* data = nullptr;
    void* whole = nullptr;
    CHECK(napi_get_undefined(env, &nothing));
    if (!argument(env, info, &value) ||
        napi_get_typedarray_info(env, value, &type, &length, &data, &array_buffer, &byte_offset) != napi_ok ||
        (type != napi_uint8_array && type != napi_int8_array)) {
      return fail(env, "wrap(bytes) needs a Uint8Array or Int8Array");
    }
    if (!state->device) return fail(env, "wrap before open");
    bool is_array_buffer = false;
    CHECK(napi_is_arraybuffer(env, array_buffer, &is_array_buffer));
    if (length == 0 || !is_array_buffer) return nothing;
    CHECK(napi_get_arraybuffer_info(env, array_buffer, &whole, &whole_length));
    const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
    const uintptr_t from = uintptr_t(data) / page * page;
    const uintptr_t to = (uintptr_t(data) + length + page - 1) / page * page;
    const bool inside = from >= uintptr_t(whole) && to <= uintptr_t(whole) + whole_length;
    if (!inside || (uintptr_t(data) - from) % 16 != 0 || to - from > [state->device.get() maxBufferLength]) return nothing;
    Buffer buffer;
    buffer.metal = Owned<id<MTLBuffer>>([state->device.get() newBufferWithBytesNoCopy:reinterpret_cast<void*>(from)
                                                                              length:NSUInteger(to - from)
                                                                             options:MTLResourceStorageModeShared
                                                                         deallocator:nil]);
    if (!buffer.metal) return nothing;
    CHECK(napi_create_reference(env, array_buffer, 1, &buffer.wrapped));
    const uint32_t id = state->next_buffer++;
    state->buffers[id] = buffer;
    CHECK(napi_create_object(env, &result));
    if (!set_number(env, result, "id", id) || !set_number(env, result, "offset", double(uintptr_t(data) - from))) {
      return fail(env, "wrap");
    }
    return result;
  }
}

napi_value Release(napi_env env, napi_callback_info info) {
  @autoreleasepool {
    State* state = state_of(env);
    napi_value value;
    uint32_t id = 0;
    if (!argument(env, info, &value) || napi_get_value_uint32(env, value, &id) != napi_ok) {
      return fail(env, "release(id) needs a buffer's id");
    }
    auto found = state->buffers.find(id);
    if (found == state->buffers.end()) return fail(env, "there is no buffer " + std::to_string(id));
    if (found->second.wrapped != nullptr) napi_delete_reference(env, found->second.wrapped);
    state->buffers.erase(found);
    return nullptr;
  }
}

struct Binding {
  uint32_t index;
  bool constant;
  Owned<id<MTLBuffer>> buffer;
  uint32_t offset;
  std::vector<uint32_t> words;
};
struct Dispatch {
  Owned<id<MTLComputePipelineState>> pipeline;
  MTLSize groups, threads;
  std::vector<Binding> bindings;
};
/** A step on its way: holds what it uses, so that a release meanwhile is harmless. */
struct Run {
  Owned<id<MTLCommandQueue>> queue;
  std::vector<Dispatch> dispatches;
  napi_async_work work = nullptr;
  napi_deferred deferred = nullptr;
  std::string error;
  double seconds = 0;
};

/** Checks the tape on the way: a wrong word must be an error here, not a fault on the GPU. Empty when fine. */
std::string read_tape(State* state, const uint32_t* at, const uint32_t* end, Run* run) {
  while (at < end) {
    if (end - at < 6) return "the tape ends inside a dispatch";
    Dispatch d;
    if (at[0] >= state->pipelines.size()) return "the tape names pipeline " + std::to_string(at[0]);
    d.pipeline = state->pipelines[at[0]];
    d.groups = MTLSizeMake(at[1], at[2], at[3]);
    d.threads = MTLSizeMake(at[4], 1, 1);
    if (at[1] == 0 || at[2] == 0 || at[3] == 0) return "a dispatch has an empty grid";
    if (at[4] == 0 || at[4] % 32 != 0 || at[4] > [d.pipeline.get() maxTotalThreadsPerThreadgroup]) {
      return "a dispatch has " + std::to_string(at[4]) + " threads per threadgroup";
    }
    const uint32_t bindings = at[5];
    at += 6;
    for (uint32_t i = 0; i < bindings; ++i) {
      if (end - at < 3) return "the tape ends inside a binding";
      Binding b;
      b.index = at[0];
      b.constant = at[1] == 1;
      b.offset = 0;
      if (b.index > MAX_BINDING) return "binding index " + std::to_string(b.index);
      if (b.constant) {
        const size_t words = at[2];
        at += 3;
        if (words == 0 || words * 4 > MAX_BYTES_ARGUMENT || size_t(end - at) < words) return "an argument struct of bad size";
        b.words.assign(at, at + words);
        at += words;
      } else {
        if (end - at < 4) return "the tape ends inside a binding";
        auto found = state->buffers.find(at[2]);
        if (found == state->buffers.end()) return "the tape names buffer " + std::to_string(at[2]);
        b.buffer = found->second.metal;
        b.offset = at[3];
        if (b.offset >= [b.buffer.get() length]) return "a binding starts past the end of its buffer";
        at += 4;
      }
      d.bindings.push_back(std::move(b));
    }
    run->dispatches.push_back(std::move(d));
  }
  return "";
}

// On a worker thread: encoding and waiting both stay off JavaScript's.
void execute(napi_env, void* data) {
  @autoreleasepool {
    Run* run = static_cast<Run*>(data);
    id<MTLCommandBuffer> commands = [run->queue.get() commandBuffer];
    // A serial encoder orders the dispatches: nearly every one reads what the one before wrote.
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
    if (commands == nil || encoder == nil) {
      run->error = "Metal gives no command buffer";
      return;
    }
    for (const Dispatch& d : run->dispatches) {
      [encoder setComputePipelineState:d.pipeline.get()];
      for (const Binding& b : d.bindings) {
        if (b.constant) {
          [encoder setBytes:b.words.data() length:b.words.size() * 4 atIndex:b.index];
        } else {
          [encoder setBuffer:b.buffer.get() offset:b.offset atIndex:b.index];
        }
      }
      [encoder dispatchThreadgroups:d.groups threadsPerThreadgroup:d.threads];
    }
    [encoder endEncoding];
    [commands commit];
    [commands waitUntilCompleted];
    if ([commands status] != MTLCommandBufferStatusCompleted) {
      NSError* error = [commands error];
      run->error = error == nil ? "the command buffer did not complete" : [[error localizedDescription] UTF8String];
      return;
    }
    run->seconds = [commands GPUEndTime] - [commands GPUStartTime];
  }
}

void complete(napi_env env, napi_status status, void* data) {
  std::unique_ptr<Run> run(static_cast<Run*>(data));
  napi_delete_async_work(env, run->work);
  if (status == napi_ok && run->error.empty()) {
    napi_value seconds;
    napi_create_double(env, run->seconds, &seconds);
    napi_resolve_deferred(env, run->deferred, seconds);
    return;
  }
  const std::string message = run->error.empty() ? "the step was cancelled" : run->error;
  napi_value code, text, error;
  napi_create_string_utf8(env, "ERR_METAL", NAPI_AUTO_LENGTH, &code);
  napi_create_string_utf8(env, message.c_str(), message.size(), &text);
  napi_create_error(env, code, text, &error);
  napi_reject_deferred(env, run->deferred, error);
}

napi_value RunTape(napi_env env, napi_callback_info info) {
  @autoreleasepool {
    State* state = state_of(env);
    napi_value value, promise, name;
    napi_typedarray_type type;
    size_t length = 0;
    void* data = nullptr;
    if (!argument(env, info, &value) ||
        napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr) != napi_ok || type != napi_uint32_array) {
      return fail(env, "run(tape) needs a Uint32Array");
    }
    if (!state->queue) return fail(env, "run before open");
    auto run = std::make_unique<Run>();
    run->queue = state->queue;
    const uint32_t* words = static_cast<const uint32_t*>(data);
    const std::string wrong = read_tape(state, words, words + length, run.get());
    if (!wrong.empty()) return fail(env, wrong);
    CHECK(napi_create_string_utf8(env, "bitnet-gf3:metal", NAPI_AUTO_LENGTH, &name));
    CHECK(napi_create_promise(env, &run->deferred, &promise));
    CHECK(napi_create_async_work(env, nullptr, name, execute, complete, run.get(), &run->work));
    if (napi_queue_async_work(env, run->work) != napi_ok) {
      napi_delete_async_work(env, run->work);
      return fail(env, "Node-API refused to queue the step");
    }
    run.release();  // `complete` owns it now
    return promise;
  }
}

void dispose(napi_env, void* state, void*) {
  @autoreleasepool {
    delete static_cast<State*>(state);
  }
}

}  // namespace

NAPI_MODULE_INIT() {
  auto state = std::make_unique<State>();
  CHECK(napi_set_instance_data(env, state.get(), dispose, nullptr));
  state.release();
  const napi_property_descriptor functions[] = {
      {"open", nullptr, Open, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"pipeline", nullptr, Pipeline, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"allocate", nullptr, Allocate, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"wrap", nullptr, Wrap, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"release", nullptr, Release, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"run", nullptr, RunTape, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
  };
  CHECK(napi_define_properties(env, exports, sizeof functions / sizeof *functions, functions));
  return exports;
}
