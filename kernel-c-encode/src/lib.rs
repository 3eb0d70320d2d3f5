//! Kernel C: encodes frames into access units.
