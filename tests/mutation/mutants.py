"""Planted bugs in the CUDA kernels: (file below flowgrad/kernels/cuda, text, what it becomes, tags of test_gpu).

The text must occur exactly once in the file, or name its occurrence as a fifth entry (from 0).
"""

MUTANTS = [
    # Rows: softmax, reductions, the teams of threads below both.
    ("softmax.cu", "if (team.first + k * Team::kStep < n) sums", "if (team.first + k * Team::kStep <= n) sums", "softmax_test"),
    ("softmax.cu", "static_cast<double>(v) * (ct - sum)", "static_cast<double>(v) * ct - sum", "softmax_test"),
    ("softmax.cu", "    if (a != a) return a;\n", "", "softmax_test"),
    ("reduce.cuh", "n = rest < work.length ? rest : work.length;", "n = work.length;", "reduce_test"),
    ("reduce.cuh", "partial[team.row * work.chunks + team.chunk] = value", "partial[team.row + team.chunk * work.rows] = value", "reduce_test"),
    ("team.cuh", "    all[first] = lanes[0];\n    __syncthreads();\n", "    all[first] = lanes[0];\n", "reduce_test"),
    ("team.cuh", "    if (thread % kLanes == 0) result[w] = value;\n    __syncthreads();\n", "    if (thread % kLanes == 0) result[w] = value;\n", "reduce_test"),
    ("team.cuh", "      if (rest < 0) {\n        --quotient;\n        rest += size[d];\n      }\n", "", "reduce_test"),
    # Scans.
    ("scan.cuh", "if (lane >= delta) value = op(before, value);", "if (lane > delta) value = op(before, value);", "scan_test"),
    ("scan.cuh", "  __syncwarp();\n  const int own", "  const int own", "scan_test"),
    ("scan.cuh", "op(links.carries[item - 1], running)", "op(links.carries[item], running)", "scan_test"),
    ("scan.cuh", "  tile[threadIdx.y][threadIdx.x] = total;\n  __syncthreads();\n", "  tile[threadIdx.y][threadIdx.x] = total;\n", "scan_test"),
    # Sorting.
    ("radix_sort.cu", "      __syncwarp();\n      if (given && before == 0)", "      if (given && before == 0)", "sort_test"),
    ("radix_sort.cu", "equal & ((1u << lane) - 1u)", "equal & ((2u << lane) - 1u)", "sort_test"),
    ("radix_sort.cu", "warp_total[threadIdx.x / 32] = inclusive;\n  __syncthreads();\n", "warp_total[threadIdx.x / 32] = inclusive;\n", "sort_test"),
    ("radix_sort.cu", "  count[threadIdx.x] = 0;\n  __syncthreads();\n", "  count[threadIdx.x] = 0;\n", "sort_test"),
    ("sort.cu", "|| (b == a && at_b < at_a)", "", "sort_test"),
    ("sort.cu", "        }\n      }\n      __syncthreads();\n", "        }\n      }\n", "sort_test"),
    ("sort.cu", "  if (x == 0.0f) return 0x80000000u;\n", "", "sort_test"),
    # Indexing.
    ("indexing.cu", "if (p > 0 && keys[p - 1] == key) return;", "if (p > 1 && keys[p - 1] == key) return;", "indexing_test"),
    ("indexing.cu", "keys[p + kAhead - 1] == key; p += kAhead", "keys[p + kAhead - 2] == key; p += kAhead", "indexing_test"),
    ("indexing.cu", "axes.size[last] % factor != 0 || step % factor != 0)", "axes.size[last] % factor != 0)", "indexing_test"),
    # Linear algebra.
    ("linalg.cu", "if (other > best || (other == best && other_row < row)) {", "if (other > best) {", "linalg_test"),
    ("linalg.cu", "m[i * n + k] = m[i * n + k] / pivot;\n      __syncthreads();\n", "m[i * n + k] = m[i * n + k] / pivot;\n", "linalg_test"),
    ("linalg.cu", "return row == n || first != first ? k : row;", "return row == n ? k : row;", "linalg_test"),
    # Optimiser.
    ("optimizer.cu", "if (grouped && first + kGroup <= n) {", "if (grouped && first < n) {", "optimizer_test"),
    ("optimizer.cu", " &&\n                       (!Rule::kMoment2 || can_load_group(moment2));", ";", "optimizer_test"),
    ("optimizer.cu", "for (unsigned w = 0; w < kBlock / 32; ++w) sum", "for (unsigned w = 1; w < kBlock / 32; ++w) sum", "optimizer_test"),
    ("optimizer.cu", "warp_sum[threadIdx.x / 32] = x;\n  __syncthreads();\n", "warp_sum[threadIdx.x / 32] = x;\n", "optimizer_test"),
    # Random numbers.
    ("random.cu", "if (aligned && first + k <= n) {", "if (first + k <= n) {", "random_test"),
    ("random.cu", "      if (first + i < n) out[first + i] = v[i];", "      if (first + i <= n) out[first + i] = v[i];", "random_test"),
    ("random.cu", "word >> 31 != 0 ? T(1) : T(-1)", "word >> 31 == 0 ? T(1) : T(-1)", "random_test"),
    # Copies.
    ("copy.cu", "      }\n    }\n    __syncthreads();\n    for (uint32_t row = y", "      }\n    }\n    for (uint32_t row = y", "copy_test"),
    ("copy.cu", "            square[x][row];\n      }\n    }\n    __syncthreads();\n", "            square[x][row];\n      }\n    }\n", "copy_test"),
    ("copy.cu", "first + row < p.along_axis && last + x < p.along_last", "first + row < p.along_axis && last + x <= p.along_last", "copy_test"),
    ("add_into.cu", "bool found = rest >= 0;", "bool found = true;", "copy_test"),
    ("add_into.cu", "Add()(owns ? sum : out[address], in[from])", "Add()(owns ? sum : T(0), in[from])", "copy_test"),
    # Matmul.
    ("matmul_tile.cuh", "tile_b[buffer ^ 1]);\n      __syncthreads();\n", "tile_b[buffer ^ 1]);\n", "matmul_test"),
    ("matmul_tile.cuh", "if (j < left) value_[i][j] = at[j];", "if (j <= left) value_[i][j] = at[j];", "matmul_test"),
    ("matmul_tile.cuh", "if (row >= p.m || column >= p.n) continue;", "if (row >= p.m || column > p.n) continue;", "matmul_test"),
    # The ladder.
    ("ladder/03_shared_tile.cu", "    __syncthreads();  // nobody reads them any more\n", "", "ladder_test"),
    ("ladder/08_cp_async.cu", "    __syncthreads();  // the next round overwrites this slice\n", "", "ladder_test"),
    ("ladder/08_cp_async.cu", "gpu::cp_async_wait<1>();", "gpu::cp_async_wait<2>();", "ladder_test"),
    ("ladder/tf32_tile.cuh", "gpu::cp_async_wait<0>();", "gpu::cp_async_wait<1>();", "ladder_test"),
    ("ladder/tf32_tile.cuh", "from_b[i + t + 4]", "from_b[i + t + 3]", "ladder_test"),
    ("ladder/12_wgmma.cu", "gpu::wgmma_wait<1>();", "gpu::wgmma_wait<2>();", "ladder_test"),
    ("ladder/12_wgmma.cu", "static_cast<unsigned>(round - 1) % 2", "static_cast<unsigned>(round) % 2", "ladder_test"),
    ("ladder/12_wgmma.cu", "      __syncwarp();\n", "", "ladder_test"),
]
