//! Kernel D: sends access units to viewers.
