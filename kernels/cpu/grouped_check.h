// kernel-selftest: the repacking of group-scaled weights against the layouts' own definitions, element by element, and
// with --golden FOLDER the vectors of test/golden/grouped: products, layouts, merged groups.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "../include/engine.h"
#include "../include/grouped_repack.h"
#include "../include/kernels.h"

namespace bitnet {

struct GroupedCheck {
  std::string text;  // what is wrong
  uint64_t state = 88172645463325252u;

  uint32_t next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
  }
  bool wrong(const std::string& what) {
    text = what;
    return false;
  }

  static int code_of(const std::vector<uint8_t>& panels, int64_t C, int64_t r, int64_t c) {
    return panels[(size_t)(r / 64 * panel_bytes(C) + c / 4 * 64 + r % 16 * 4 + c % 4)] >> (r % 64 / 16 * 2) & 3;
  }

  /** Code of element c of a row, as the layouts are defined. */
  static int source_code(GroupedSource source, const uint8_t* row, int64_t c) {
    const auto digit = [](int byte, int64_t n) {
      for (; n > 0; n -= 1) byte = byte * 3 % 256;
      return byte * 3 / 256;
    };
    const int64_t g = c / grouped_source_group_or_one(source), e = c % grouped_source_group_or_one(source);
    switch (source) {
      case GroupedSource::q2_64: return row[g * 18 + 2 + e / 4] >> (e % 4 * 2) & 3;
      case GroupedSource::q2_128: return row[g * 34 + 2 + e / 4] >> (e % 4 * 2) & 3;
      case GroupedSource::ptq1: {
        const uint8_t* b = row + g * 28;
        if (e < 80) return digit(b[e % 16], e / 16);
        if (e < 120) return digit(b[16 + (e - 80) % 8], (e - 80) / 8);
        return digit(b[24 + (e - 120) % 2], (e - 120) / 2);
      }
      case GroupedSource::q1: return (row[g * 18 + 2 + e / 8] >> (e % 8) & 1) * 2;
      case GroupedSource::tq2: return row[g * 66 + e / 128 * 32 + e % 32] >> (e % 128 / 32 * 2) & 3;
      case GroupedSource::tq1: {
        const uint8_t* b = row + g * 54;
        if (e < 160) return digit(b[e % 32], e / 32);
        if (e < 240) return digit(b[32 + (e - 160) % 16], (e - 160) / 16);
        return digit(b[48 + (e - 240) % 4], (e - 240) / 4);
      }
      case GroupedSource::packed: return row[c / 4] >> (c % 4 * 2) & 3;
      case GroupedSource::codes: return row[c];
      case GroupedSource::values: return (int8_t)row[c] + 1;
    }
    return -1;
  }
  static int64_t grouped_source_group_or_one(GroupedSource source) {
    const int64_t g = grouped_source_group((int32_t)source);
    return g ? g : 1;
  }
  static int64_t scale_at(GroupedSource source) {
    return source == GroupedSource::ptq1 ? 26 : source == GroupedSource::tq2 ? 64 : source == GroupedSource::tq1 ? 52 : 0;
  }

