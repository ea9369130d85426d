#include "kernels/host/isa_kernels.inl"

namespace spillway {

const IsaKernels kAvx512Kernels = kTable;

}  // namespace spillway
