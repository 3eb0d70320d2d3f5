//! Crash points: numbered places between any two atomic steps where a test can end the process.
//!
//! `crash_point!(fuse, "name")` costs nothing in the product. With the feature `crash-points` the process
//! counts every point it passes and sends itself SIGKILL at the armed one. Under loom, where a process is
//! a thread, the operation returns `RingError::Died` and the model forgets the handle: death as abandonment.

/// Marks a place where death must do no harm. The first argument is the handle's [`Fuse`].
macro_rules! crash_point {
    ($fuse:expr, $name:literal) => {{
        #[cfg(loom)]
        if $fuse.burns_down() {
            return Err($crate::ring::RingError::Died);
        }
        #[cfg(all(not(loom), feature = "crash-points"))]
        $crate::crash::pass($name);
        #[cfg(not(loom))]
        let _ = &$fuse;
    }};
}
pub(crate) use crash_point;

/// How many steps a model's thread may still make. Of no size in the product.
#[derive(Debug, Default, Clone)]
pub struct Fuse {
    #[cfg(loom)]
    steps_left: Option<std::rc::Rc<std::cell::Cell<u32>>>,
}

#[cfg(loom)]
impl Fuse {
    /// A thread that dies at crash point number `steps` (counted from 0).
    pub fn burning(steps: u32) -> Fuse {
        Fuse { steps_left: Some(std::rc::Rc::new(std::cell::Cell::new(steps))) }
    }

    pub(crate) fn burns_down(&self) -> bool {
        match &self.steps_left {
            None => false,
            Some(left) if left.get() == 0 => true,
            Some(left) => {
                left.set(left.get() - 1);
                false
            }
        }
    }
}

#[cfg(all(not(loom), feature = "crash-points"))]
mod armed {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

    /// Points passed since the last `arm`.
    static PASSED: AtomicU64 = AtomicU64::new(0);
    /// Number of the point to die at; negative: none.
    static DIE_AT: AtomicI64 = AtomicI64::new(-1);
    /// Names passed, while recording.
    static NAMES: Mutex<Option<Vec<&'static str>>> = Mutex::new(None);

    /// Counts this point and dies if it is the armed one.
    pub fn pass(name: &'static str) {
        let number = PASSED.fetch_add(1, Ordering::Relaxed);
        if DIE_AT.load(Ordering::Relaxed) == number as i64 {
            // A real death: no destructor, no unwinding, no atexit.
            let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
        }
        if let Ok(mut names) = NAMES.try_lock()
            && let Some(names) = names.as_mut()
        {
            names.push(name);
        }
    }

    /// Starts counting at 0; the process dies at point `number` if one is given.
    pub fn arm(number: Option<u64>) {
        PASSED.store(0, Ordering::Relaxed);
        DIE_AT.store(number.map_or(-1, |n| n as i64), Ordering::Relaxed);
    }

    /// How many points were passed since `arm`.
    pub fn passed() -> u64 {
        PASSED.load(Ordering::Relaxed)
    }

    /// Runs `scenario` and returns the names of the points it passed, in order.
    pub fn record(scenario: impl FnOnce()) -> Vec<&'static str> {
        arm(None);
        if let Ok(mut names) = NAMES.lock() {
            *names = Some(Vec::new());
        }
        scenario();
        NAMES.lock().ok().and_then(|mut names| names.take()).unwrap_or_default()
    }
}
#[cfg(all(not(loom), feature = "crash-points"))]
pub use armed::{arm, pass, passed, record};