  bool repack(GroupedSource source, int64_t rows, int64_t C, bool shuffled) {
    const int32_t id = (int32_t)source;
    const int64_t bytes = grouped_source_row_bytes(id, C), group = grouped_source_group(id), groups = group ? C / group : 0;
    const std::string at = "repack of source " + std::to_string(id) + ", " + std::to_string(rows) + " x " + std::to_string(C);
    std::vector<uint8_t> src((size_t)(rows * bytes));
    for (auto& b : src) b = source == GroupedSource::codes ? next() % 4 : source == GroupedSource::values ? next() % 4 - 1 : (uint8_t)next();
    for (int64_t i = 0; i < rows * groups; i += 1) {
      uint8_t* high = &src[(size_t)(i * (bytes / (groups ? groups : 1)) + scale_at(source) + 1)];
      if ((*high & 0x7c) == 0x7c) *high ^= 0x04;
    }
    std::vector<int64_t> order((size_t)rows);
    for (int64_t r = 0; r < rows; r += 1) order[(size_t)r] = shuffled ? (r * 7 + 3) % rows : r;
    std::vector<uint8_t> panels((size_t)(panels_of(rows) * panel_bytes(C)), 0xee);
    std::vector<uint16_t> scales((size_t)(panels_of(rows) * groups * 64), 0xeeee);
    const int64_t middle = panels_of(rows) / 2 * 64;
    const auto run = [&] {
      return grouped_repack(id, src.data(), rows, C, middle, rows, panels.data(), scales.data(), shuffled ? order.data() : nullptr) &
             grouped_repack(id, src.data(), rows, C, 0, middle, panels.data(), scales.data(), shuffled ? order.data() : nullptr);
    };
    if (!run()) return wrong(at + ": refused");
    for (int64_t r = 0; r < panels_of(rows) * 64; r += 1)
      for (int64_t c = 0; c < round_up(C, 4); c += 1) {
        const bool there = r < rows && c < C;
        const int expected = there ? source_code(source, &src[(size_t)(order[(size_t)r] * bytes)], c) : 1;
        if (code_of(panels, C, r, c) != expected) return wrong(at + ": code of row " + std::to_string(r) + ", column " + std::to_string(c));
      }
    for (int64_t r = 0; r < panels_of(rows) * 64; r += 1)
      for (int64_t g = 0; g < groups; g += 1) {
        uint16_t expected = 0;
        if (r < rows) memcpy(&expected, &src[(size_t)(order[(size_t)r] * bytes + g * (bytes / groups) + scale_at(source))], 2);
        if (scales[(size_t)((r / 64 * groups + g) * 64 + r % 64)] != expected) return wrong(at + ": scale of row " + std::to_string(r));
      }
    // One bad scale or code anywhere.
    const int64_t row = next() % (uint32_t)rows;
    if (groups) {
      const uint16_t bad = next() % 2 ? 0x7c00 : 0xfe01;
      memcpy(&src[(size_t)(row * bytes + next() % (uint32_t)groups * (bytes / groups) + scale_at(source))], &bad, 2);
    } else if (source != GroupedSource::packed) {
      src[(size_t)(row * bytes + next() % (uint32_t)C)] = source == GroupedSource::codes ? 4 : 0xfe;
    } else {
      return true;
    }
    return run() ? wrong(at + ": something that is no number was not reported") : true;
  }

  /** Groups of 128 written as pairs of 64, some halves dead with any scale: joined again, and refused when one differs. */
  bool pairs(int64_t rows, int64_t C) {
    std::vector<uint8_t> codes((size_t)(rows * C)), panels((size_t)(panels_of(rows) * panel_bytes(C)));
    std::vector<uint16_t> whole((size_t)(rows * (C / 128))), halves((size_t)(rows * (C / 64)));
    for (auto& c : codes) c = next() % 3;
    for (auto& s : whole) s = (uint16_t)(next() & 0xbfff);
    for (int64_t r = 0; r < rows; r += 1)
      for (int64_t h = 0; h < C / 64; h += 1) {
        uint8_t* half = &codes[(size_t)(r * C + h * 64)];
        half[next() % 64] = 2;  // alive
        const bool dead = h % 2 == next() % 2 && next() % 4 == 0 && !(h % 2 && halves[(size_t)(r * (C / 64) + h - 1)] != whole[(size_t)(r * (C / 128) + h / 2)]);
        if (dead) memset(half, 1, 64);
        halves[(size_t)(r * (C / 64) + h)] = dead ? (uint16_t)(next() & 0xbfff) : whole[(size_t)(r * (C / 128) + h / 2)];
      }
    const int64_t n = panels_of(rows);
    std::vector<uint16_t> s64((size_t)(n * C)), s128((size_t)(n * C / 2)), joined((size_t)(n * C / 2));
    grouped_repack((int32_t)GroupedSource::codes, codes.data(), rows, C, 0, rows, panels.data(), nullptr, nullptr);
    grouped_repack_scales((const uint8_t*)halves.data(), 2, rows, C / 64, 0, rows, (uint8_t*)s64.data(), nullptr);
    grouped_repack_scales((const uint8_t*)whole.data(), 2, rows, C / 128, 0, rows, (uint8_t*)s128.data(), nullptr);
    if (!grouped_pairs(panels.data(), s64.data(), C, 0, n)) return wrong("pairs of 64 with equal scales or dead halves were refused");
    grouped_join_pairs(panels.data(), s64.data(), C, 0, n, joined.data());
    if (memcmp(joined.data(), s128.data(), (size_t)(n * C / 128 * 64 * 2))) return wrong("scales of joined pairs differ");
    const int64_t r = next() % (uint32_t)rows, g = next() % (uint32_t)(C / 128) * 2;
    for (int64_t h = g; h < g + 2; h += 1) codes[(size_t)(r * C + h * 64 + next() % 64)] = 0;
    grouped_repack((int32_t)GroupedSource::codes, codes.data(), rows, C, 0, rows, panels.data(), nullptr, nullptr);
    const size_t first = (size_t)((r / 64 * (C / 64) + g) * 64 + r % 64);
    s64[first + 64] = (uint16_t)(s64[first] ^ 1);
    return grouped_pairs(panels.data(), s64.data(), C, 0, n) ? wrong("a pair of different scales was joined") : true;
  }

