//! Where a private cluster lives and whose it is.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::{Uid, User};

/// A Unix socket's whole path fits into 104 bytes on every system; `/.s.PGSQL.65535` is part of it.
const SOCKET_DIR_BYTES_MAX: usize = 103 - "/.s.PGSQL.65535".len();
/// Who may run the server for root, the first that exists.
const SERVER_USERS: [&str; 2] = ["postgres", "tillwire"];

/// A cluster's folder: `data`, `socket`, `server.log` and `hub.lock`.
#[derive(Debug)]
pub struct Place {
    pub dir: PathBuf,
    user: ServerUser,
}

/// Who the server runs as. PostgreSQL refuses to be root.
#[derive(Clone, Debug)]
pub enum ServerUser {
    Ourselves,
    Other(User),
}

impl Place {
    /// Opens the folder of the cluster `name`, making it when there is none.
    pub fn open(home: Option<&Path>, name: &str) -> Result<Place> {
        let named = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        ensure!(named, "`{name}` cannot name a cluster: use letters, digits, - and _");
        let home = home.map_or_else(default_home, |home| Ok(home.to_owned()))?;
        fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
        // Absolute and without links: the server's settings and its process are compared with it.
        let dir = fs::canonicalize(&home)?.join(name);
        let user = ServerUser::of(&dir.join("data"))?;
        // Root keeps the folder and its lock, and lets the server's user pass through to what is theirs.
        let mode = if matches!(user, ServerUser::Other(_)) { 0o711 } else { 0o700 };
        if !dir.exists() {
            DirBuilder::new().mode(mode).create(&dir).with_context(|| format!("creating {}", dir.display()))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode))?; // Whatever the umask is.
        }
        Ok(Place { dir, user })
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    pub fn user(&self) -> &ServerUser {
        &self.user
    }

    /// Claims the cluster for this process, until the returned file is closed.
    pub fn lock(&self) -> Result<File> {
        let path = self.dir.join("hub.lock");
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                bail!("another Tillwire (process {}) already uses {}", holder.trim(), self.dir.display());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
        file.set_len(0)?;
        writeln!(file, "{}", process::id())?; // For the message above; the lock itself is the kernel's.
        Ok(file)
    }

    /// A short folder that only the server's user can enter.
    pub fn socket_dir(&self) -> Result<PathBuf> {
        let usual = self.dir.join("socket");
        let path = usual.to_string_lossy();
        // The setting that names it is a list, in which commas, quotes and spaces mean something.
        if path.len() <= SOCKET_DIR_BYTES_MAX && !path.contains([',', '"', '\'', ' ']) {
            if !usual.exists() {
                self.make_private_dir(&usual)?;
            }
            return Ok(usual);
        }
        // A new one at each start, so that nobody can have prepared it; the server's own file tells an adopter where.
        let short = PathBuf::from(format!("/tmp/tillwire-{}", random_name()?));
        self.make_private_dir(&short)?;
        Ok(short)
    }

    pub fn make_private_dir(&self, dir: &Path) -> Result<()> {
        DirBuilder::new().mode(0o700).create(dir).with_context(|| format!("creating {}", dir.display()))?;
        if let ServerUser::Other(user) = &self.user {
            chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        Ok(())
    }

    /// An empty log; the one of the run before stays beside it and the one before that goes, which bounds them.
    pub fn fresh_log(&self) -> Result<File> {
        let log = self.log();
        if log.exists() {
            fs::rename(&log, self.dir.join("server.log.1"))?;
        }
        Ok(OpenOptions::new().append(true).create_new(true).open(log)?)
    }
}

impl ServerUser {
    fn of(data: &Path) -> Result<ServerUser> {
        if !Uid::effective().is_root() {
            return Ok(ServerUser::Ourselves);
        }
        if let Ok(metadata) = fs::metadata(data) {
            let owner = User::from_uid(Uid::from_raw(metadata.uid()))?.filter(|user| !user.uid.is_root());
            return owner
                .map(ServerUser::Other)
                .with_context(|| format!("{} belongs to no unprivileged user", data.display()));
        }
        let existing = || SERVER_USERS.iter().find_map(|name| User::from_name(name).ok().flatten());
        if let Some(user) = existing() {
            return Ok(ServerUser::Other(user));
        }
        let mut useradd = Command::new("useradd");
        useradd.args(["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", "tillwire"]);
        let added = useradd.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success());
        let user = existing().filter(|_| added);
        user.map(ServerUser::Other)
            .context("PostgreSQL refuses to run as root: add a user named `tillwire`, or run without root")
    }

    /// Makes the command run as this user, without root's groups.
    pub fn runs(&self, command: &mut Command) {
        if let ServerUser::Other(user) = self {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).env("HOME", &user.dir);
        }
    }
}

fn default_home() -> Result<PathBuf> {
    if Uid::effective().is_root() {
        return Ok("/var/lib/tillwire".into());
    }
    folder_of_user("XDG_DATA_HOME", ".local/share")
}

/// `tillwire` in one of the folders that a user keeps for programs.
pub fn folder_of_user(variable: &str, in_home: &str) -> Result<PathBuf> {
    let named = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = named.or_else(|| env::home_dir().map(|home| home.join(in_home)));
    Ok(base.context("found no home directory: set HOME")?.join("tillwire"))
}

fn random_name() -> Result<String> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
