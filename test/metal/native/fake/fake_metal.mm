// A Metal device for Linux: takes the addon's calls, holds them to Metal's limits, and runs dispatches in the grid
// emulator. What Metal's validation layer would stop, and much that it would not, becomes an error of the command buffer.
//
// Controls and figures go through the environment, where Node sees them in process.env:
//   FAKE_METAL_SCHEDULE     order of threads (see emulator.h), default 3
//   FAKE_METAL_FAULT        the number of a fault that planted-faults.test.ts put into the kernels: it is there
//   FAKE_METAL_MAX_THREADS  maxTotalThreadsPerThreadgroup of every pipeline, default 1024
//   FAKE_METAL_BUFFER_LIMIT maxBufferLength
//   FAKE_METAL_FAIL         when "1", the next command buffer fails as a lost GPU would
//   FAKE_METAL_FAMILY       when "old", the device is no Apple7
//   FAKE_METAL_FIGURES      written: live buffers, their bytes, command buffers and dispatches so far, bytes of weights
//                           and of the KV cache that kernels loaded, threadgroups that stored nothing, scheduler
//                           switches
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <string>

#include "../emulator/emulator.h"

extern const emu::Kernel emu_kernels[];
extern const int emu_kernel_count;
extern const unsigned long long emu_source_hash;
/** The kernel-text line -> "file:line" table. */
extern std::string emu_place(const std::string& message);

namespace {

constexpr NSUInteger THREADGROUP_BYTES = 32768;
constexpr NSUInteger SET_BYTES_LIMIT = 4096;

struct Figures {
  long buffers = 0, bytes = 0, command_buffers = 0, dispatches = 0, weight_bytes = 0, cache_bytes = 0;
} figures;

void publish() {
  const std::string text = "buffers=" + std::to_string(figures.buffers) + " bytes=" + std::to_string(figures.bytes) +
                           " commandBuffers=" + std::to_string(figures.command_buffers) +
                           " dispatches=" + std::to_string(figures.dispatches) +
                           " weightBytes=" + std::to_string(figures.weight_bytes) +
                           " cacheBytes=" + std::to_string(figures.cache_bytes) + " idleGroups=" + std::to_string(emu::idle_groups) + " switches=" + std::to_string(emu::switches);
  setenv("FAKE_METAL_FIGURES", text.c_str(), 1);
}

unsigned long setting(const char* name, unsigned long otherwise) {
  const char* text = getenv(name);
  return text == nullptr || *text == 0 ? otherwise : strtoul(text, nullptr, 10);
}

unsigned long long hash_of(const char* text) {
  unsigned long long h = 14695981039346656037ull;
  for (; *text; ++text) h = (h ^ static_cast<unsigned char>(*text)) * 1099511628211ull;
  return h;
}

NSError* error_of(const std::string& what) {
  return [NSError errorWithDomain:@"FakeMetal"
                             code:1
                         userInfo:@{NSLocalizedDescriptionKey : [NSString stringWithUTF8String:what.c_str()]}];
}

}  // namespace

@implementation MTLCompileOptions
@synthesize fastMathEnabled = fastMathEnabled;
- (id)init {
  self = [super init];
  fastMathEnabled = YES;  // as Metal's default
  return self;
}
@end

@interface FakeFunction : NSObject <MTLFunction> {
 @public
  const emu::Kernel* kernel;
}
@end
@implementation FakeFunction
@end

@interface FakePipeline : NSObject <MTLComputePipelineState> {
 @public
  const emu::Kernel* kernel;
}
@end
@implementation FakePipeline
- (NSUInteger)maxTotalThreadsPerThreadgroup { return setting("FAKE_METAL_MAX_THREADS", 1024); }
- (NSUInteger)threadExecutionWidth { return 32; }
- (NSUInteger)staticThreadgroupMemoryLength { return kernel->threadgroup_bytes; }
@end

