//! `quad set KEY=VALUE`: live keys change while the stream goes on, the others are refused.

use std::time::{Duration, Instant};

use kernel_host::config::{Config, Overrides, keys, locate};
use kernel_host::exit::{Exit, Failure, chain};
use kernel_host::name::{KernelName, Kind};
use shm_protocol::lease::LeaseTable;
use shm_protocol::observe::RingObserver;
use shm_protocol::telemetry::TelemetryReader;

use super::swap::outlives_a_swap;
use super::{ask_supervisor, say};
use crate::launch::Launch;
use crate::supervisor::control::Request;
use crate::supervisor::refuse_beside_another;

/// An encoder looks at its requests once a frame; the slowest source has one a second.
const ACKNOWLEDGEMENT_LIMIT: Duration = Duration::from_secs(3);

/// Sets a live key, or lists them.
pub fn run(instance: &str, set: Option<&str>) -> Result<u8, Failure> {
    let Some(set) = set else {
        list();
        return Ok(0);
    };
    let runtime = super::runtime(instance)?;
    let key = set.split_once('=').map(|(key, _)| key.trim()).unwrap_or_default();
    let mut overrides = Overrides::load(&runtime.overrides())?;
    overrides.set(set)?;
    let located = locate(key)?;
    if !located.info.live {
        return Err(refusal(key, located.kernel.as_ref()));
    }
    let kernel = located.kernel.unwrap_or_else(|| KernelName::main(Kind::Capture));
    if !runtime.path().exists() {
        refuse_beside_another(instance)?;
    }
    let launch = Launch::load(&runtime).ok_or_else(|| {
        Failure::new(Exit::Unavailable, format!("Instance {instance} is not running; give {key} to `quad up --set`"))
    })?;
    let config = Config::load_with(launch.config.as_deref(), &overrides, &launch.sets)?;
    // Kept only once it is known to be possible: what is kept, every later start must be able to do.
    let keep = || ask_supervisor(&runtime, &Request::Set { set: set.to_owned() }, Duration::from_secs(10));
    if located.info.path == "encode.bitrate_kbps" {
        let kbps = config.encode(&kernel.name).map(|encode| encode.bitrate_kbps).unwrap_or_default();
        let asked = ask_for_bitrate(instance, &kernel, kbps)?;
        keep()?;
        return match asked {
            Ok(done) => {
                say(&done);
                Ok(0)
            }
            Err(kept) => Err(Failure::new(Exit::Temporary, kept)),
        };
    }
    if located.info.path == "net.rtp.destination"
        && let Some(rtp) = config.net(&kernel.name).and_then(|net| net.rtp.as_ref())
    {
        rtp.destination.resolve().map_err(|error| {
            Failure::new(Exit::Config, format!("{set} is not possible, and nothing was changed: {}", chain(&error)))
        })?;
    }
    let reply = keep()?;
    if reply.message == "0" {
        let text = format!(
            "Kept; {kernel} does not run or takes no changes while running: `quad restart {kernel}` puts it in force"
        );
        return Err(Failure::new(Exit::Temporary, text));
    }
    say(&format!("{set} is in force"));
    Ok(0)
}

/// Through the ring's control words: acknowledged when the encoder follows. `Err` within: kept, and not in force yet.
///
/// # Errors
/// When the encoder cannot do it: it goes on as before, and so will those after it.
fn ask_for_bitrate(instance: &str, kernel: &KernelName, kbps: u32) -> Result<Result<String, String>, Failure> {
    let name = kernel.to_string();
    let ring = match RingObserver::open(instance, &name) {
        Ok(ring) => ring,
        Err(error) => return Ok(Err(format!("Kept for the next start; {kernel} does not run: {error}"))),
    };
    let began = Instant::now();
    let serial = ring.requester().request_bitrate_kbps(kbps);
    while !ring.requester().bitrate_followed(serial) {
        if began.elapsed() > ACKNOWLEDGEMENT_LIMIT {
            let seconds = ACKNOWLEDGEMENT_LIMIT.as_secs();
            let text = format!("Kept and asked for, but {kernel} did not follow within {seconds} s; see `quad status`");
            return Ok(Err(text));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let kept_kbps = ring.requester().bitrate_kbps();
    if kept_kbps == kbps {
        return Ok(Ok(format!("{kernel} makes {kbps} kbit/s")));
    }
    let epoch = LeaseTable::observe(instance).ok().and_then(|table| Some(table.info(table.find(&name)?).epoch));
    let page = epoch.and_then(|epoch| TelemetryReader::open(instance, &name, epoch));
    let why = page.map(|page| page.snapshot().message).unwrap_or_default();
    Err(Failure::new(Exit::Config, format!("{kernel} goes on with {kept_kbps} kbit/s, and nothing was kept: {why}")))
}

fn refusal(key: &str, kernel: Option<&KernelName>) -> Failure {
    let live: Vec<&str> = keys().iter().filter(|info| info.live).map(|info| info.path).collect();
    let cure = match kernel {
        Some(kernel) if !outlives_a_swap(key) => format!(
            "run `quad swap {} --set {key}=…`, which loses no frame, or change it in the configuration file and run \
             `quad restart {0}`",
            kernel.short()
        ),
        _ => format!("run `quad down` and `quad up --set {key}=…`"),
    };
    Failure::new(
        Exit::Usage,
        format!("{key} cannot change while the stream goes on; {cure}. Live keys: {}", live.join(", ")),
    )
}

fn list() {
    for info in keys().iter().filter(|info| info.live) {
        let default = info.default.as_ref().map(|default| format!(" Default: {default}.")).unwrap_or_default();
        say(&format!("{:24} {}{default} Allowed: {}", info.path, info.help, info.allowed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_live_is_refused_with_what_would_do() {
        let failure = refusal("encode.gop", Some(&KernelName::main(Kind::Encode)));
        let text = failure.to_string();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(text.contains("quad swap encode --set encode.gop=…"), "{text}");
        assert!(text.contains("encode.bitrate_kbps"), "{text}");
        let slots = refusal("capture.slots", Some(&KernelName::main(Kind::Capture))).to_string();
        assert!(slots.contains("quad up --set capture.slots=…") && !slots.contains("swap"), "{slots}");
        assert!(refusal("hang_timeout_ms", None).to_string().contains("quad down"));
    }
}
