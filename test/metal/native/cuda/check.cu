// Replays recorded steps of the Metal kernels on an NVIDIA GPU and compares what they leave in memory with the record.
//   check RECORDING...         exit 1 when a result is out of tolerance
//   check --speed              bandwidth of the ternary kernels at the shapes of 2B-4T
// A recording (scripts/metal-cuda-check.mjs writes it) holds buffers as they were before a step, the step's tape, and the
// buffers to compare afterwards with the allowed difference. 32-bit little-endian words:
//   'MTLR', buffers, then per buffer: bytes, contents (padded to 4)
//   words of the tape, the tape: kernel, grid x y z, threads, bindings, (index, 0, buffer, offset | index, 1, n, words...)
//   comparisons, then per comparison: buffer, floats (0: compare words), first, count, tolerance (float), expected words
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels.cuh"

#define CUDA(call)                                                                            \
  do {                                                                                        \
    const cudaError_t status = (call);                                                        \
    if (status != cudaSuccess) {                                                              \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(status)); \
      exit(2);                                                                                \
    }                                                                                         \
  } while (0)

static std::vector<uint32_t> read_words(const char* path) {
  FILE* file = fopen(path, "rb");
  if (file == nullptr) { fprintf(stderr, "cannot read %s\n", path); exit(2); }
  fseek(file, 0, SEEK_END);
  std::vector<uint32_t> words(size_t(ftell(file)) / 4);
  rewind(file);
  if (fread(words.data(), 4, words.size(), file) != words.size()) exit(2);
  fclose(file);
  return words;
}

static bool replay(const char* path) {
  const std::vector<uint32_t> words = read_words(path);
  const uint32_t* p = words.data();
  if (words.size() < 2 || p[0] != 0x524c544du) { fprintf(stderr, "%s is no recording\n", path); exit(2); }
  const uint32_t buffer_count = p[1];
  p += 2;
  std::vector<char*> buffers(buffer_count);
  std::vector<size_t> sizes(buffer_count);
  for (uint32_t i = 0; i < buffer_count; ++i) {
    sizes[i] = *p++;
    CUDA(cudaMalloc(&buffers[i], sizes[i] + 256));
    CUDA(cudaMemcpy(buffers[i], p, sizes[i], cudaMemcpyHostToDevice));
    p += (sizes[i] + 3) / 4;
  }
  const uint32_t* end = p + 1 + *p;
  ++p;
  int dispatches = 0;
  while (p < end) {
    const uint32_t kernel = p[0], threads = p[4], bindings = p[5];
    const dim3 grid(p[1], p[2], p[3]);
    p += 6;
    void* pointers[31] = {};
    for (uint32_t i = 0; i < bindings; ++i) {
      if (p[1] == 1) {
        pointers[p[0]] = (void*)(p + 3);
        p += 3 + p[2];
      } else {
        pointers[p[0]] = buffers[p[2]] + p[3];
        p += 4;
      }
    }
    launch(kernel, grid, threads, pointers);
    CUDA(cudaGetLastError());
    ++dispatches;
  }
  CUDA(cudaDeviceSynchronize());
  const uint32_t comparisons = *p++;
  bool good = true;
  double worst_share = 0;
  size_t compared = 0;
  for (uint32_t c = 0; c < comparisons; ++c) {
    const uint32_t buffer = p[0], floats = p[1], first = p[2], count = p[3];
    float tolerance;
    memcpy(&tolerance, p + 4, 4);
    p += 5;
    std::vector<uint32_t> actual(count);
    CUDA(cudaMemcpy(actual.data(), buffers[buffer] + size_t(first) * 4, size_t(count) * 4, cudaMemcpyDeviceToHost));
    for (uint32_t i = 0; i < count; ++i) {
      ++compared;
      if (!floats || tolerance == 0) {
        if (actual[i] != p[i]) {
          if (good) printf("  word %u of comparison %u: %08x, expected %08x\n", i, c, actual[i], p[i]);
          good = false;
        }
        continue;
      }
      float a, e;
      memcpy(&a, &actual[i], 4);
      memcpy(&e, &p[i], 4);
      const double error = fabs(double(a) - double(e));
      if (!(error <= tolerance)) {
        if (good) printf("  float %u of comparison %u: %g, expected %g (tolerance %g)\n", i, c, a, e, tolerance);
        good = false;
      }
      if (error / tolerance > worst_share) worst_share = error / tolerance;
    }
    p += count;
  }
  for (char* buffer : buffers) CUDA(cudaFree(buffer));
  const char* name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
  printf("%-44s %4d dispatches, %7zu values, worst %.2g of tolerance: %s\n", name, dispatches, compared, worst_share, good ? "ok" : "FAILED");
  return good;
}

