#!/usr/bin/env python3
"""What nvcc makes of the CUDA kernels, without a device.

Compiles flowgrad/kernels/cuda/**/*.cu for sm_80, sm_90, sm_90a and sm_100 and holds registers,
spills, stack and static shared memory of every kernel against the table docs/registers.md
(--write makes it anew; with FILES only their rows). A row stands for all instances of a template:
their largest values. Fails for a spill or stack that the table does not excuse, for a kernel that
one side lacks, and, with the nvcc of the table, for registers above it by more than TOLERANCE.
--opcodes looks for the instructions that the ladder is about instead, in SASS where nvdisasm is
found (PATH, or NVDISASM), else in PTX. Exit code 77: there is no nvcc.
"""
import argparse
import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDER = "flowgrad/kernels/cuda"
TABLE = "docs/registers.md"
ARCHITECTURES = ["sm_80", "sm_90", "sm_90a", "sm_100"]
TOLERANCE = 4

# file, architecture, instructions in SASS, and in PTX; each must be there.
OPCODES = [
    ("ladder/08_cp_async.cu", "sm_80", [r"\bLDGSTS\b"], [r"\bcp\.async\.c[ag]\b"]),
    ("ladder/09_tf32.cu", "sm_80", [r"\bHMMA\.1688\.F32\.TF32\b", r"\bLDGSTS\b"],
     [r"\bmma\.sync\.\S*m16n8k8\S*tf32", r"\bcp\.async\.c[ag]\b"]),
    ("ladder/10_bf16.cu", "sm_80", [r"\bHMMA\.16816\.F32\.BF16\b", r"\bLDSM\b"],
     [r"\bmma\.sync\.\S*m16n8k16\S*bf16", r"\bldmatrix\.sync\b"]),
    ("ladder/11_tf32_thrice.cu", "sm_80", [r"\bHMMA\.1688\.F32\.TF32\b"],
     [r"\bmma\.sync\.\S*m16n8k8\S*tf32"]),
    ("ladder/12_wgmma.cu", "sm_90a",
     [r"\bHGMMA\.64x256x8\.F32\.TF32\b", r"\bHGMMA\.64x256x16\.F32\.BF16\b", r"\bUTMALDG\b"],
     [r"\bwgmma\.mma_async\S*n256k8\S*tf32", r"\bwgmma\.mma_async\S*n256k16\S*bf16",
      r"\bcp\.async\.bulk\.tensor\b"]),
    ("ladder/14_tma.cu", "sm_90", [r"\bUTMALDG\b", r"\bFFMA\b"],
     [r"\bcp\.async\.bulk\.tensor\b", r"\bfma\.rn\.f32\b"]),
]
LOCAL_MEMORY = {"sass": r"\b(LDL|STL)\b", "ptx": r"\b(ld|st)\.local\b"}
# Kernels whose elements are all wider move no single bytes: a compiler that cannot see the alignment would.
WIDER = ["scan.cu", "softmax.cu", "layer_norm.cu", "conv.cu", "lstm.cu", "planar.cu", "coupling.cu", "cnf_solve.cu"]
BYTES = {"sass": r"\b(LDG|STG|LDS|STS)\.\S*[US]8\b", "ptx": r"\b(ld|st)\.(global|shared)\S*\.[bsu]8\b"}

Kernel = collections.namedtuple("Kernel", "registers stores loads stack shared")


def nvcc(arguments, file, architecture, output):
    command = [NVCC, "-std=c++20", "--expt-relaxed-constexpr", "-arch=" + architecture,
               "-DFLOWGRAD_GPU_CUDA=1", "-I" + ROOT, *arguments, "-o", output,
               os.path.join(ROOT, FOLDER, file)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit("FAIL %s does not compile for %s:\n%s" % (file, architecture, run.stderr))
    return run.stderr


def short_names(mangled):
    """Demangled, without template arguments, parameters, return type and the outer namespaces."""
    run = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True)
    names = []
    for line in run.stdout.splitlines():
        line = line.replace("(anonymous namespace)::", "")
        depth, name = 0, ""
        for character in line:
            if character == "<":
                depth += 1
            elif character == ">":
                depth -= 1
            elif depth == 0:
                if character == "(":
                    break
                name += character
        names.append(re.sub(r"flowgrad::|kernels::|cuda::", "", name.split(" ")[-1]))
    return names


