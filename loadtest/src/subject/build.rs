//! What has to be compiled or installed before a subject can run: the hub beside this tool, the peers on first use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use crate::run::Run;

const NODE_PEERS: [&str; 6] =
    ["package.json", "package-lock.json", "lines.mjs", "node-socketio.mjs", "bun-socketio.mjs", "node-app.mjs"];

const STOCK_CLIENTS: [&str; 3] = ["package.json", "package-lock.json", "screen.mjs"];

/// The hub: the one that was named, or else compiled as this tool was. Once a command, so that all runs are of the same.
pub async fn tillwire(run: &Run) -> Result<PathBuf> {
    run.tillwire.get_or_try_init(|| beside("tillwire")).await.cloned()
}

/// The payment providers, likewise.
pub async fn simulators(run: &Run) -> Result<PathBuf> {
    run.simulators.get_or_try_init(|| beside("tillwire-simulators")).await.cloned()
}

/// Compiles the program of one of the workspace's packages as this tool was, beside it.
async fn beside(package: &str) -> Result<PathBuf> {
    let bin = bin()?;
    let profile = match bin.file_name().and_then(|name| name.to_str()).context("a folder of cargo's")? {
        "debug" => "dev",
        other => other,
    };
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--locked", "--package", package, "--bin", package, "--profile", profile, "--target-dir"]);
    compile(cargo.arg(target()?).env("SQLX_OFFLINE", "true").current_dir(sources().join(".."))).await?;
    Ok(bin.join(package))
}

/// The socketioxide peer, a crate that the workspace does not know.
pub async fn socketioxide() -> Result<PathBuf> {
    let target = target()?.join("peers");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--locked", "--release", "--target-dir"]).arg(&target);
    compile(cargo.current_dir(sources().join("peers/socketioxide"))).await?;
    Ok(target.join("release/tillwire-loadtest-socketioxide"))
}

/// The folder with the peers in JavaScript and their packages.
pub async fn node_peers() -> Result<PathBuf> {
    let (from, to) = (sources().join("peers/node"), target()?.join("peers/node"));
    install(&from, &to, &NODE_PEERS).await
}

/// Copies programs, and installs the packages that they need unless that is done.
async fn install(from: &Path, to: &Path, files: &[&str]) -> Result<PathBuf> {
    fs::create_dir_all(to)?;
    let lock = fs::read(from.join("package-lock.json"))?;
    let installed = to.join("installed");
    for name in files {
        fs::copy(from.join(name), to.join(name)).with_context(|| format!("copying {name}"))?;
    }
    if fs::read(&installed).ok().as_ref() != Some(&lock) {
        let npm = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"];
        compile(Command::new("npm").args(npm).current_dir(to)).await?;
        fs::write(&installed, &lock)?;
    }
    Ok(to.to_owned())
}

/// A folder with the stock client that the hub's tests use, and its package.
pub async fn stock_clients() -> Result<PathBuf> {
    let (from, to) = (sources().join("../tests/clients"), target()?.join("stock-clients"));
    install(&from, &to, &STOCK_CLIENTS).await
}

/// The program of Bun, from the package for this kind of machine: what npm calls `bun` becomes one only by a script of
/// its own, which is not run.
pub fn bun(peers: &Path) -> Result<PathBuf> {
    let packages = fs::read_dir(peers.join("node_modules/@oven")).context("Bun has no package for this machine")?;
    let programs = packages.flatten().map(|package| package.path().join("bin/bun"));
    programs.into_iter().find(|program| program.exists()).context("Bun's package holds no program")
}

/// It says itself what it does, for that may take minutes.
async fn compile(command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().await.with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn sources() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo put this tool.
fn bin() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.parent().context("a program in a folder")?.to_owned())
}

fn target() -> Result<PathBuf> {
    Ok(bin()?.parent().context("a target folder")?.to_owned())
}
