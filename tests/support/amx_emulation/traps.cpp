// Carries out AMX's tile instructions on a CPU without AMX, where they raise SIGILL: the handler does what Intel's manual
// says (Software Developer's Manual, volume 2). Code that the manual calls an error is reported, and ends the process.
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace at::cpu {
bool init_amx();
}

namespace {

constexpr int kTiles = 8, kRows = 16, kRowBytes = 64;

struct Tiles {
  bool is_configured = false;
  uint8_t rows[kTiles];
  uint16_t row_bytes[kTiles];
  uint8_t data[kTiles][kRows][kRowBytes];
};

Tiles& tiles() {
  static thread_local Tiles of_thread;
  return of_thread;
}

void require(bool is_right, const char* what) {
  if (is_right) return;
  const char* parts[] = {"AMX: ", what, "\n"};
  for (const char* part : parts) (void)!write(STDERR_FILENO, part, std::strlen(part));
  std::abort();
}

// Registers in the order of their numbers in instructions.
constexpr int kRegisters[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// C4, then 3 bits that extend registers and the opcode's map; W, the inverse of the third operand, L and the prefix; the
// opcode; ModRM, and for memory SIB and a displacement.
struct Instruction {
  Instruction(const uint8_t* code, const greg_t* registers) {
    const bool extends_reg = !(code[1] & 0x80), extends_index = !(code[1] & 0x40), extends_base = !(code[1] & 0x20);
    is_known = code[0] == 0xC4 && (code[1] & 0x1F) == 2 && !(code[2] & 0x84);
    third = ~(code[2] >> 3) & 15;
    prefix = code[2] & 3;
    opcode = code[3];
    const uint8_t mode = code[4] >> 6, low = code[4] & 7;
    first = (code[4] >> 3 & 7) | extends_reg << 3;
    second = low | extends_base << 3;
    is_memory = mode != 3;
    next = code + 5;
    if (!is_memory) return;
    has_index = low == 4;
    int base = low, index = 4;
    if (has_index) {
      base = *next & 7;
      index = (*next >> 3 & 7) | extends_index << 3;
      if (index != 4) stride = registers[kRegisters[index]] << (*next >> 6);
      ++next;
    }
    const bool is_relative = base == 5 && mode == 0;  // to the next instruction, or with SIB to 0
    if (!is_relative) address = registers[kRegisters[base | extends_base << 3]];
    if (mode == 1) {
      address += (int8_t)*next++;
    } else if (mode == 2 || is_relative) {
      int32_t displacement;
      std::memcpy(&displacement, next, sizeof displacement);
      next += sizeof displacement;
      address += displacement + (is_relative && !has_index ? (int64_t)next : 0);
    }
  }

  bool is_known, is_memory, has_index = false;
  int opcode, prefix, first, second, third;
  int64_t address = 0, stride = 0;
  const uint8_t* next;
};

void configure(const uint8_t* from) {
  Tiles& own = tiles();
  require(from[0] == 1 && from[1] == 0, "the palette is not 1, or the start row is not 0");
  for (int byte = 2; byte < kRowBytes; ++byte) {
    const bool is_reserved = byte < 16 || (byte >= 32 && byte < 48) || byte >= 56;
    require(!is_reserved || from[byte] == 0, "a reserved byte of the configuration is not 0");
  }
  std::memcpy(own.row_bytes, from + 16, sizeof own.row_bytes);
  std::memcpy(own.rows, from + 48, sizeof own.rows);
  for (int tile = 0; tile < kTiles; ++tile) {
    require(own.row_bytes[tile] <= kRowBytes && own.rows[tile] <= kRows, "a tile is too large");
    require((own.row_bytes[tile] == 0) == (own.rows[tile] == 0), "a tile has rows or columns only");
  }
  own.is_configured = true;
  std::memset(own.data, 0, sizeof own.data);
}

void copy(const Instruction& instruction, bool store) {
  Tiles& own = tiles();
  const int tile = instruction.first;
  require(instruction.has_index && instruction.third == 0 && tile < kTiles, "a load or store has wrong operands");
  require(own.is_configured && own.rows[tile] > 0, "a load or store without a configuration of its tile");
  if (!store) std::memset(own.data[tile], 0, sizeof own.data[tile]);
  for (int row = 0; row < own.rows[tile]; ++row) {
    void* const memory = reinterpret_cast<void*>(instruction.address + row * instruction.stride);
    uint8_t* const data = own.data[tile][row];
    std::memcpy(store ? memory : data, store ? data : memory, own.row_bytes[tile]);
  }
}

// Denormal numbers count as 0, as factors, sums and results.
float flushed(float value) { return std::fpclassify(value) == FP_SUBNORMAL ? 0.0f : value; }

float widen(const uint8_t* half) {
  uint32_t bits = (uint32_t)(half[0] | half[1] << 8) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return flushed(value);
}

// Sums of even and of odd places of the depth are computed separately.
void multiply(int sums, int left, int right) {
  Tiles& own = tiles();
  require(sums < kTiles && left < kTiles && right < kTiles, "a product names a tile that does not exist");
  require(own.is_configured, "a product without a configuration");
  require(sums != left && sums != right && left != right, "a product names a tile twice");
  require(own.rows[sums] == own.rows[left] && own.row_bytes[sums] == own.row_bytes[right] &&
              own.row_bytes[left] == 4 * own.rows[right] && own.rows[sums] > 0,
          "the shapes of a product's tiles do not agree");
  for (int row = 0; row < own.rows[sums]; ++row) {
    for (int column = 0; column < own.row_bytes[sums] / 4; ++column) {
      float parts[2] = {};
      for (int pair = 0; pair < own.rows[right]; ++pair) {
        for (int odd = 0; odd < 2; ++odd) {
          const float factor = widen(&own.data[left][row][4 * pair + 2 * odd]);
          parts[odd] = flushed(std::fma(factor, widen(&own.data[right][pair][4 * column + 2 * odd]), parts[odd]));
        }
      }
      float sum;
      uint8_t* const place = &own.data[sums][row][4 * column];
      std::memcpy(&sum, place, sizeof sum);
      sum = flushed(flushed(sum) + flushed(parts[0] + parts[1]));
      std::memcpy(place, &sum, sizeof sum);
    }
  }
}

// Returns false for an instruction of another kind.
bool carry_out(const Instruction& instruction) {
  enum { kNone, k66, kF3, kF2 };
  if (!instruction.is_known) return false;
  switch (instruction.opcode) {
    case 0x49:
      if (instruction.is_memory && instruction.prefix == kNone) {
        configure(reinterpret_cast<const uint8_t*>(instruction.address));
      } else if (instruction.prefix == kNone) {
        tiles() = Tiles{};  // TILERELEASE
      } else if (instruction.prefix == kF2 && !instruction.is_memory) {
        require(tiles().is_configured && instruction.first < kTiles, "a tile is set to 0 without a configuration");
        std::memset(tiles().data[instruction.first], 0, sizeof tiles().data[0]);
      } else {
        return false;
      }
      return true;
    case 0x4B:
      if (!instruction.is_memory || instruction.prefix == kNone) return false;
      copy(instruction, instruction.prefix == kF3);
      return true;
    case 0x5C:
      if (instruction.is_memory || instruction.prefix != kF3) return false;
      multiply(instruction.first, instruction.second, instruction.third);
      return true;
  }
  return false;
}

void handle(int signal_number, siginfo_t*, void* context) {
  greg_t* const registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const Instruction instruction(reinterpret_cast<const uint8_t*>(registers[REG_RIP]), registers);
  if (carry_out(instruction)) {
    registers[REG_RIP] = reinterpret_cast<greg_t>(instruction.next);
  } else {
    signal(signal_number, SIG_DFL);  // the instruction runs again, and ends the process
  }
}

}  // namespace

extern "C" bool prepare_tiles() {
  if (at::cpu::init_amx()) return true;
  struct sigaction action {};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  return sigaction(SIGILL, &action, nullptr) == 0;
}
