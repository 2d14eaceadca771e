//! The nodes' own keys, which data keys are sealed with: 32 bytes in base64, a line each, in a file or a variable. The first
//! seals and all open, so that one can be changed for another.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};
use tillwire_channels::MerchantId;
use uuid::Uuid;

use super::sealed::{Cipher, KEY_BYTES, Place};

/// The most keys that a node is given.
pub const KEYS_MAX: usize = 16;
/// The longest file of keys that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024;
/// Who may not: anybody else may not read it, and the group not write it.
const MODE_REFUSED: u32 = 0o027;
/// What an id is the beginning of the hash of.
const NAMING: &[u8] = b"tillwire vault key";
const ID_BYTES: usize = 8;
/// Marks the demo's key file. Lines that begin so are comments.
const DEMO_MARK: &str = "# tillwire demo key";

/// Where the keys are.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub files: Vec<PathBuf>,
    /// The keys themselves, where they are in no file.
    pub keys: Vec<SecretString>,
}

/// The keys that a node has: perhaps none.
#[derive(Default)]
pub struct VaultKeys {
    keys: Vec<VaultKey>,
    is_demo: bool,
}

/// One of them.
pub struct VaultKey {
    /// Sixteen hexadecimal digits, the beginning of a hash: no secret.
    pub id: String,
    cipher: Cipher,
}

impl fmt::Debug for VaultKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

impl VaultKeys {
    /// Reads them.
    ///
    /// # Errors
    /// If there is a file that cannot be read, that others may read, or in which a line is no key. No message has anything
    /// of a key in it.
    pub fn open(source: &Source) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for path in &source.files {
            let text = read(path)?;
            all.is_demo |= text.starts_with(DEMO_MARK);
            let before = all.keys.len();
            for (at, line) in text.lines().map(str::trim).enumerate() {
                if !line.is_empty() && !line.starts_with('#') {
                    let key = VaultKey::parse(line);
                    let key =
                        key.with_context(|| format!("line {} of the vault key file {}", at + 1, path.display()))?;
                    all.keys.push(key);
                }
            }
            ensure!(all.keys.len() > before, "the vault key file {} has no key in it", path.display());
        }
        for (at, text) in source.keys.iter().enumerate() {
            let key = VaultKey::parse(text.expose_secret().trim());
            all.keys.push(key.with_context(|| format!("number {} of the vault keys", at + 1))?);
        }
        ensure!(all.keys.len() <= KEYS_MAX, "a node has {KEYS_MAX} vault keys at most");
        let mut ids: Vec<&str> = all.ids().collect();
        ids.sort_unstable();
        let twice = ids.windows(2).find(|two| two[0] == two[1]).map(|two| two[0]);
        ensure!(twice.is_none(), "the vault key {} is given twice", twice.unwrap_or_default());
        Ok(all)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether any of them is the demo's, which is lying in a data directory unprotected.
    pub fn is_demo(&self) -> bool {
        self.is_demo
    }

    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.id.as_str())
    }

    /// The one that seals.
    pub fn first(&self) -> Option<&VaultKey> {
        self.keys.first()
    }

    pub fn find(&self, id: &str) -> Option<&VaultKey> {
        self.keys.iter().find(|key| key.id == id)
    }
}

impl VaultKey {
    fn parse(text: &str) -> anyhow::Result<Self> {
        // The decoder's own words would repeat what it stumbled over.
        let bytes = BASE64_STANDARD.decode(text).ok().map(Zeroizing::new);
        let bytes = bytes.filter(|bytes| bytes.len() == KEY_BYTES);
        let bytes = bytes.with_context(|| format!("this is not base64 of {KEY_BYTES} bytes"))?;
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), NAMING);
        let id = tag.as_ref().iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { id, cipher: Cipher::new(&bytes)? })
    }

    /// Seals a merchant's data key.
    pub(super) fn seal(&self, merchant: MerchantId, key: Uuid, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.cipher.seal(merchant, key, place(&[key]), bytes)
    }

    /// Opens a merchant's data key.
    pub(super) fn open(&self, merchant: MerchantId, key: Uuid, sealed: &[u8]) -> anyhow::Result<DataKeyBytes> {
        self.cipher.open(merchant, key, place(&[key]), sealed)
    }
}

pub(super) type DataKeyBytes = secrecy::SecretSlice<u8>;

fn place(row: &[Uuid]) -> Place<'_> {
    Place { table: "data_keys", column: "sealed", row }
}

