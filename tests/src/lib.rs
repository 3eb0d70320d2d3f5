//! Real binaries, real SIGKILL, real receivers.
