//! The runtime directory of an instance: sockets, logs, process ids, overrides.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::name::{KernelName, NameError, check_name};

/// Bytes of a Unix socket's path without the closing zero (`sun_path`, unix(7)).
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// A runtime directory that cannot be used.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The instance has an impossible name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It cannot be made or looked at.
    #[error("Cannot use runtime directory {}; set XDG_RUNTIME_DIR to a directory of your own", path.display())]
    Io {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else stands in its place.
    #[error("Runtime directory {} belongs to somebody else or is no directory; it must be yours, mode 0700", path.display())]
    NotOurs {
        /// Which directory.
        path: PathBuf,
    },
    /// The instance belongs to another user.
    #[error(
        "Instance {instance} belongs to user {owner}, who alone may reach it: run this as that user (sudo -u {owner} …), or \
         name another with --instance"
    )]
    Foreign {
        /// The instance.
        instance: String,
        /// The user's name, or number where it has none.
        owner: String,
    },
    /// A socket's path is longer than the operating system takes.
    #[error("Socket path {} has {} bytes, at most 107 are possible; use a shorter XDG_RUNTIME_DIR", path.display(), path.as_os_str().len())]
    TooLong {
        /// Which socket.
        path: PathBuf,
    },
}

/// Refuses an instance of another user.
///
/// # Errors
/// [`RuntimeError::Foreign`], with that user's name.
pub fn refuse_foreign(instance: &str) -> Result<(), RuntimeError> {
    match foreign_owner(instance) {
        Some(owner) => Err(RuntimeError::Foreign { instance: instance.to_owned(), owner }),
        None => Ok(()),
    }
}

/// The user that an instance belongs to, where that is another than the one of this process.
pub fn foreign_owner(instance: &str) -> Option<String> {
    let uid = shm_protocol::names::foreign_owner(instance)?;
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid));
    Some(user.ok().flatten().map_or_else(|| format!("#{uid}"), |user| user.name))
}

/// The runtime directory of one instance: `$XDG_RUNTIME_DIR/quad/<instance>`, else `/run/quad/<instance>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeDir {
    path: PathBuf,
}

impl RuntimeDir {
    /// Where the directory of an instance is; it need not exist.
    ///
    /// # Errors
    /// [`RuntimeError::Name`] for an impossible instance name.
    pub fn locate(instance: &str) -> Result<RuntimeDir, RuntimeError> {
        let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        RuntimeDir::locate_in(&RuntimeDir::base(xdg.as_deref()), instance)
    }

    /// The directory that holds the directories of all instances. A relative XDG_RUNTIME_DIR is ignored, as the XDG
    /// base directory specification asks.
    pub fn base(xdg_runtime_dir: Option<&Path>) -> PathBuf {
        xdg_runtime_dir.filter(|p| p.is_absolute()).unwrap_or(Path::new("/run")).join("quad")
    }

    /// The directory of an instance below another base.
    ///
    /// # Errors
    /// [`RuntimeError::Name`] for an impossible instance name.
    pub fn locate_in(base: &Path, instance: &str) -> Result<RuntimeDir, RuntimeError> {
        check_name(instance)?;
        Ok(RuntimeDir { path: base.join(instance) })
    }

