//! `quad swap KERNEL[.NAME] [--binary PATH] [--set KEY=VALUE]…`.

use std::path::Path;
use std::time::Duration;

use kernel_host::exit::{Exit, Failure};
use kernel_host::name::KernelName;

use super::{ask_supervisor, say};
use crate::probe;
use crate::supervisor::control::Request;
use crate::supervisor::swap::SWAP_LIMIT;

/// Exchanges a kernel's process under the running stream; returns when the new one carries it.
pub fn run(instance: &str, kernel: &str, binary: Option<&Path>, sets: &[String]) -> Result<u8, Failure> {
    let kernel: KernelName = kernel.parse()?;
    let sets: Vec<String> = sets.iter().map(|set| whole_path(&kernel, set)).collect::<Result<_, _>>()?;
    let runtime = super::runtime(instance)?;
    let binary = binary
        .map(|path| {
            path.canonicalize().map_err(|error| {
                Failure::new(Exit::Usage, format!("--binary {} cannot be used: {error}", path.display()))
            })
        })
        .transpose()?;
    if let Some(binary) = &binary {
        check(instance, &kernel, binary)?;
    }
    let codec = sets.iter().any(|set| names_codec(set));
    let request = Request::Swap { kernel: kernel.to_string(), binary, sets };
    let reply = ask_supervisor(&runtime, &request, SWAP_LIMIT + Duration::from_secs(5))?;
    say(&reply.message);
    if codec {
        say("Another codec is another payload type: RTP receivers open the session description anew (`quad status` \
             names it); the watch page follows by itself");
    }
    Ok(0)
}

/// Whether a binary is one for this place: a kernel of the right kind and layout, whoever made it.
fn check(instance: &str, kernel: &KernelName, binary: &Path) -> Result<(), Failure> {
    let identity = probe::kernel(binary, kernel.kind)?;
    let running = probe::running_layout(instance);
    if identity.shares(running) {
        return Ok(());
    }
    let text = format!(
        "{} has another layout of shared memory ({identity}) than what runs ({running:#018x}); `quad upgrade --binaries DIR` restarts all kernels with one build",
        binary.display()
    );
    Err(Failure::new(Exit::Usage, text))
}

/// Whether a key is of something that outlives the process which a swap exchanges: its ring, or its supervision.
pub fn outlives_a_swap(key: &str) -> bool {
    matches!(key.rsplit('.').next(), Some("slots" | "standby"))
}

/// Whether a setting chooses the codec of the stream.
fn names_codec(set: &str) -> bool {
    set.split_once('=').is_some_and(|(key, _)| key.trim().ends_with(".codec"))
}

/// `encode.KEY` of the instance swapped: `encode.instances.NAME.KEY` of a further one.
fn whole_path(kernel: &KernelName, set: &str) -> Result<String, Failure> {
    let kind = format!("{}.", kernel.kind.name());
    let key = set.split_once('=').map_or(set, |(key, _)| key).trim();
    if outlives_a_swap(key) {
        let text =
            format!("{key} cannot change by a swap, which it outlives: run `quad down` and `quad up --set {set}`");
        return Err(Failure::new(Exit::Usage, text));
    }
    match set.strip_prefix(&kind) {
        Some(_) if set.starts_with(&format!("{}.", kernel.config_path())) => Ok(set.to_owned()),
        Some(rest) => Ok(format!("{}.{rest}", kernel.config_path())),
        None => {
            let text = format!("--set {set} is not about the kernel swapped; allowed are keys that begin with {kind}");
            Err(Failure::new(Exit::Usage, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_reach_the_instance_that_is_swapped() {
        let main: KernelName = "encode".parse().unwrap();
        let web: KernelName = "encode.web".parse().unwrap();
        assert_eq!(whole_path(&main, "encode.gop=1").unwrap(), "encode.gop=1");
        assert_eq!(whole_path(&web, "encode.gop=1").unwrap(), "encode.instances.web.gop=1");
        assert_eq!(whole_path(&web, "encode.instances.web.gop=1").unwrap(), "encode.instances.web.gop=1");
        for outlives in ["encode.slots=32", "encode.standby=true"] {
            assert!(whole_path(&main, outlives).unwrap_err().to_string().contains("quad up --set"), "{outlives}");
        }
        assert!(whole_path(&main, "capture.fps=30").unwrap_err().to_string().contains("begin with encode."));
    }
}
