//! The one door to atomics: the standard ones in the product, loom's in the model.
//!
//! Nothing outside this file names `std::sync::atomic`, so that what loom checks is what runs. Every
//! release/acquire pair of the protocol carries the same `SYNC: name` on both sides; the names:
//!
//! | name | the release side | the acquire side |
//! |---|---|---|
//! | slot-ready | publish | acquire by a role |
//! | slot-free | release by a role, abort | claim by the producer |
//! | last-key | publish, step 4 | the stage rule and recovery |
//! | role-active | attach and retire of a role | the mask of a publish |
//! | bell | ring | wait |
//! | lease-epoch | takeover | every guarded operation |
//! | control-word | a request | its acknowledgement, and the other way round |
//! | object-ready | creation (the name appears last) | attach |

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(any(test, loom))]
/// An array of zeroed cells; loom's atomics have no const constructor.
pub(crate) fn zeroed<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}