fn read(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let reading = || format!("reading the vault key file {}", path.display());
    let file = File::open(path).with_context(reading)?;
    let mode = file.metadata().with_context(reading)?.mode() & 0o777;
    ensure!(
        mode & MODE_REFUSED == 0,
        "others may read the vault key file {}, or its group may write it (mode {mode:04o}): chmod 400 it",
        path.display()
    );
    // In one piece: a text that grows leaves parts of itself behind.
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize + 1));
    let length = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).with_context(reading)?;
    ensure!(length as u64 <= FILE_BYTES_MAX, "{} is too long for a vault key file", path.display());
    Ok(text)
}

/// Writes a new key, readable by its owner only. An existing file is never overwritten.
pub fn write_new_key(path: &Path, for_demo: bool) -> anyhow::Result<()> {
    let mut bytes = Zeroizing::new([0_u8; KEY_BYTES]);
    aws_lc_rs::rand::fill(bytes.as_mut_slice()).ok().context("no randomness")?;
    let body = Zeroizing::new(BASE64_STANDARD.encode(bytes.as_slice()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("writing a new vault key to {}", path.display()))?;
    if for_demo {
        writeln!(file, "{DEMO_MARK}: refused by every other role")?;
    }
    writeln!(file, "{}", *body)?;
    file.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(text: &str, mode: u32) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tillwire-vault-{}", Uuid::new_v4()));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn of(files: Vec<PathBuf>) -> anyhow::Result<VaultKeys> {
        let opened = VaultKeys::open(&Source { files: files.clone(), keys: Vec::new() });
        files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
        opened
    }

    fn text(byte: u8) -> String {
        BASE64_STANDARD.encode([byte; KEY_BYTES])
    }

    #[test]
    fn a_new_key_is_its_owners_alone_and_never_written_twice() {
        let path = std::env::temp_dir().join(format!("tillwire-vault-{}", Uuid::new_v4()));
        write_new_key(&path, false).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(write_new_key(&path, false).is_err());
        let keys = of(vec![path.clone()]).unwrap();
        assert_eq!((keys.ids().count(), keys.is_demo()), (1, false));
        write_new_key(&path, true).unwrap();
        let demo = of(vec![path]).unwrap();
        assert!(demo.is_demo() && demo.ids().next() != keys.ids().next());
    }

    #[test]
    fn the_first_seals_and_each_opens_its_own() {
        let one = file(&format!("# of autumn\n\n{}\n", text(1)), 0o400);
        let two = file(&format!("{}\n{}\n", text(2), text(3)), 0o640);
        let keys = of(vec![one, two]).unwrap();
        assert_eq!(keys.ids().count(), 3);
        let given = Source { files: Vec::new(), keys: vec![text(2).into(), text(1).into()] };
        let other = VaultKeys::open(&given).unwrap();
        let (merchant, key) = (MerchantId::new(), Uuid::new_v4());
        let sealed = keys.first().unwrap().seal(merchant, key, b"a data key").unwrap();
        assert_ne!(keys.first().unwrap().id, other.first().unwrap().id);
        let same = other.find(&keys.first().unwrap().id).unwrap();
        assert_eq!(same.open(merchant, key, &sealed).unwrap().expose_secret(), b"a data key");
        assert!(other.first().unwrap().open(merchant, key, &sealed).is_err());
        assert!(
            same.open(MerchantId::new(), key, &sealed).is_err()
                && same.open(merchant, Uuid::new_v4(), &sealed).is_err()
        );
        assert!(VaultKeys::default().is_empty() && other.find("0123456789abcdef").is_none());
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        let secret = text(9);
        for (content, mode) in [
            (secret.clone(), 0o644),
            (secret.clone(), 0o620),
            (format!("{secret}\n{secret}"), 0o600),
            (secret[1..].to_owned(), 0o600),
            (format!("{}\n{secret} {secret}", text(8)), 0o600),
            ("# nothing".to_owned(), 0o600),
            (String::new(), 0o600),
            (format!("{secret}\n").repeat(200), 0o600),
        ] {
            let error = format!("{:#}", of(vec![file(&content, mode)]).unwrap_err());
            assert!(error.contains("vault key") && !error.contains(&secret[2..10]), "{error}");
        }
        let given = Source { files: Vec::new(), keys: vec![secret[4..].into()] };
        let error = format!("{:#} {given:?}", VaultKeys::open(&given).unwrap_err());
        assert!(error.contains("number 1") && !error.contains(&secret[4..12]), "{error}");
        assert!(VaultKeys::open(&Source { files: vec!["/no/such/file".into()], keys: Vec::new() }).is_err());
    }
}
