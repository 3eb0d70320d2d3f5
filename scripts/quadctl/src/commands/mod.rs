//! One module a command; each returns the exit code.

pub mod bench;
pub mod down;
pub mod inspect;
pub mod list;
pub mod logs;
pub mod restart;
pub mod set;
pub mod status;
pub mod supervise;
pub mod swap;
pub mod up;
pub mod upgrade;

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use kernel_host::exit::{Exit, Failure};
use kernel_host::runtime::RuntimeDir;

use crate::supervisor::control::{Reply, Request, ask};
use crate::supervisor::refuse_beside_another;

/// Writes a line to standard output. A reader that went away (`| head`) is no failure of ours.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Writes a line to standard error.
pub fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Where an instance keeps its sockets.
pub fn runtime(instance: &str) -> Result<RuntimeDir, Failure> {
    RuntimeDir::locate(instance).map_err(|error| Failure::new(Exit::Usage, error))
}

/// Asks the instance's supervisor, which must live.
pub fn ask_supervisor(runtime: &RuntimeDir, request: &Request, limit: Duration) -> Result<Reply, Failure> {
    let instance = runtime.instance();
    match ask(&runtime.supervisor_socket()?, request, limit) {
        Some(Ok(reply)) if reply.exit == 0 => Ok(reply),
        Some(Ok(reply)) => {
            Err(Failure::new(Exit::from_code(reply.exit.into()).unwrap_or(Exit::Internal), reply.message))
        }
        Some(Err(error)) => {
            let text =
                format!("The supervisor of instance {instance} did not answer ({error}); see `quad logs supervisor`");
            Err(Failure::new(Exit::Temporary, text))
        }
        None => {
            refuse_beside_another(instance)?;
            let text = format!(
                "No supervisor of instance {instance} is running; `quad up` starts one and adopts living kernels"
            );
            Err(Failure::new(Exit::Unavailable, text))
        }
    }
}

/// The version of this build.
pub fn own_version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| kernel_host::identity::marked(env!("CARGO_PKG_VERSION")))
}

/// `quad version`.
pub fn version() -> Result<u8, Failure> {
    say(&format!("quad {}", own_version()));
    Ok(0)
}
