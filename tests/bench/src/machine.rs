//! The machine a benchmark ran on.

use crate::report::Machine;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What `/proc` says of it.
pub fn machine() -> Machine {
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| {
        cpuinfo.lines().find(|l| l.starts_with(name)).and_then(|l| l.split_once(':')).map(|(_, v)| v.trim().to_owned())
    };
    Machine {
        cpu: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: cores(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        virtual_machine: field("flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor")),
        load_average: read("/proc/loadavg").split(' ').next().and_then(|l| l.parse().ok()).unwrap_or(0.0),
        date: date(shm_protocol::clock::realtime_ns() / 1_000_000_000),
    }
}

/// Cores online.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Pins this thread to one core. Best effort: a core that is not there leaves it where it is.
pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// Goes before other work on the same core, where that is allowed: all rivals of a run alike.
pub fn go_first() {
    const NICE: i32 = -15;
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// Seconds since 1970 as "YYYY-MM-DDTHH:MM:SSZ".
fn date(seconds: u64) -> String {
    // Howard Hinnant's civil_from_days: years begin in March, so that the leap day comes last.
    let (days, time) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_leap_days_and_year_ends() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date(1_735_689_599), "2024-12-31T23:59:59Z");
    }

    #[test]
    fn this_machine_has_a_name_and_a_core() {
        let m = machine();
        assert!(!m.cpu.is_empty() && m.cores > 0 && !m.kernel.is_empty());
    }
}
