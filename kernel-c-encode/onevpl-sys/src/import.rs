//! Structures of oneVPL 2.10 by which a runtime takes surfaces of others (`mfxmemory.h`, `mfxstructures.h` there),
//! written by hand: the headers that the bindings are made of are older.
