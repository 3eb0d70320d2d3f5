//! The border to C: panics end here, and the text of an error is kept where the next call of this thread finds it.

use crate::codes::{QSV_ERR_INTERNAL, QSV_OK};
use crate::failure::Failure;
use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The last error, of a thread or of a context.
#[derive(Debug, Clone, Default)]
pub(crate) struct Last {
    pub(crate) code: c_int,
    pub(crate) text: String,
}

thread_local! {
    static LAST: RefCell<Last> = RefCell::default();
    /// What [`show`] gave out last, and which is next: several texts may be arguments of one printf.
    static SHOWN: RefCell<([CString; TEXTS], usize)> = RefCell::default();
}

/// Texts of a thread that stay valid: more than one line of a program has use for.
const TEXTS: usize = 8;

/// Remembers what went wrong, or what is to be known of a success, for this thread. What a thread has of its own is gone
/// before the functions that a program gave to atexit run: an error there has its code alone.
pub(crate) fn remember(code: c_int, text: &str) {
    let _ = LAST.try_with(|last| {
        let mut last = last.borrow_mut();
        last.code = code;
        last.text.clear();
        last.text.push_str(text);
    });
}

/// The last error of this thread.
pub(crate) fn last() -> Last {
    LAST.try_with(|last| last.borrow().clone()).unwrap_or_default()
}

/// Text as C reads it, valid until this thread has asked for [`TEXTS`] more.
pub(crate) fn show(text: &str) -> *const c_char {
    // A NUL within a message of some library would end it early.
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    let pointer = SHOWN.try_with(|shown| {
        let (shown, next) = &mut *shown.borrow_mut();
        let at = *next % TEXTS;
        *next = at + 1;
        shown[at] = text;
        shown[at].as_ptr()
    });
    pointer.unwrap_or(c"".as_ptr())
}

/// Runs the body of an exported function: an error is remembered and becomes its code, a panic becomes
/// [`QSV_ERR_INTERNAL`].
pub(crate) fn call(body: impl FnOnce() -> Result<c_int, Failure>) -> c_int {
    value(body).unwrap_or_else(|code| code)
}

/// As [`call`], for functions that return something else than a code.
pub(crate) fn value<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, c_int> {
    // What a panic leaves half done is behind a lock, which is poisoned then and never used again.
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::new(QSV_ERR_INTERNAL, format!("A defect of this library: {}", said(panic.as_ref()))),
    };
    debug_assert_ne!(failure.code, QSV_OK);
    remember(failure.code, &failure.text);
    Err(failure.code)
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

#[cfg(test)]
#[expect(unsafe_code, reason = "reads text as C does")]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn eight_texts_are_valid_at_a_time() {
        let shown: Vec<*const c_char> = (0..20).map(|n| show(&format!("text\0{n}"))).collect();
        for (n, text) in shown.iter().enumerate().skip(12) {
            // SAFETY: among the last eight.
            assert_eq!(unsafe { CStr::from_ptr(*text) }.to_str().unwrap(), format!("text {n}"));
        }
    }

    #[test]
    fn a_panic_becomes_a_code_and_its_text_is_kept() {
        assert_eq!(call(|| panic!("seven {}", 7)), QSV_ERR_INTERNAL);
        assert_eq!(last().text, "A defect of this library: seven 7");
        assert_eq!(call(|| Err(Failure::null("x"))), crate::codes::QSV_ERR_NULL_POINTER);
        assert_eq!(last().text, "x is NULL");
        assert_eq!(call(|| Ok(3)), 3);
        assert_eq!(last().text, "x is NULL", "a success leaves the last error");
    }
}