    /// Makes it and the base above it, mode 0700, where they are missing, and checks that both are ours.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] or [`RuntimeError::NotOurs`].
    pub fn create(&self) -> Result<(), RuntimeError> {
        for path in [self.path.parent(), Some(self.path.as_path())].into_iter().flatten() {
            let failed = |source| RuntimeError::Io { path: path.to_owned(), source };
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
                _ => {}
            }
            // Not following a link: somebody else's link would lead our sockets astray.
            let found = fs::symlink_metadata(path).map_err(failed)?;
            if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
                return Err(RuntimeError::NotOurs { path: path.to_owned() });
            }
            if found.mode() & 0o777 != 0o700 {
                fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Removes it with all it holds; a missing one is no error.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] with what the operating system says.
    pub fn remove(&self) -> Result<(), RuntimeError> {
        match fs::remove_dir_all(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RuntimeError::Io { path: self.path.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the instance.
    pub fn instance(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// The socket on which a kernel hands out the fds of its pools.
    ///
    /// # Errors
    /// [`RuntimeError::TooLong`] when no socket can have that path.
    pub fn socket(&self, kernel: &KernelName) -> Result<PathBuf, RuntimeError> {
        self.checked_socket(format!("{kernel}.sock"))
    }

    /// The socket on which the supervisor takes commands.
    ///
    /// # Errors
    /// [`RuntimeError::TooLong`] when no socket can have that path.
    pub fn supervisor_socket(&self) -> Result<PathBuf, RuntimeError> {
        self.checked_socket("supervisor.sock".to_owned())
    }

    fn checked_socket(&self, file: String) -> Result<PathBuf, RuntimeError> {
        let path = self.path.join(file);
        if path.as_os_str().as_bytes().len() > MAX_SOCKET_PATH_BYTES {
            return Err(RuntimeError::TooLong { path });
        }
        Ok(path)
    }

    /// The log of a kernel.
    pub fn log(&self, kernel: &KernelName) -> PathBuf {
        self.path.join(format!("{kernel}.log"))
    }

    /// The log of the supervisor.
    pub fn supervisor_log(&self) -> PathBuf {
        self.path.join("supervisor.log")
    }

    /// The process id of a kernel.
    pub fn pid(&self, kernel: &KernelName) -> PathBuf {
        self.path.join(format!("{kernel}.pid"))
    }

    /// The process id of the supervisor.
    pub fn supervisor_pid(&self) -> PathBuf {
        self.path.join("supervisor.pid")
    }

    /// The session description of a net instance's RTP output.
    pub fn sdp(&self, net: &KernelName) -> PathBuf {
        self.path.join(format!("{net}.sdp"))
    }

    /// What `set` and `swap` changed.
    pub fn overrides(&self) -> PathBuf {
        self.path.join("overrides.toml")
    }

    /// What `swap` left: see [`crate::swaps`].
    pub fn swaps(&self) -> PathBuf {
        self.path.join("swaps.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Kind;

    #[test]
    fn the_base_is_the_users_or_the_systems() {
        assert_eq!(RuntimeDir::base(Some(Path::new("/run/user/7"))), Path::new("/run/user/7/quad"));
        assert_eq!(RuntimeDir::base(None), Path::new("/run/quad"));
        assert_eq!(RuntimeDir::base(Some(Path::new("relative"))), Path::new("/run/quad"));
        assert!(matches!(RuntimeDir::locate("../etc"), Err(RuntimeError::Name(_))));
        assert!(matches!(RuntimeDir::locate(""), Err(RuntimeError::Name(_))));
    }

    #[test]
    fn it_is_made_for_the_owner_alone_and_removed_whole() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::locate_in(&folder.path().join("quad"), "demo").unwrap();
        dir.create().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        dir.create().unwrap();
        for path in [dir.path(), dir.path().parent().unwrap()] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700);
        }
        fs::write(dir.overrides(), "").unwrap();
        dir.remove().unwrap();
        dir.remove().unwrap();
        assert!(!dir.path().exists());
        assert_eq!(dir.instance(), "demo");
    }

    #[test]
    fn a_link_or_a_file_in_its_place_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::locate_in(folder.path(), "demo").unwrap();
        std::os::unix::fs::symlink("/tmp", dir.path()).unwrap();
        assert!(matches!(dir.create(), Err(RuntimeError::NotOurs { .. })));
        fs::remove_file(dir.path()).unwrap();
        fs::write(dir.path(), "").unwrap();
        assert!(matches!(dir.create(), Err(RuntimeError::NotOurs { .. })));
    }

    #[test]
    fn the_longest_names_fit_a_socket_and_longer_paths_are_refused() {
        let kernel = KernelName::new(Kind::Capture, &"k".repeat(32)).unwrap();
        let user = RuntimeDir::locate_in(Path::new("/run/user/4294967295/quad"), &"i".repeat(32)).unwrap();
        assert!(user.socket(&kernel).is_ok());
        let deep = RuntimeDir::locate_in(&Path::new("/run").join("d".repeat(80)), "demo").unwrap();
        assert!(matches!(deep.socket(&kernel), Err(RuntimeError::TooLong { .. })));
    }
}
