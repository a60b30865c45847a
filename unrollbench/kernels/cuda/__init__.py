"""Kernels for NVIDIA GPUs, generated as text like those for the CPU and compiled by `numba-cuda`.

layout    where every array lies in device memory          tiling    blocks, tiles and shared memory
equations a cell's equations as device functions           tile      one product of a tile, summed over lanes
forward, gradient     one stage of one step                products  a matrix product by tiles, for whole windows
edges     what surrounds a pass: state, transposes, zeros  specialize  the host's driver: straight line, loop or steps
loop, wavefront       the loop on the device
network   all of it compiled for a device                  ptx       all of it compiled for an architecture, no GPU
device    what the driver is asked for                     hardware, simulator  the two that answer
memory    the allocator                                    swap      saved activations in pinned host memory
matmul    products by cuBLAS, or by `products`             passes    what is started, or recorded and replayed
ceilings  the GPU's own limits, by the kernels of ceiling_text; wide has their loads of 16 bytes
"""