@interface FakeBuffer : NSObject <MTLBuffer> {
 @public
  emu::Memory memory;
  BOOL owned;
}
@end
@implementation FakeBuffer
- (void*)contents { return memory.data; }
- (NSUInteger)length { return memory.size; }
- (void)dealloc {
  figures.buffers -= 1;
  figures.bytes -= long(memory.size);
  publish();
  if (owned) free(memory.data);
  [super dealloc];
}
@end

@interface FakeLibrary : NSObject <MTLLibrary>
@end
@implementation FakeLibrary
- (id<MTLFunction>)newFunctionWithName:(NSString*)name {
  for (int i = 0; i < emu_kernel_count; ++i) {
    if (strcmp(emu_kernels[i].name, [name UTF8String]) != 0) continue;
    FakeFunction* function = [FakeFunction new];
    function->kernel = &emu_kernels[i];
    return function;
  }
  return nil;
}
@end

@interface FakeCommands : NSObject <MTLCommandBuffer> {
 @public
  std::string fault;
  int encoders;
  BOOL encoding, committed;
  MTLCommandBufferStatus status;
  uint64_t switches;
}
- (void)stop:(const std::string&)what;
@end

@interface FakeEncoder : NSObject <MTLComputeCommandEncoder> {
 @public
  FakeCommands* commands;
  FakePipeline* pipeline;
  FakeBuffer* buffers[31];
  std::unique_ptr<emu::Memory> structs[31];
  std::string struct_bytes[31];
  emu::Binding bindings[31];
}
@end
@implementation FakeEncoder
- (void)dealloc {
  for (FakeBuffer* buffer : buffers) [buffer release];
  [pipeline release];
  [super dealloc];
}
- (void)setComputePipelineState:(id<MTLComputePipelineState>)state {
  [state retain];
  [pipeline release];
  pipeline = (FakePipeline*)state;
}
- (void)setBuffer:(id<MTLBuffer>)buffer offset:(NSUInteger)offset atIndex:(NSUInteger)index {
  FakeBuffer* fake = (FakeBuffer*)buffer;
  if (index > 30) return [commands stop:"buffer index " + std::to_string(index)];
  if (fake == nil) return [commands stop:"a nil buffer is bound"];
  if (offset >= fake->memory.size) return [commands stop:"offset past the end of a buffer"];
  if (offset % 4 != 0) return [commands stop:"buffer offset " + std::to_string(offset) + " is no multiple of 4"];
  [fake retain];
  [buffers[index] release];
  buffers[index] = fake;
  structs[index].reset();
  bindings[index] = emu::Binding{&fake->memory, offset};
}
- (void)setBytes:(const void*)bytes length:(NSUInteger)length atIndex:(NSUInteger)index {
  if (index > 30) return [commands stop:"buffer index " + std::to_string(index)];
  if (length == 0 || length > SET_BYTES_LIMIT) return [commands stop:"setBytes of " + std::to_string(length) + " bytes"];
  [buffers[index] release];
  buffers[index] = nil;
  struct_bytes[index].assign((const char*)bytes, length);
  structs[index] = std::make_unique<emu::Memory>();
  structs[index]->data = (unsigned char*)struct_bytes[index].data();
  structs[index]->size = length;
  bindings[index] = emu::Binding{structs[index].get(), 0};
}
- (void)dispatchThreadgroups:(MTLSize)groups threadsPerThreadgroup:(MTLSize)threads {
  figures.dispatches += 1;
  if (!commands->fault.empty()) return;  // the first fault is the one to report
  if (pipeline == nil) return [commands stop:"dispatch without a pipeline"];
  const emu::Kernel& kernel = *pipeline->kernel;
  const std::string name = kernel.name;
  const NSUInteger count = threads.width * threads.height * threads.depth;
  if (threads.height != 1 || threads.depth != 1) return [commands stop:name + ": threadgroups here are one-dimensional"];
  if (count == 0 || count % 32 != 0 || count > [pipeline maxTotalThreadsPerThreadgroup]) {
    return [commands stop:name + ": " + std::to_string(count) + " threads per threadgroup"];
  }
  if (groups.width * groups.height * groups.depth == 0) return [commands stop:name + ": an empty grid"];
  if (kernel.threadgroup_bytes > THREADGROUP_BYTES) {
    return [commands stop:name + ": " + std::to_string(kernel.threadgroup_bytes) + " bytes of threadgroup memory"];
  }
  for (int i = 0; i < kernel.parameter_count; ++i) {
    const emu::Parameter& p = kernel.parameters[i];
    const emu::Binding& b = bindings[p.index];
    const std::string at = name + ": argument " + p.name + " (" + std::to_string(p.index) + ")";
    if (b.memory == nullptr) return [commands stop:at + " is not bound"];
    if (p.constant != (structs[p.index] != nullptr)) return [commands stop:at + (p.constant ? " takes a struct" : " takes a buffer")];
    if (p.constant && structs[p.index]->size != p.element) {
      return [commands stop:at + " has " + std::to_string(p.element) + " bytes, " + std::to_string(structs[p.index]->size) + " are bound"];
    }
    b.memory->loaded = 0;
    b.memory->name = std::string(p.name) + " (" + std::to_string(p.index) + ")";
  }
  for (int i = 0; i < kernel.parameter_count; ++i) {
    const emu::Parameter& p = kernel.parameters[i];
    if (!p.writable) continue;
    emu::Memory* memory = bindings[p.index].memory;
    memory->tracked = true;
    memory->traces.resize(memory->size / 2 + 1);
  }
  const std::string what = emu::dispatch(kernel, bindings, metal::uint3(unsigned(groups.width), unsigned(groups.height), unsigned(groups.depth)),
                                         unsigned(count), unsigned(setting("FAKE_METAL_SCHEDULE", 3)));
  for (FakeBuffer* buffer : buffers) if (buffer != nil) buffer->memory.tracked = false;
  if (!what.empty()) return [commands stop:emu_place(what)];
  for (int i = 0; i < kernel.parameter_count; ++i) {
    const emu::Parameter& p = kernel.parameters[i];
    emu::Memory* memory = bindings[p.index].memory;
    const std::string argument = p.name;
    const bool weight = argument == "weight" || argument == "table" || argument == "row_scale" || argument[0] == 'w' ||
                        (argument.rfind("scales", 0) == 0 && argument.size() == 7);  // scales0, scales1, scales2
    // `table` is the embedding in embed_*, and the block table elsewhere.
    if (weight && (argument != "table" || name.rfind("embed", 0) == 0)) figures.weight_bytes += long(memory->loaded);
    if (argument == "cache") figures.cache_bytes += long(memory->loaded);
    memory->loaded = 0;  // a buffer bound twice counts once
  }
  // Nothing may rely on what an earlier dispatch left bound.
  for (int i = 0; i < 31; ++i) {
    [buffers[i] release];
    buffers[i] = nil;
    structs[i].reset();
    bindings[i] = emu::Binding{};
  }
}
- (void)endEncoding { commands->encoding = NO; }
@end

