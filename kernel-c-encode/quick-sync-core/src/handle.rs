//! What C holds in place of an address: a number that is looked up at every call and is never given twice. So a
//! context that was destroyed is an error, however often and from whatever thread it is used, and never a crash.

use crate::codes::QSV_ERR_INVALID_HANDLE;
use crate::failure::Failure;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The objects of one kind that C holds handles of.
pub(crate) struct Table<T> {
    /// For messages.
    what: &'static str,
    /// In the top 16 bits of a handle, where no address of a program has anything: a handle of another kind, or an
    /// address, is told apart.
    tag: u16,
    entries: Mutex<Entries<T>>,
}

struct Entries<T> {
    /// Serial number of the next object. 2³² of them are more than a process makes.
    next_serial: u32,
    living: Vec<(u32, Arc<T>)>,
}

impl<T> Table<T> {
    pub(crate) const fn new(what: &'static str, tag: u16) -> Table<T> {
        Table { what, tag, entries: Mutex::new(Entries { next_serial: 1, living: Vec::new() }) }
    }

    /// A panic while this was locked left nothing half done: every change is one call on a vector.
    fn entries(&self) -> MutexGuard<'_, Entries<T>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an object and gives its handle.
    pub(crate) fn insert(&self, value: T) -> usize {
        let mut entries = self.entries();
        let serial = entries.next_serial;
        entries.next_serial = serial.wrapping_add(1).max(1);
        entries.living.push((serial, Arc::new(value)));
        usize::from(self.tag) << 48 | serial as usize
    }

    fn serial(&self, handle: usize) -> Result<u32, Failure> {
        if handle == 0 {
            return Err(Failure::null(&format!("The {}", self.what)));
        }
        u32::try_from(handle ^ usize::from(self.tag) << 48).map_err(|_| self.unknown(handle))
    }

    fn unknown(&self, handle: usize) -> Failure {
        let what = self.what;
        Failure::new(QSV_ERR_INVALID_HANDLE, format!("{handle:#x} is no {what}, or one that was destroyed"))
    }

    /// The object of a handle.
    pub(crate) fn get(&self, handle: usize) -> Result<Arc<T>, Failure> {
        let serial = self.serial(handle)?;
        let found =
            self.entries().living.iter().find(|(known, _)| *known == serial).map(|(_, value)| Arc::clone(value));
        found.ok_or_else(|| self.unknown(handle))
    }

    /// Takes the object out; it lives on until every call that still uses it has returned.
    pub(crate) fn remove(&self, handle: usize) -> Result<Arc<T>, Failure> {
        let serial = self.serial(handle)?;
        let mut entries = self.entries();
        let at = entries.living.iter().position(|(known, _)| *known == serial).ok_or_else(|| self.unknown(handle))?;
        Ok(entries.living.swap_remove(at).1)
    }
}

const _: () = assert!(usize::BITS == 64, "A handle has room for a tag and a serial number");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_good_once_and_never_again() {
        let table = Table::new("thing", 0x5153);
        let first = table.insert(1);
        assert_eq!(*table.get(first).unwrap(), 1);
        assert_eq!(*table.remove(first).unwrap(), 1);
        let second = table.insert(2);
        assert_ne!(first, second);
        for stale in [first, second ^ 1 << 48, 0x1000] {
            assert_eq!(table.get(stale).unwrap_err().code, QSV_ERR_INVALID_HANDLE, "{stale:#x}");
            assert_eq!(table.remove(stale).unwrap_err().code, QSV_ERR_INVALID_HANDLE);
        }
        assert_eq!(table.get(0).unwrap_err().text, "The thing is NULL");
    }
}
