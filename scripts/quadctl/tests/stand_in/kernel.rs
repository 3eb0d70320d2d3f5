//! A stand-in for the four kernels: takes the lease, beats, counts frames, and misbehaves when told to. It is named
//! by its link (kernel-a-capture, …) and told by files in the directory STAND_IN_DIR:
//!
//! `<kernel>.exit` holds a code to exit with before anything is done; `<kernel>.barren` makes it die before its first
//! frame; `<kernel>.silent` keeps it from putting a frame on the wire; `<kernel>.mute` makes it stand still when it has
//! its lease's lock and before it has said so, `<kernel>.lingering` when it has said that it stops and before it lets go.
//! Every start appends its pid to `<kernel>.starts`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use kernel_host::args::KernelArgs;
use kernel_host::name::{KernelName, Kind};
use kernel_host::signals::Stop;
use nix::fcntl::{FcntlArg, fcntl};
use shm_protocol::clock::monotonic_ns;
use shm_protocol::lease::{Candidate, KernelState, Lease, LeaseTable};
use shm_protocol::names;
use shm_protocol::telemetry::{Counter, Measure, Telemetry};

struct Orders {
    dir: PathBuf,
    kernel: KernelName,
}

impl Orders {
    fn path(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{}.{what}", self.kernel))
    }

    fn told(&self, what: &str) -> bool {
        self.path(what).exists()
    }
}

fn main() -> ExitCode {
    let program = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.binary() == program) else {
        eprintln!("The stand-in is started by the name of a kernel's binary, not as {program}");
        return ExitCode::from(64);
    };
    if std::env::args().nth(1).as_deref() == Some("--support") {
        println!(
            r#"[{{"backend": "openh264", "codec": "h264", "profile": "high", "bit_depth": 8,
                "rate_control": "cbr", "usable": true, "why": "as a stand-in says"}}]"#
        );
        return ExitCode::SUCCESS;
    }
    let args = KernelArgs::parse(kind, "0.0.0");
    let start = match args.start(kind) {
        Ok(start) => start,
        Err(failure) => {
            eprintln!("{failure}");
            return failure.exit.into();
        }
    };
    let dir = PathBuf::from(std::env::var_os("STAND_IN_DIR").unwrap_or_else(|| "/nonexistent".into()));
    let orders = Orders { dir, kernel: start.kernel.clone() };
    let note = |what: &str, text: &str| {
        let file = fs::OpenOptions::new().append(true).create(true).open(orders.path(what));
        file.and_then(|mut file| writeln!(file, "{text}")).is_ok()
    };
    note("starts", &format!("{} {}", std::process::id(), std::env::args().skip(1).collect::<Vec<_>>().join(" ")));
    if let Some(code) = fs::read_to_string(orders.path("exit")).ok().and_then(|code| code.trim().parse::<u8>().ok()) {
        eprintln!("The stand-in was told to exit with {code}");
        return ExitCode::from(code);
    }
    match run(&args, &orders) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(70)
        }
    }
}

fn run(args: &KernelArgs, orders: &Orders) -> Result<(), Box<dyn std::error::Error>> {
    let stop = Stop::install()?;
    let name = orders.kernel.to_string();
    let table = LeaseTable::join(&args.instance)?;
    let mut candidate = Candidate::enter(&table, &name, true)?;
    candidate.ready();
    if orders.told("mute") {
        let _lock = lock_by_hand(&args.instance, &table, &name)?;
        stand_still();
        return Ok(());
    }
    let lease: Lease = loop {
        match candidate.try_activate()? {
            Ok(lease) => break lease,
            Err(again) if stop.requested() => {
                drop(again);
                return Ok(());
            }
            Err(again) => candidate = again,
        }
        stop.wait(Duration::from_millis(1));
    };
    let page = Telemetry::create(&args.instance, &name, lease.epoch())?;
    page.set_backend("stand-in");
    page.set_cpus(&kernel_host::pin::allowed_cpus().iter().collect::<Vec<_>>());
    lease.running();
    if orders.told("barren") {
        eprintln!("The stand-in dies before its first frame");
        std::process::abort();
    }
    while !stop.wait(Duration::from_millis(5)) {
        let now = monotonic_ns();
        lease.beat();
        page.frame(now);
        page.sample(Measure::Work, now, 1000);
        page.tick(now);
        if !orders.told("silent") && page.get(Counter::FirstOnWireNs) == 0 {
            page.set(Counter::FirstOnWireNs, now);
        }
        if !lease.is_current() {
            std::process::exit(3);
        }
    }
    if orders.told("lingering") {
        // What `Lease::stop` writes before it lets go: PROTOCOL, leases.
        let index = table.find(&name).ok_or("no record")? as u64;
        let state = RECORD_BYTES * (index + 1) + STATE_AT;
        table_file(&args.instance)?.write_all_at(&(KernelState::Stopped as u64).to_ne_bytes(), state)?;
        stand_still();
    }
    lease.stop();
    Ok(())
}

/// A lease record, and where its state lies in it.
const RECORD_BYTES: u64 = 256;
const STATE_AT: u64 = 64 + 3 * 8;

fn table_file(instance: &str) -> std::io::Result<fs::File> {
    let path = std::path::Path::new(names::SHM_DIR).join(names::leases(instance));
    fs::OpenOptions::new().read(true).write(true).open(path)
}

/// Waits for the lock of a lease that was never taken by force, and writes nothing (PROTOCOL, leases).
fn lock_by_hand(instance: &str, table: &LeaseTable, name: &str) -> Result<fs::File, Box<dyn std::error::Error>> {
    let index = table.find(name).ok_or("no record")? as i64;
    let file = table_file(instance)?;
    let byte = (1i64 << 32) + index * (1 << 20);
    let lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLKW(&lock))?;
    Ok(file)
}

fn stand_still() {
    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
}