@implementation FakeCommands
- (void)stop:(const std::string&)what {
  if (fault.empty()) fault = what;
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoder {
  if (encoding || committed) [self stop:"a second encoder while one is open, or after commit"];
  encoding = YES;
  FakeEncoder* encoder = [[FakeEncoder new] autorelease];
  encoder->commands = self;
  switches = emu::switches;
  return encoder;
}
- (void)commit {
  if (encoding) [self stop:"commit before endEncoding"];
  if (committed) [self stop:"committed twice"];
  committed = YES;
  figures.command_buffers += 1;
  if (setting("FAKE_METAL_FAIL", 0) == 1) {
    setenv("FAKE_METAL_FAIL", "0", 1);
    [self stop:"the GPU was lost (asked for by FAKE_METAL_FAIL)"];
  }
  status = fault.empty() ? MTLCommandBufferStatusCompleted : MTLCommandBufferStatusError;
  publish();
}
- (void)waitUntilCompleted {
  if (!committed) [self stop:"waited for a command buffer that was never committed"];
}
- (MTLCommandBufferStatus)status { return status; }
- (NSError*)error { return fault.empty() ? nil : error_of(fault); }
- (double)GPUStartTime { return 0; }
// Deterministic: the tuner's tests need times that follow the work done.
- (double)GPUEndTime { return double(emu::switches - switches) * 1e-8; }
@end

@interface FakeQueue : NSObject <MTLCommandQueue>
@end
@implementation FakeQueue
- (id<MTLCommandBuffer>)commandBuffer { return [[FakeCommands new] autorelease]; }
@end

@interface FakeDevice : NSObject <MTLDevice>
@end
@implementation FakeDevice
- (NSString*)name { return @"Fake Metal (grid emulator)"; }
- (BOOL)supportsFamily:(MTLGPUFamily)family {
  const char* text = getenv("FAKE_METAL_FAMILY");
  return text == nullptr || strcmp(text, "old") != 0;
}
- (NSUInteger)maxBufferLength { return setting("FAKE_METAL_BUFFER_LIMIT", 1ul << 32); }
- (uint64_t)recommendedMaxWorkingSetSize { return 1ull << 33; }
- (id<MTLCommandQueue>)newCommandQueue { return [FakeQueue new]; }
- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)length options:(MTLResourceOptions)options {
  void* pages = nullptr;
  if (posix_memalign(&pages, size_t(sysconf(_SC_PAGESIZE)), length) != 0) return nil;
  memset(pages, 0xff, length);  // NaN: what nobody wrote must not look like a number
  FakeBuffer* buffer = [FakeBuffer new];
  buffer->memory.data = (unsigned char*)pages;
  buffer->memory.size = length;
  buffer->owned = YES;
  figures.buffers += 1;
  figures.bytes += long(length);
  publish();
  return buffer;
}
- (id<MTLBuffer>)newBufferWithBytesNoCopy:(void*)pointer
                                   length:(NSUInteger)length
                                  options:(MTLResourceOptions)options
                              deallocator:(void (^)(void*, NSUInteger))deallocator {
  const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
  if (uintptr_t(pointer) % page != 0 || length % page != 0 || length == 0) return nil;
  FakeBuffer* buffer = [FakeBuffer new];
  buffer->memory.data = (unsigned char*)pointer;
  buffer->memory.size = length;
  buffer->owned = NO;
  figures.buffers += 1;
  figures.bytes += long(length);
  publish();
  return buffer;
}
- (id<MTLLibrary>)newLibraryWithSource:(NSString*)source options:(MTLCompileOptions*)options error:(NSError**)error {
  if ([options fastMathEnabled]) {
    *error = error_of("fast math would lose NaN");
    return nil;
  }
  if (hash_of([source UTF8String]) != emu_source_hash) {
    *error = error_of("the emulator was built from other kernels than these");
    return nil;
  }
  return [FakeLibrary new];
}
- (id<MTLComputePipelineState>)newComputePipelineStateWithFunction:(id<MTLFunction>)function error:(NSError**)error {
  const emu::Kernel* kernel = ((FakeFunction*)function)->kernel;
  if (kernel->threadgroup_bytes > THREADGROUP_BYTES) {
    *error = error_of(std::string(kernel->name) + " has " + std::to_string(kernel->threadgroup_bytes) + " bytes of threadgroup memory");
    return nil;
  }
  FakePipeline* pipeline = [FakePipeline new];
  pipeline->kernel = kernel;
  return pipeline;
}
@end

extern "C" id<MTLDevice> MTLCreateSystemDefaultDevice(void) { return [FakeDevice new]; }
