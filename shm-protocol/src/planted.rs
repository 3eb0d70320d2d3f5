//! Planted bugs: mistakes that a model must catch, so that a green model means something.
//!
//! `planted!(Bug)` is the constant `false` outside models and unit tests; no planted bug is in the product.

/// A mistake somebody could make.
#[cfg(any(test, loom))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The slot is made READY without a release: its payload may be seen late.
    RelaxedPublish,
    /// A successor clears the bits that a dead reader's role still has.
    ClearDeadRole,
    /// An input that was passed by reference is released as soon as its output is published.
    ReleaseAfterPublish,
    /// Recovery believes the header's last key and does not look at the slots.
    LastKeyInHeaderOnly,
    /// An aborted slot keeps the key of what was never published.
    KeyLeftInAbortedSlot,
    /// The bell wakes first and clears the waiter bit after.
    WakeThenClear,
    /// A reader that sees a gap scans only once more, whatever that scan shows.
    OneSecondScan,
    /// The position in the source is stored before the frame is published.
    PositionBeforePublish,
}

#[cfg(any(test, loom))]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants `bug` in this thread of the test (a model's threads all run in it).
#[cfg(loom)]
pub(crate) fn plant(bug: Bug) {
    PLANTED.with(|planted| planted.set(Some(bug)));
}

#[cfg(any(test, loom))]
pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.with(|planted| planted.get() == Some(bug))
}

/// Whether a bug is planted: `false`, except in a model that plants it.
macro_rules! planted {
    ($bug:ident) => {{
        #[cfg(any(test, loom))]
        let planted = $crate::planted::is_planted($crate::planted::Bug::$bug);
        #[cfg(not(any(test, loom)))]
        let planted = false;
        planted
    }};
}
pub(crate) use planted;