def measure(file, architecture):
    """Kernels of a file by short name: (instances, largest values)."""
    with tempfile.TemporaryDirectory() as folder:
        text = nvcc(["-cubin", "-Xptxas", "-v"], file, architecture, os.path.join(folder, "cubin"))
    pattern = (r"Compiling entry function '(\w+)'.*\n(?:.*\n)*?\s*(\d+) bytes stack frame, "
               r"(\d+) bytes spill stores, (\d+) bytes spill loads\n.*Used (\d+) registers(.*)")
    found = re.findall(pattern, text)
    if len(found) != text.count("Compiling entry function"):
        sys.exit("FAIL %s for %s: ptxas speaks differently:\n%s" % (file, architecture, text))
    kernels = {}
    for name, row in zip(short_names([f[0] for f in found]), found):
        shared = re.search(r"(\d+) bytes smem", row[5])
        one = Kernel(int(row[4]), int(row[2]), int(row[3]), int(row[1]),
                     int(shared.group(1)) if shared else 0)
        count, most = kernels.get(name, (0, one))
        kernels[name] = (count + 1, Kernel(*map(max, one, most)))
    return kernels


def cell(kernel):
    text = "%d" % kernel.registers
    if kernel.stores or kernel.loads:
        text += ", spills %d/%d" % (kernel.stores, kernel.loads)
    if kernel.stack:
        text += ", stack %d" % kernel.stack
    return text


def read_table(path):
    """The nvcc it was made with, and {(file, kernel): (instances, [cells], shared)}."""
    version, rows = "", {}
    if not os.path.exists(path):
        return version, rows
    for line in open(path):
        if match := re.search(r"nvcc ([\d.]+\d)", line):
            version = version or match.group(1)
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 8 and cells[0].endswith(".cu"):
            rows[cells[0], cells[1]] = (int(cells[2]), cells[3:7], cells[7])
    return version, rows


def write_table(path, version, rows):
    with open(path, "w") as out:
        out.write("# Registers, spills and shared memory of the CUDA kernels\n\n"
                  "By `ptxas -v` of nvcc %s, for a device of each architecture; nothing was run. A row is a kernel "
                  "with all its\ntemplate instances, and holds their largest values: registers a thread, bytes "
                  "of spill stores and loads, bytes of stack, and\nstatic shared memory a block (dynamic "
                  "shared memory is chosen at the launch). `tests/static/registers.py --write` makes\nthis "
                  "page; without `--write` it fails where a kernel spills that does not here.\n\n"
                  "What spills: rung 11 and the `softmax_grad_rows` of two resident blocks are held to 128 registers, so that two blocks "
                  "fit on a multiprocessor;\nthe `softmax_rows` of whole rows are held to 80 for three; `stack_rows_grad` keeps up to three numbers in memory; others spill a few bytes on one architecture only.\n\n" % version)
        out.write("| file | kernel | instances | %s | shared bytes |\n" % " | ".join(ARCHITECTURES))
        out.write("|---|---|---|" + "---|" * len(ARCHITECTURES) + "---|\n")
        for (file, name), (count, cells, shared) in sorted(rows.items()):
            out.write("| %s | %s | %d | %s | %s |\n" % (file, name, count, " | ".join(cells), shared))


def numbers(text):
    """(registers, stores, loads, stack) of a cell."""
    match = re.match(r"(\d+)(?:, spills (\d+)/(\d+))?(?:, stack (\d+))?$", text)
    return [int(x or 0) for x in match.groups()]


