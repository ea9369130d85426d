#include "kernels/host/isa_kernels.inl"

namespace spillway {

const IsaKernels kBaselineKernels = kTable;

}  // namespace spillway
