//! Kernel A: captures frames into the first ring.