def check_registers(files, write):
    path = os.path.join(ROOT, TABLE)
    version = re.search(r"V([\d.]+)", subprocess.run([NVCC, "--version"], capture_output=True,
                                                     text=True).stdout).group(1)
    table_version, rows = read_table(path)
    measured = {}
    for file in files:
        by_architecture = [measure(file, a) for a in ARCHITECTURES]
        for name in sorted({n for k in by_architecture for n in k}):
            if not all(name in k for k in by_architecture):
                sys.exit("FAIL %s: %s is not there for every architecture" % (file, name))
            largest = [k[name][1] for k in by_architecture]
            measured[file, name] = (max(k[name][0] for k in by_architecture),
                                    [cell(k) for k in largest],
                                    str(max(k.shared for k in largest)))
        print("compiled %s" % file, flush=True)
    wanted = {k: v for k, v in rows.items() if k[0] in files or not os.path.exists(
        os.path.join(ROOT, FOLDER, k[0]))}
    if write:
        rows = {k: v for k, v in rows.items() if k not in wanted}
        rows.update(measured)
        write_table(path, version, rows)
        print("wrote %s: %d kernels" % (TABLE, len(rows)))
        return []
    wrong = ["%s: %s is in the table and not in the source" % k for k in wanted.keys() - measured.keys()]
    for key, (count, cells, shared) in sorted(measured.items()):
        if key not in rows:
            wrong.append("%s: %s is not in the table" % key)
            continue
        for architecture, now, then in zip(ARCHITECTURES, map(numbers, cells),
                                           map(numbers, rows[key][1])):
            where = "%s: %s for %s: " % (*key, architecture)
            for what, a, b in zip(("spill stores", "spill loads", "stack"), now[1:], then[1:]):
                if a > b:
                    wrong.append("%s%d bytes of %s; the table says %d" % (where, a, what, b))
            if version == table_version and now[0] > then[0] + TOLERANCE:
                wrong.append("%s%d registers; the table says %d" % (where, now[0], then[0]))
        if version == table_version and (count, shared) != (rows[key][0], rows[key][2]):
            wrong.append("%s: %s: %d instances and %s bytes of shared memory; the table says %d and %s"
                         % (*key, count, shared, rows[key][0], rows[key][2]))
    return wrong


def check_opcodes():
    nvdisasm = os.environ.get("NVDISASM") or shutil.which("nvdisasm")
    kind = "sass" if nvdisasm else "ptx"
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        def instructions(file, architecture):
            output = os.path.join(folder, "out")
            nvcc(["-cubin" if nvdisasm else "-ptx"], file, architecture, output)
            if nvdisasm:
                return subprocess.run([nvdisasm, "-c", output], check=True, capture_output=True, text=True).stdout
            return open(output).read()

        for file in WIDER:
            count = len(re.findall(BYTES[kind], instructions(file, "sm_90")))
            print("%s sm_90 %s: %d accesses of one byte" % (file, kind, count))
            if count > 0:
                wrong.append("%s for sm_90: %d accesses of one byte" % (file, count))
        for file, architecture, sass, ptx in OPCODES:
            text = instructions(file, architecture)
            for pattern in sass if nvdisasm else ptx:
                count = len(re.findall(pattern, text))
                print("%s %s %s: %d x %s" % (file, architecture, kind, count, pattern))
                if count == 0:
                    wrong.append("%s for %s: no %s" % (file, architecture, pattern))
            if re.search(LOCAL_MEMORY[kind], text):
                wrong.append("%s for %s: local memory is used" % (file, architecture))
    return wrong


def main():
    global NVCC
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", default="", help="the compiler; else the one of PATH or /usr/local/cuda")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--opcodes", action="store_true")
    parser.add_argument("files", nargs="*", metavar="FILES", help="below %s; all by default" % FOLDER)
    arguments = parser.parse_args()
    NVCC = arguments.nvcc or shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if not NVCC:
        print("skipped: no nvcc")
        return 77
    files = arguments.files
    if not files:
        for folder, _, names in os.walk(os.path.join(ROOT, FOLDER)):
            files += [os.path.relpath(os.path.join(folder, n), os.path.join(ROOT, FOLDER))
                      for n in names if n.endswith(".cu")]
    wrong = check_opcodes() if arguments.opcodes else check_registers(sorted(files), arguments.write)
    for line in wrong:
        print("FAIL " + line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
