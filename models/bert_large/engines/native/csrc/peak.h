// The CPU's peak rate of multiply-adds; benchmarks report matrix products as a share of it.
#pragma once

#include <cstdint>

namespace bert_large {

// Runs `iterations` rounds (on AMX tiles, a sixteenth of them, which do more) of independent multiply-adds on operands
// that stay in registers, on every thread, and returns how many operations (multiplications and additions) they were.
// With `bfloat16`, they are products of bfloat16 numbers with sums in float: on AMX tiles where `amx` says that the CPU
// has them, else in vectors; in a build without these instructions they are of floats.
double multiply_registers(int threads, int64_t iterations, bool bfloat16, bool amx);

}  // namespace bert_large
