//! Kernel B: processes pixels, or passes them on by reference.