// Weights are read from 1 GiB of copies in turn, so that no cache holds them. On a GPU that is not Apple's this says
// nothing about Apple's; it shows that the access pattern can be streamed.
static void speed() {
  const struct { const char* name; uint32_t rows, columns; } shapes[] = {
      {"q, k, v of 2B-4T", 3840, 2560}, {"gate, up", 13824, 2560}, {"down", 2560, 6912}, {"o", 2560, 2560}};
  const char* kernels[] = {"ternary_gemv", "ternary_gemv_q2", "ternary_gemv_mask", "ternary_gemv_mask_q2", "ternary_gemv_splitk"};
  for (const auto& shape : shapes) {
    const uint32_t quads = shape.rows / 4, groups = shape.columns / 16;
    const size_t bytes = size_t(quads) * shape.columns;
    const int copies = int((size_t(1) << 30) / bytes);
    char *w, *codes, *scales, *out;
    CUDA(cudaMalloc(&w, bytes * copies));
    CUDA(cudaMemset(w, 0x55, bytes * copies));
    CUDA(cudaMalloc(&codes, shape.columns * 2));
    CUDA(cudaMemset(codes, 0, shape.columns * 2));
    const float scale[2] = {1, 0};
    CUDA(cudaMalloc(&scales, 8));
    CUDA(cudaMemcpy(scales, scale, 8, cudaMemcpyHostToDevice));
    CUDA(cudaMalloc(&out, shape.rows * 4));
    for (const char* kernel : kernels) {
      const bool split = strstr(kernel, "splitk") != nullptr;
      const uint32_t per = strstr(kernel, "_q2") ? 2 : 1;
      for (uint32_t simdgroups : {2u, 4u, 8u}) {
        const uint32_t tiles = split ? quads : (quads + per * simdgroups - 1) / (per * simdgroups);
        TernaryArgs a = {};
        a.groups = groups;
        a.tokens = 1;
        a.out_stride0 = a.out_stride1 = a.out_stride2 = shape.rows;
        a.rows0 = shape.rows;
        a.quads0 = quads;
        a.tiles0 = tiles;
        a.scale0 = 1;
        cudaEvent_t from, to;
        CUDA(cudaEventCreate(&from));
        CUDA(cudaEventCreate(&to));
        const int rounds = 3 * copies;
        for (int i = 0; i < rounds + 1; ++i) {
          if (i == 1) CUDA(cudaEventRecord(from));
          char* at = w + bytes * size_t(i % copies);
          void* pointers[31] = {at, at, at, codes, scales, out, out, out, &a};
          launch(kernel_index(kernel), dim3(tiles, 1, 1), simdgroups * 32, pointers);
        }
        CUDA(cudaEventRecord(to));
        CUDA(cudaEventSynchronize(to));
        float ms = 0;
        CUDA(cudaEventElapsedTime(&ms, from, to));
        printf("%-18s %-22s %u simdgroups: %7.2f us, %6.0f GB/s\n", shape.name, kernel, simdgroups, ms * 1e3 / rounds, bytes / (ms * 1e6 / rounds));
      }
    }
    CUDA(cudaFree(w));
    CUDA(cudaFree(codes));
    CUDA(cudaFree(scales));
    CUDA(cudaFree(out));
  }
}

int main(int argc, char** argv) {
  cudaDeviceProp device;
  CUDA(cudaGetDeviceProperties(&device, 0));
  printf("%s\n", device.name);
  bool good = true;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--speed") speed();
    else good &= replay(argv[i]);
  }
  printf("%s\n", good ? "PASS" : "FAILED");
  return good ? 0 : 1;
}
