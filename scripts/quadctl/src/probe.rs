//! What a binary is, asked of the binary itself before anything depends on it; and which layout an instance's rings have.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kernel_host::exit::{Exit, Failure};
use kernel_host::identity::{FORM, Identity};
use kernel_host::name::Kind;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use shm_protocol::layout::{LAYOUT_HASH, MAGIC};
use shm_protocol::names;

use crate::process::{Process, Signal, wait_all};

/// A version is printed within milliseconds, also from a cold disk.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// One line; whatever is longer is no kernel's answer.
const LONGEST_ANSWER: usize = 4096;

/// The first line that a program prints when asked for its version.
///
/// # Errors
/// Why there is none, beginning with the program's path.
pub fn version_line(binary: &Path) -> Result<String, String> {
    let mut command = Command::new(binary);
    let answer = answer(&mut command, "--version", Speaks::Output)?;
    Ok(answer.text.lines().next().unwrap_or_default().to_owned())
}

/// Where a program says what is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// Standard output.
    Output,
    /// Standard error.
    Errors,
}

/// What a program answered.
pub struct Answer {
    /// Whether it ended with 0.
    pub success: bool,
    /// The beginning of what it said.
    pub text: String,
}

/// Runs a program with a last argument to which it is to answer at once; one that does not is killed.
///
/// # Errors
/// Why there is no answer, beginning with the program's path.
pub fn answer(command: &mut Command, question: &str, speaks: Speaks) -> Result<Answer, String> {
    let path = Path::new(command.get_program()).display().to_string();
    let (output, errors) = match speaks {
        Speaks::Output => (Stdio::piped(), Stdio::null()),
        Speaks::Errors => (Stdio::null(), Stdio::piped()),
    };
    let mut child = command
        .arg(question)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{path} cannot be started: {error}"))?;
    let ended = Process::open(child.id()).is_some_and(|process| {
        let ended = wait_all(&[&process], ANSWER_WITHIN);
        if !ended {
            process.signal(Signal::KILL);
        }
        ended
    });
    // Not waiting for whoever else may hold the pipe open.
    let text = match speaks {
        Speaks::Output => child.stdout.take().map(beginning),
        Speaks::Errors => child.stderr.take().map(beginning),
    };
    let success = child.wait().is_ok_and(|status| status.success());
    if !ended {
        return Err(format!("{path} does not answer {question} within {} s", ANSWER_WITHIN.as_secs()));
    }
    Ok(Answer { success, text: text.unwrap_or_default() })
}

/// What lies in a pipe now.
fn beginning(mut pipe: impl std::io::Read + AsFd) -> String {
    let mut text = vec![0; LONGEST_ANSWER];
    let length = match fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)) {
        Ok(_) => pipe.read(&mut text).unwrap_or(0),
        Err(_) => 0,
    };
    text.truncate(length);
    String::from_utf8_lossy(&text).into_owned()
}

/// What the binary of a kernel of `kind` says of itself.
///
/// # Errors
/// [`Exit::Usage`]: it is no kernel, or one of another kind.
pub fn kernel(binary: &Path, kind: Kind) -> Result<Identity, Failure> {
    let refused = |text: String| Failure::new(Exit::Usage, text);
    let form = FORM.replace("KIND", kind.name());
    let line = version_line(binary).map_err(|error| refused(format!("{error}; a kernel answers {form}")))?;
    let path = binary.display();
    let identity: Identity = line
        .parse()
        .map_err(|_| refused(format!("{path} is no kernel: it answers --version with {line:?}, not with {form}")))?;
    if identity.kind != kind {
        let text = format!("{path} is for {}, not for {kind}: it says {line:?}", identity.kind);
        return Err(refused(text));
    }
    Ok(identity)
}

/// The layout of an instance's rings; that of this build while it has none. The first words of a ring are the same in
/// every layout.
pub fn running_layout(instance: &str) -> u64 {
    let of = |name: &String| {
        let mut words = [0u8; 24];
        File::open(Path::new(names::SHM_DIR).join(name)).ok()?.read_exact(&mut words).ok()?;
        let [magic, _, layout_hash] = [0, 8, 16].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&words[at..at + 8]);
            u64::from_le_bytes(word)
        });
        (magic == MAGIC).then_some(layout_hash)
    };
    names::existing(instance).iter().find_map(of).unwrap_or(LAYOUT_HASH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Instant;

    fn script(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_kernel_is_what_its_answer_says_whatever_its_file_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let line = "echo 'acme-encode 7.2 (ABI 1.0, layout 0x0000000000000007)'";
        let acme = script(folder.path(), "anything", line);
        let identity = kernel(&acme, Kind::Encode).unwrap();
        assert_eq!((identity.program.as_str(), identity.layout_hash), ("acme-encode", 7));
        let wrong = kernel(&acme, Kind::Net).unwrap_err();
        assert!(wrong.exit == Exit::Usage && wrong.to_string().contains("is for encode, not for net"), "{wrong}");
    }

    #[test]
    fn what_is_no_kernel_is_told_in_one_line_and_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let began = Instant::now();
        for (name, text, says) in [
            ("silent", "sleep 60", "does not answer --version within 2 s"),
            ("other", "echo other 1.0", "is no kernel: it answers --version with \"other 1.0\""),
            ("mute", "exit 3", "is no kernel"),
            ("leaves a child", "sleep 3 & exit 0", "is no kernel"),
        ] {
            let failure = kernel(&script(folder.path(), name, text), Kind::Encode).unwrap_err();
            assert!(failure.to_string().contains(says), "{failure}");
            assert_eq!(failure.exit, Exit::Usage);
        }
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "no program").unwrap();
        assert!(kernel(&plain, Kind::Encode).unwrap_err().to_string().contains("cannot be started"));
    }

    #[test]
    fn an_instance_without_rings_has_the_layout_of_this_build() {
        assert_eq!(running_layout("no-such-instance"), LAYOUT_HASH);
    }
}
