//! `quad set KEY=VALUE`: live keys change while the stream goes on, the others are refused.

use std::time::{Duration, Instant};

use kernel_host::config::{Config, Overrides, keys, locate};
use kernel_host::exit::{Exit, Failure};
use kernel_host::name::{KernelName, Kind};
use shm_protocol::observe::RingObserver;

use super::{ask_supervisor, say};
use crate::launch::Launch;
use crate::supervisor::control::Request;

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
    let launch = Launch::load(&runtime).ok_or_else(|| {
        Failure::new(Exit::Unavailable, format!("Instance {instance} is not running; give {key} to `quad up --set`"))
    })?;
    let config = Config::load_with(launch.config.as_deref(), &overrides, &launch.sets)?;
    let reply = ask_supervisor(&runtime, &Request::Set { set: set.to_owned() }, Duration::from_secs(10))?;
    if located.info.path == "encode.bitrate_kbps" {
        let kbps = config.encode(&kernel.name).map(|encode| encode.bitrate_kbps).unwrap_or_default();
        return set_bitrate(instance, &kernel, kbps);
    }
    if reply.message == "0" {
        let text = format!(
            "Kept; {kernel} does not run or takes no changes while running: `quad restart {kernel}` puts it in force"
        );
        return Err(Failure::new(Exit::Temporary, text));
    }
    say(&format!("{set} is in force"));
    Ok(0)
}

/// Through the ring's control words: acknowledged when the encoder follows.
fn set_bitrate(instance: &str, kernel: &KernelName, kbps: u32) -> Result<u8, Failure> {
    let ring = RingObserver::open(instance, &kernel.to_string()).map_err(|error| {
        Failure::new(Exit::Temporary, format!("Kept for the next start; {kernel} does not run: {error}"))
    })?;
    let began = Instant::now();
    let serial = ring.requester().request_bitrate_kbps(kbps);
    while !ring.requester().bitrate_followed(serial) {
        if began.elapsed() > ACKNOWLEDGEMENT_LIMIT {
            let seconds = ACKNOWLEDGEMENT_LIMIT.as_secs();
            let text = format!("Kept and asked for, but {kernel} did not follow within {seconds} s; see `quad status`");
            return Err(Failure::new(Exit::Temporary, text));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    say(&format!("{kernel} makes {kbps} kbit/s"));
    Ok(0)
}

fn refusal(key: &str, kernel: Option<&KernelName>) -> Failure {
    let live: Vec<&str> = keys().iter().filter(|info| info.live).map(|info| info.path).collect();
    let cure = match kernel {
        Some(kernel) => format!(
            "change it in the configuration file and run `quad restart {}`, or run `quad down` and `quad up --set {key}=…`",
            kernel.short()
        ),
        None => format!("run `quad down` and `quad up --set {key}=…`"),
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
        assert!(text.contains("quad restart encode") && text.contains("encode.bitrate_kbps"), "{text}");
        assert!(refusal("hang_timeout_ms", None).to_string().contains("quad down"));
    }
}
