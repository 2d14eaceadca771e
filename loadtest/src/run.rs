//! A run's own folder: everything that it starts works in there, and ends with it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use tokio::sync::OnceCell;

/// Waits for the kernel to close our end of a pipe, however we end, and then ends every process that works in the folder.
/// PostgreSQL is asked first to remove its shared memory, which is not in the folder.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
cat >/dev/null
for file in $(find "$1" -name postmaster.pid); do
    kill -CONT "$(head -n 1 "$file")"
    kill -QUIT "$(head -n 1 "$file")"
done
sleep 0.3
for round in 1 2 3 4 5 6 7 8 9 10; do
    found=no
    for process in /proc/[0-9]*; do
        case $(readlink "$process/cwd") in
            "$1" | "$1"/*) kill -KILL "${process#/proc/}" && found=yes ;;
        esac
    done
    [ "$found" = no ] && break
    sleep 0.1
done
rm -rf "$1"
"#;

pub struct Run {
    pub dir: PathBuf,
    /// The hub to measure, and the providers' simulators: as they were named, or as soon as they are compiled.
    pub tillwire: OnceCell<PathBuf>,
    pub simulators: OnceCell<PathBuf>,
    /// How many screens a second it lets in; 0 for all.
    pub handshakes_per_second: u32,
    /// INVARIANT: its standard input closes when this process ends, and not before.
    watchdog: Child,
}

/// Programs that need not be compiled.
#[derive(Default)]
pub struct Named<'a> {
    pub tillwire: Option<&'a Path>,
    pub simulators: Option<&'a Path>,
}

impl Run {
    pub fn begin(named: Named<'_>, handshakes_per_second: u32) -> Result<Self> {
        let tillwire = found(named.tillwire, "--tillwire")?;
        let simulators = found(named.simulators, "--simulators")?;
        let name =
            format!("tillwire-loadtest-{}-{}", std::process::id(), &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let dir = std::env::temp_dir().join(name);
        make_dir(&dir)?;
        let dir = fs::canonicalize(dir)?;
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(&dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C is for us; the watchdog has work to do then.
            .spawn()
            .context("starting the watchdog")?;
        Ok(Self { dir, tillwire, simulators, handshakes_per_second, watchdog })
    }

    /// A new folder in it.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(format!("{name}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]));
        make_dir(&dir)?;
        Ok(dir)
    }

    /// Ends what is left and waits for it.
    pub fn end(mut self) -> Result<()> {
        drop(self.watchdog.stdin.take());
        self.watchdog.wait().context("waiting for the watchdog")?;
        Ok(())
    }
}

fn found(named: Option<&Path>, option: &str) -> Result<OnceCell<PathBuf>> {
    let path = named.map(|it| fs::canonicalize(it).with_context(|| format!("finding {} ({option})", it.display())));
    Ok(OnceCell::new_with(path.transpose()?))
}

/// Others may pass through, but not look around: PostgreSQL is somebody else when we are root.
fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir(dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?)
}

/// A port of the loopback address that nobody listens on now, and that no other caller in this process is given.
pub fn free_port() -> Result<u16> {
    tillwire_nemesis::free_port().context("no port is free")
}
