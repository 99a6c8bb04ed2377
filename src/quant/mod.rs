//! Quantization kernels: slices in, buffers out.
