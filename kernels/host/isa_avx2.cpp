#include "kernels/host/isa_kernels.inl"

namespace spillway {

const IsaKernels kAvx2Kernels = kTable;

}  // namespace spillway