  bool all_repacks() {
    for (int32_t id = 0; id <= (int32_t)GroupedSource::values; id += 1) {
      const int64_t group = grouped_source_group(id);
      if (group && grouped_source_row_bytes(id, group + 4)) return wrong("a row of a part of a block was accepted");
      for (int64_t rows : {1, 15, 64, 65, 200})
        for (int64_t k : {1, 2, 3, 5, 9})
          if (!repack((GroupedSource)id, rows, group ? group * k : 61 * k + (k == 3), k % 2)) return false;
    }
    for (int64_t rows : {1, 70, 128})
      for (int64_t C : {128, 640})
        if (!pairs(rows, C)) return false;
    return true;
  }

  // -------------------------------------------------------------------------------------------------------------------
  // Golden vectors. Only what these two files hold is read of JSON.

  static std::string read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }

  struct Tensors {
    std::string bytes, header;
    bool open(const std::string& path) {
      bytes = read(path);
      uint64_t n = 0;
      if (bytes.size() < 8) return false;
      memcpy(&n, bytes.data(), 8);
      if (n > bytes.size() - 8) return false;
      header = bytes.substr(8, n);
      return true;
    }
    /** Elements and shape; empty when there is no such tensor. */
    template <class T>
    std::vector<T> get(const std::string& name, std::vector<int64_t>* shape = nullptr) const {
      size_t at = header.find('"' + name + '"');
      if (at == std::string::npos) return {};
      const auto list = [&](const char* key) {
        std::vector<int64_t> out;
        size_t i = header.find('[', header.find(key, at));
        while (header[i] != ']') {
          char* end;
          out.push_back(strtoll(header.c_str() + i + 1, &end, 10));
          i = (size_t)(end - header.c_str());
          while (header[i] == ' ') i += 1;
        }
        return out;
      };
      if (shape) *shape = list("\"shape\"");
      const auto range = list("\"data_offsets\"");
      std::vector<T> out((size_t)(range[1] - range[0]) / sizeof(T));
      memcpy(out.data(), bytes.data() + 8 + header.size() + range[0], out.size() * sizeof(T));
      return out;
    }
  };

  bool product(const Kernels& k, const Tensors& file, const std::string& name) {
    std::vector<int64_t> xs, cs, ss;
    const std::string at = std::string(k.isa) + ": golden case " + name;
    const auto x = file.get<float>(name + ".x", &xs);
    const auto codes = file.get<uint8_t>(name + ".codes", &cs);
    const auto row_scales = file.get<uint16_t>(name + (name == "merge" ? ".scales64" : ".scales"), &ss);
    const auto q = file.get<int32_t>(name + ".q");
    const auto a = file.get<float>(name + ".a"), y = file.get<float>(name + ".y");
    if (x.empty() || codes.empty() || row_scales.empty() || y.empty()) return wrong(at + ": a tensor is missing");
    const int64_t T = xs[0], C = xs[1], R = cs[0], n = panels_of(R);
    int64_t groups = ss[1];
    std::vector<uint8_t> panels((size_t)(n * panel_bytes(C)));
    std::vector<uint16_t> scales((size_t)(n * groups * 64));
    if (!grouped_repack((int32_t)GroupedSource::codes, codes.data(), R, C, 0, R, panels.data(), nullptr, nullptr) ||
        !grouped_repack_scales((const uint8_t*)row_scales.data(), 2, R, groups, 0, R, (uint8_t*)scales.data(), nullptr))
      return wrong(at + ": refused");
    if (name == "merge") {
      const auto expected = file.get<uint16_t>("merge.scales128");
      std::vector<uint16_t> joined(scales.size() / 2);
      if (!grouped_pairs(panels.data(), scales.data(), C, 0, n)) return wrong(at + ": its groups are not joined");
      grouped_join_pairs(panels.data(), scales.data(), C, 0, n, joined.data());
      for (int64_t r = 0; r < R; r += 1)
        for (int64_t g = 0; g < groups / 2; g += 1) {
          bool dead = true;
          for (int64_t c = 0; c < 128; c += 1) dead &= codes[(size_t)(r * C + g * 128 + c)] == 1;
          if (!dead && joined[(size_t)(g * 64 + r)] != expected[(size_t)(r * groups / 2 + g)]) return wrong(at + ": a joined scale");
        }
      scales = joined;
      groups /= 2;
    }
    const int64_t G = C / groups, stride = planes_stride(C, G);
    std::vector<uint8_t> planes((size_t)(T * stride));
    std::vector<float> scale((size_t)T), out((size_t)(T * R));
    for (int64_t t = 0; t < T; t += 1) {
      uint8_t* row = &planes[(size_t)(t * stride)];
      if (!k.quantize16(&x[(size_t)(t * C)], C, G, row, &scale[(size_t)t])) return wrong(at + ": quantize16 refuses");
      for (int64_t c = 0; c < C && !q.empty(); c += 1) {
        const int32_t got = 256 * (int8_t)row[c] + (int8_t)row[plane_bytes(C) + c];
        if (got != q[(size_t)(t * C + c)]) return wrong(at + ": q of token " + std::to_string(t));
      }
      if (!a.empty() && memcmp(&a[(size_t)t], &scale[(size_t)t], 4)) return wrong(at + ": activation scale");
    }
    uint8_t* scratch = (uint8_t*)host_alloc((uint64_t)k.grouped_scratch(C, G) + 64);
    k.grouped({panels.data(), (const uint8_t*)scales.data(), true, C, R, G, 0, n, planes.data(), scale.data(), T, out.data(), scratch, 1024});
    host_free(scratch, (uint64_t)k.grouped_scratch(C, G) + 64);
    for (size_t i = 0; i < out.size(); i += 1)
      if (memcmp(&out[i], &y[i], 4) && !(out[i] == 0 && y[i] == 0)) return wrong(at + ": y of element " + std::to_string(i));
    return true;
  }

  bool layouts(const std::string& json) {
    const auto field = [&](size_t from, size_t to, const char* key) -> std::string {
      const size_t at = json.find(std::string("\"") + key + "\": ", from);
      if (at == std::string::npos || at >= to) return "";
      size_t i = at + strlen(key) + 4;
      if (json[i] != '"') return std::to_string(strtoll(json.c_str() + i, nullptr, 10));
      return json.substr(i + 1, json.find('"', i + 1) - i - 1);
    };
    const std::pair<const char*, GroupedSource> names[] = {{"q2_0_g64", GroupedSource::q2_64}, {"q2_0_g128", GroupedSource::q2_128},
                                                           {"pq2_0", GroupedSource::q2_128},   {"ptq1_0", GroupedSource::ptq1},
                                                           {"q1_0", GroupedSource::q1}};
    int seen = 0;
    size_t at = json.find("\"layout\": ");
    for (; at != std::string::npos;) {
      const size_t next_at = json.find("\"layout\": ", at + 1);
      const std::string name = field(at, next_at, "layout"), hex = field(at, next_at, "hex"), codes = field(at, next_at, "codes");
      for (const auto& [known, source] : names) {
        if (name != known || hex.empty()) continue;
        const int64_t C = atoll(field(at, next_at, "K").c_str()), rows = atoll(field(at, next_at, "rows").c_str());
        const std::string where = "golden layout " + name + ", " + field(at, next_at, "note");
        std::vector<uint8_t> src(hex.size() / 2), panels((size_t)(panels_of(rows) * panel_bytes(C)));
        for (size_t i = 0; i < src.size(); i += 1) src[i] = (uint8_t)strtol(hex.substr(2 * i, 2).c_str(), nullptr, 16);
        const int64_t groups = C / grouped_source_group((int32_t)source);
        std::vector<uint16_t> scales((size_t)(panels_of(rows) * groups * 64));
        if ((int64_t)src.size() != rows * grouped_source_row_bytes((int32_t)source, C)) return wrong(where + ": size");
        const bool fine = grouped_repack((int32_t)source, src.data(), rows, C, 0, rows, panels.data(), scales.data(), nullptr);
        if (fine != field(at, next_at, "error").empty()) return wrong(where + ": accepted or refused");
        for (int64_t i = 0; fine && i < rows * C; i += 1)
          if (code_of(panels, C, i / C, i % C) != codes[(size_t)i] - '0') return wrong(where + ": code " + std::to_string(i));
        seen += 1;
      }
      at = next_at;
    }
    return seen >= 30 ? true : wrong("golden layouts: only " + std::to_string(seen) + " vectors were found");
  }

  bool golden(const std::string& folder, const Kernels* const* tables, int n) {
    Tensors file;
    if (!file.open(folder + "/group_matmul_int16.safetensors")) return wrong("cannot read " + folder + "/group_matmul_int16.safetensors");
    for (int i = 0; i < n; i += 1)
      for (const char* name : {"g128", "g64", "code3", "one_group_a_row", "long", "merge"})
        if (!product(*tables[i], file, name)) return false;
    return layouts(read(folder + "/layouts.json"));
  }
};

}  // namespace bitnet
