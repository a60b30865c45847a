"""Kernels: Numba functions specialised by cell, dtype and shapes, and the drivers that call them."""
