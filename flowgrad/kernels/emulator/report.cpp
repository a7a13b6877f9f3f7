#include "flowgrad/kernels/emulator/report.h"

#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "flowgrad/kernels/emulator/scheduler.h"

namespace flowgrad::gpu::emulator {

std::string describe(const uint3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " +
         std::to_string(index.z) + ")";
}

std::string describe(const Site& site) {
  const char* slash = std::strrchr(site.file_name(), '/');
  return std::string(slash != nullptr ? slash + 1 : site.file_name()) + ":" +
         std::to_string(site.line()) + ":" + std::to_string(site.column());
}

std::string hexadecimal(unsigned value) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", value);
  return text;
}

std::string hexadecimal(const void* address) {
  char text[24];
  std::snprintf(text, sizeof text, "%p", address);
  return text;
}

namespace {

// The program or library that holds an address: its file and where it was loaded.
struct Image {
  const void* address;
  std::string path;
  ElfW(Addr) base = 0;
};

int find_image(dl_phdr_info* info, std::size_t, void* data) {
  auto& image = *static_cast<Image*>(data);
  const auto address = reinterpret_cast<ElfW(Addr)>(image.address);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    const ElfW(Addr) low = info->dlpi_addr + segment.p_vaddr;
    if (segment.p_type != PT_LOAD || address < low || address >= low + segment.p_memsz) continue;
    image.path = *info->dlpi_name != '\0' ? info->dlpi_name : "/proc/self/exe";
    image.base = info->dlpi_addr;
    return 1;
  }
  return 0;
}

// Kernels are often local to their file, so dladdr does not know them: read the full symbol table.
std::string mangled_name(const char* file, ElfW(Addr) address) {
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(file);
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(file + header->e_shoff);
  for (int s = 0; s < header->e_shnum; ++s) {
    if (sections[s].sh_type != SHT_SYMTAB) continue;
    const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(file + sections[s].sh_offset);
    const char* names = file + sections[sections[s].sh_link].sh_offset;
    for (std::size_t i = 0; i < sections[s].sh_size / sizeof(*symbols); ++i) {
      const bool is_function = ELF64_ST_TYPE(symbols[i].st_info) == STT_FUNC;
      if (is_function && address - symbols[i].st_value < symbols[i].st_size) {
        return names + symbols[i].st_name;
      }
    }
  }
  return {};
}

}  // namespace

std::string symbol_at(const void* address) {
  Image image{address, {}};
  if (dl_iterate_phdr(find_image, &image) == 0) return {};
  const int descriptor = open(image.path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return {};
  struct stat status {};
  void* file = MAP_FAILED;
  if (fstat(descriptor, &status) == 0 && status.st_size > 0) {
    file = mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_PRIVATE,
                descriptor, 0);
  }
  close(descriptor);
  if (file == MAP_FAILED) return {};
  const std::string mangled = mangled_name(static_cast<const char*>(file),
                                           reinterpret_cast<ElfW(Addr)>(address) - image.base);
  munmap(file, static_cast<std::size_t>(status.st_size));
  int state = 0;
  char* readable = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &state);
  const std::string name = state == 0 ? readable : mangled;
  std::free(readable);
  return name;
}

std::string source_line(const void* pc) {
  const char* call = static_cast<const char*>(pc) - 1;
  Image image{call, {}};
  if (dl_iterate_phdr(find_image, &image) == 0) return hexadecimal(pc);
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (image.path == "/proc/self/exe" && length > 0) {
    image.path.assign(path, static_cast<std::size_t>(length));
  }
  const auto offset = reinterpret_cast<ElfW(Addr)>(call) - image.base;
  const std::string command = "addr2line -s -e '" + image.path + "' " +
                              hexadecimal(reinterpret_cast<const void*>(offset)) + " 2>/dev/null";
  std::string line;
  if (FILE* output = popen(command.c_str(), "r")) {
    char buffer[256];
    if (std::fgets(buffer, sizeof buffer, output) != nullptr) line = buffer;
    pclose(output);
  }
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
  return line.empty() || line[0] == '?' ? symbol_at(call) : line;
}

std::string Kernel::name() const {
  const std::string found = symbol_at(function_);
  return found.empty() ? "at " + hexadecimal(function_) : found;
}

std::string Scheduler::place_of_running_thread() {
  const Scheduler& self = instance();
  return "kernel " + self.kernel_->name() + ": block " + describe(blockIdx) + ", thread " +
         describe(threadIdx);
}

std::string Scheduler::threads_waiting(const Block& block) const {
  std::string text;
  for (unsigned first = 0; first < n_threads_;) {
    const Thread& thread = block.threads[first];
    unsigned end = first + 1;
    while (end < n_threads_ && block.threads[end].state == thread.state &&
           (thread.state == ThreadState::exited ||
            (block.threads[end].what == thread.what && block.threads[end].mask == thread.mask &&
             describe(block.threads[end].site) == describe(thread.site)))) {
      ++end;
    }
    text += "\n  threads " + std::to_string(first) + " to " + std::to_string(end - 1) + ": ";
    if (thread.state == ThreadState::exited) {
      text += "exited";
    } else {
      text += std::string(thread.what) + " at " + describe(thread.site);
      if (thread.state == ThreadState::in_warp) text += ", mask " + hexadecimal(thread.mask);
    }
    first = end;
  }
  return text;
}

std::string Scheduler::deadlock_report() const {
  std::string text = "deadlock; all threads that have not exited wait:";
  if (n_alive_ == 1) return text + threads_waiting(*block_);
  for (unsigned slot = 0; slot < n_alive_; ++slot) {
    text += "\n block number " + std::to_string(blocks_[slot]->number) + ":" +
            threads_waiting(*blocks_[slot]);
  }
  return text;
}

}  // namespace flowgrad::gpu::emulator
