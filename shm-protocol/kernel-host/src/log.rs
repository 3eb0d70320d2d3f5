//! Logs: to standard error, for people or as JSON.
//!
//! A level says who must act. *error*: somebody, now: the kernel ends or output is lost. *warn*: the operator may want
//! to: the kernel goes on, worse than asked for. *info*: nobody: starts, stops, takeovers, formats; a handful of lines
//! per hour. *debug* and *trace*: the developer of that kernel; trace may have lines per frame.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, Log, LogFormat};

/// The environment variable that goes before `log.level`; tracing's filter syntax, `debug` or `info,kernel_d_net=trace`.
pub const LEVEL_VARIABLE: &str = "QUAD_LOG";

/// Starts logging for this process. A second call changes nothing.
///
/// # Errors
/// [`ConfigError::Value`] when QUAD_LOG holds no filter.
pub fn init(log: &Log) -> Result<(), ConfigError> {
    let filter = filter(std::env::var(LEVEL_VARIABLE).ok().as_deref(), log)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A logger that is already there (a test's) stays.
    let _ = match log.format {
        LogFormat::Human => builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

fn filter(variable: Option<&str>, log: &Log) -> Result<EnvFilter, ConfigError> {
    let text = variable.filter(|text| !text.trim().is_empty()).unwrap_or(log.level.name());
    EnvFilter::builder().parse(text).map_err(|_| ConfigError::Value {
        key: LEVEL_VARIABLE.to_owned(),
        given: format!("{text:?}"),
        allowed: "a level (error, warn, info, debug, trace) or a filter such as \"info,kernel_d_net=trace\"".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogLevel;

    #[test]
    fn the_environment_goes_before_the_configuration() {
        let log = Log { level: LogLevel::Warn, ..Log::default() };
        let level = |variable| filter(variable, &log).map(|f| f.to_string());
        assert_eq!(level(None).unwrap(), "warn");
        assert_eq!(level(Some("")).unwrap(), "warn");
        assert_eq!(level(Some("trace")).unwrap(), "trace");
        let message = level(Some("a=b=c")).unwrap_err().to_string();
        assert!(message.starts_with("QUAD_LOG = \"a=b=c\" is not possible"), "{message}");
    }

    #[test]
    fn starting_twice_does_no_harm() {
        init(&Log::default()).unwrap();
        init(&Log { format: LogFormat::Json, ..Log::default() }).unwrap();
    }
}
