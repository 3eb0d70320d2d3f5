//! Which cpus a kernel runs on.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Largest cpu number, exclusive: what Linux can be built for on x86-64 (CONFIG_NR_CPUS, MAXSMP).
pub const MAX_CPUS: usize = 8192;

/// A set of cpu numbers, shown as the kernel does: `0-3,6`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CpuSet(BTreeSet<usize>);

impl CpuSet {
    /// Its cpus, rising.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().copied()
    }

    /// Whether a cpu is in it.
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.contains(&cpu)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> CpuSet {
        CpuSet(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

impl FromStr for CpuSet {
    type Err = ();

    /// Reads the kernel's list format (`0-3,6`); empty text is the empty set.
    fn from_str(text: &str) -> Result<CpuSet, ()> {
        let number = |t: &str| t.trim().parse::<usize>().ok().filter(|n| *n < MAX_CPUS).ok_or(());
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(());
            }
            cpus.extend(first..=last);
        }
        Ok(CpuSet(cpus))
    }
}
