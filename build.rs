//! Fetches the stock Socket.IO client that the live page runs: the npm package whose hash stands in
//! `web/package-lock.json`. Once it is there, builds need no network.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// The package as it is published, for browsers that know modules.
const CLIENT: &str = "node_modules/socket.io-client/dist/socket.io.esm.min.js";
/// How much of what npm says is passed on: its first lines say what is wrong, and stack traces follow.
const NPM_LINES_MAX: usize = 4;
const MANIFESTS: [&str; 2] = ["package.json", "package-lock.json"];

fn main() {
    for manifest in MANIFESTS {
        println!("cargo::rerun-if-changed=web/{manifest}");
    }
    // `sqlx::migrate!` notices changed files, but not a new one.
    println!("cargo::rerun-if-changed=migrations");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names the folder for what a build script makes"));
    if let Err(what_to_do) = fetch(&out.join("web")) {
        println!("cargo::error={what_to_do}");
    }
}

fn fetch(folder: &Path) -> Result<(), String> {
    let copied = fs::create_dir_all(folder).and_then(|()| {
        MANIFESTS.iter().try_for_each(|file| fs::copy(Path::new("web").join(file), folder.join(file)).map(drop))
    });
    copied.map_err(|error| format!("copying web/package*.json to {}: {error}", folder.display()))?;
    // No script of a package runs here, and a cache that has the packages is enough.
    let npm = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"])
        .current_dir(folder)
        .output();
    match npm {
        Ok(output) if output.status.success() && folder.join(CLIENT).is_file() => Ok(()),
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let error = stderr.lines().filter_map(|line| line.split_once("npm error").or(line.split_once("npm ERR!")));
            let said: Vec<&str> = error.map(|(_, said)| said.trim()).take(NPM_LINES_MAX).collect();
            let said = said.join(" · ");
            Err(format!("`npm ci` could not fetch the live page's client; give it a registry and build again: {said}"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("npm is missing, which fetches the live page's client: install Node.js 18 or newer and build again"
                .to_owned())
        }
        Err(error) => Err(format!("running npm, which fetches the live page's client: {error}")),
    }
}
